"""Pictures of known size: format and size are compared before a pixel is unpacked."""

from __future__ import annotations

import io
import warnings
import zlib

import numpy as np
from PIL import Image


def parse_png(content: bytes, *, size: tuple[int, int], where: str) -> np.ndarray:
    """The pixels of an RGB PNG in memory, uint8 (height, width, 3).

    size: height and width that it must have.  where: begins messages.
    Raises ValueError for another format, mode or size, an animation, and what is not whole.
    """
    expected = f"RGB {size[0]}x{size[1]}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
                if (picture.mode, (picture.height, picture.width)) != ("RGB", tuple(size)):
                    raise _OtherError(f"expected {expected}, got {picture.mode} {picture.height}x{picture.width}")
                if getattr(picture, "n_frames", 1) != 1:
                    raise _OtherError("expected one picture, got an animation")
                picture.load()
                return np.asarray(picture)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"{where}: expected {expected}, got a picture of too many pixels") from None
    except _OtherError as error:
        raise ValueError(f"{where}: {error}") from None
    except (OSError, SyntaxError, ValueError, zlib.error, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{where}: not a whole PNG ({reason})") from None


class _OtherError(Exception):
    pass
