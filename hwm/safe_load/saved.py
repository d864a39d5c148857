"""Files of torch.save, through torch's restricted unpickler: the only call of torch.load in the package."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path

import torch

from hwm.safe_load.archives import check_members, opened_zip
from hwm.safe_load.paths import shown

AGAIN = "cut off, a TorchScript program or another format: fetch it again"


def unpickle(source: Path | io.BytesIO, *, where: str | Path, num_bytes: int) -> object:
    """What torch's restricted unpickler makes of a file of torch.save, of `num_bytes`: tensors and plain containers.

    A zip is first held against its checksums, and must not unpack to more than it is.  where: begins messages.
    Raises ValueError for anything else.
    """
    with source.open("rb") if isinstance(source, Path) else source as file:
        zipped = file.read(4) == b"PK\x03\x04"
        file.seek(0)
        if zipped:
            content = source if isinstance(source, Path) else file.read()
            with opened_zip(content, where=f"{where}: not a file of tensors made by torch.save", remedy=AGAIN) as archive:
                check_members(archive, where=where, max_bytes=num_bytes + 2**20)
            file.seek(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a hostile file can raise anything
            if name := re.search(r"GLOBAL (\S+)", str(error)):
                raise ValueError(
                    f"{where}: refused: it asks for the Python object {shown(name[1])}, so opening it could run code; "
                    "expected nothing but tensors, get the weights as safetensors or from a source you trust"
                ) from None
            reason = first_line(error)
            raise ValueError(f"{where}: not a file of tensors made by torch.save ({reason}); it may be {AGAIN}") from None


def first_line(error: Exception) -> str:
    """One line of what a library has to say, at most 120 characters."""
    # What torch's restricted unpickler has to say stands behind its advice to use the unrestricted one.
    lines = str(error).rpartition("WeightsUnpickler error:")[2].strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__
