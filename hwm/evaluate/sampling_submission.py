"""Submission of the sampling track: a flat zip of `{id}.png`, RGB, one a test sample, written as a stream and read again.

Official: ids 0..249, 512x512 (reference B.4, after the Humanoid World Models' code).  The README.txt of the compression
track is likely asked for here as well but not confirmed: it may be there or not.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from hwm.data.files import atomic_path
from hwm.evaluate.submission import MAX_README_BYTES, check_readme, entry, parse_readme
from hwm.safe_load.archives import opened_zip, read_member
from hwm.safe_load.paths import shown
from hwm.safe_load.pictures import parse_png

IDS = range(250)
SIZE = (512, 512)
"""Height and width in pixels."""
README = "README.txt"
MAX_OVERHEAD = 65_536
"""Bytes that a PNG may have beyond its pixels: headers, and what does not compress."""


@dataclass(frozen=True)
class SamplingSubmission:
    """What a valid submission holds.  num_bytes: size of the zip.  readme: None where there is none."""

    num_samples: int
    num_bytes: int
    readme: dict[str, str] | None


def write_sampling_submission(
    path: str | Path,
    samples: Iterable[tuple[int, np.ndarray]],
    readme: dict[str, str] | None,
    *,
    ids: Sequence[int] = IDS,
    size: tuple[int, int] = SIZE,
    progress: Callable[[int, int], None] | None = None,
    poll: Callable[[], None] = lambda: None,
) -> SamplingSubmission:
    """Write the zip one picture at a time, read it again and only then give it its name; the same pictures, the same bytes.

    samples: (id, uint8 RGB picture (H, W, 3)) for every one of `ids`, in any order.  size: height and width of all.
    readme: `submission.README_KEYS`, all filled in; None writes none.  progress: called with pictures written and in all.
    poll: called between pictures; may raise, and then there is no file.
    Raises ValueError in one line for anything else, and then leaves no file behind.
    """
    path = Path(path)
    readme = None if readme is None else check_readme(readme, path)
    wanted, written = set(ids), set()
    with atomic_path(path) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            if readme is not None:
                archive.writestr(entry(README), json.dumps(readme, indent=2, ensure_ascii=False) + "\n")
            for number, frame_HWC in samples:
                poll()
                where = f"{path.name}: sample {number}"
                if number in written or number not in wanted:
                    fault = "is given twice" if number in written else "is not in the test set"
                    raise ValueError(f"{where} {fault}; give every test sample once")
                if frame_HWC.dtype != np.uint8 or frame_HWC.shape != (*size, 3):
                    raise ValueError(f"{where}: expected a uint8 picture {(*size, 3)}, got {frame_HWC.dtype} {frame_HWC.shape}")
                content = io.BytesIO()
                Image.fromarray(frame_HWC).save(content, "PNG")
                archive.writestr(entry(f"{number}.png"), content.getvalue())
                written.add(number)
                if progress is not None:
                    progress(len(written), len(wanted))
        if written != wanted:
            first = min(wanted - written)
            raise ValueError(f"{path.name}: {len(written)} of {len(wanted)} samples, the first missing is {first}")
        summary = check_sampling_submission(temporary, ids=ids, size=size, poll=poll)
    return summary


def check_sampling_submission(
    path: str | Path,
    *,
    ids: Sequence[int] = IDS,
    size: tuple[int, int] = SIZE,
    poll: Callable[[], None] = lambda: None,
) -> SamplingSubmission:
    """Read every byte of a submission and check it against the rules; nothing in it is executed.

    Sizes are compared before anything is unpacked.
    Raises ValueError in one line naming the member, what is expected and what was found.
    """
    path = Path(path)
    with opened_zip(path, remedy="write it again") as archive:
        names = archive.namelist()
        wanted = {f"{number}.png" for number in ids}
        wrong = sorted(set(names) - {README} ^ wanted) or sorted({n for n in names if names.count(n) > 1})
        if wrong:
            fault = "is missing" if wrong[0] not in names else "does not belong there or is double"
            raise ValueError(f"{path}: expected {min(ids)}.png..{max(ids)}.png, {len(wanted)} of them; {shown(wrong[0])} {fault}")
        readme = None
        if README in names:
            readme = check_readme(parse_readme(read_member(archive, README, MAX_README_BYTES), path), path)
        for number in ids:
            poll()
            _check_picture(archive, f"{number}.png", size, path)
    return SamplingSubmission(len(wanted), path.stat().st_size, readme)


def _check_picture(archive: zipfile.ZipFile, name: str, size: tuple[int, int], path: Path) -> None:
    content = read_member(archive, name, 2 * 3 * size[0] * size[1] + MAX_OVERHEAD)
    parse_png(content, size=size, where=f"{path}: {name}")
