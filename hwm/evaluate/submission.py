"""Submissions to the challenge: the zip that each track asks for, written as a stream and read again before it has its name.

compression  README.txt, a JSON object, and for each of 450 samples `ID.npz` with the 500 largest logits of every future token
             (reference B.2, after the challenge's own validator; order, uniqueness and finiteness are checked in addition).
sampling     `ID.png`, RGB, 512x512, for each of 250 samples (reference B.4, after the Humanoid World Models' code).  The
             README.txt is likely asked for here as well but not confirmed: it may be there or not.
"""

import io
import json
import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hwm.contracts import Sampling, WorldModel
from hwm.predict.rollout import Dream
from hwm.safe_load.archives import opened_zip, read_member
from hwm.safe_load.arrays import parse_npy, parse_png
from hwm.safe_load.paths import shown
from hwm.safe_load.text import parse_json
from hwm.work.files import atomic_path

README, README_KEYS = "README.txt", ("method", "team", "authors", "e-mail", "institution", "country")
NUM_SAMPLES, SHAPE, VOCAB_SIZE = 450, (3, 32, 32, 500), 64000
IDS, SIZE = range(250), (512, 512)
"""Of the sampling track: numbers of the samples, height and width of a picture in pixels."""
MAX_README_BYTES = 100_000
HEADER_BYTES = 4096
"""Room for the headers of an .npy or .npz beyond its numbers."""
MAX_OVERHEAD = 65_536
"""Bytes that a PNG may have beyond its pixels: headers, and what does not compress."""


@dataclass(frozen=True)
class Submission:
    """What a valid submission holds.  num_bytes: size of the zip.  readme: None where there is none."""

    num_samples: int
    num_bytes: int
    readme: dict[str, str] | None


def write_compression_submission(
    path: str | Path, samples: Iterable[tuple[int, Any, Any]], readme: dict[str, str], *, num_samples: int = NUM_SAMPLES,
    shape: tuple[int, ...] = SHAPE, vocab_size: int = VOCAB_SIZE,
    progress: Callable[[int, int], None] | None = None, poll: Callable[[], None] = lambda: None,
) -> Submission:  # fmt: skip
    """Write the zip one sample at a time, read it again and only then give it its name.

    samples: (id, indices, values) for ids 0..num_samples-1 in any order; indices: integers of `shape` in
    [0, vocab_size), unique along the last axis; values: floats of `shape`, logits or log-probabilities, descending.
    readme: `README_KEYS`, all filled in.
    progress: called with samples written and in all.  poll: called between samples; may raise, and then there is no file.
    Raises ValueError in one line for anything else, and then leaves no file behind.
    """

    def member(where: str, indices: Any, values: Any) -> bytes:
        found = _check_arrays(np.asarray(indices), np.asarray(values), shape, vocab_size, where)
        content = io.BytesIO()
        np.savez(content, indices=found[0], values=found[1])
        return content.getvalue()

    form: dict[str, Any] = {"num_samples": num_samples, "shape": shape, "vocab_size": vocab_size}
    check, outside = partial(validate_compression_submission, **form, poll=poll), f"is outside 0..{num_samples - 1}"
    return _write(path, samples, readme, range(num_samples), "npz", member, check, outside=outside, progress=progress, poll=poll)


def write_sampling_submission(
    path: str | Path, samples: Iterable[tuple[int, np.ndarray]], readme: dict[str, str] | None, *, ids: Sequence[int] = IDS,
    size: tuple[int, int] = SIZE, poll: Callable[[], None] = lambda: None,
) -> Submission:  # fmt: skip
    """Write the zip one picture at a time, read it again and only then give it its name; the same pictures, the same bytes.

    samples: (id, uint8 RGB picture (H, W, 3)) for every one of `ids`, in any order.  size: height and width of all.
    readme: `README_KEYS`, all filled in; None writes none.  poll: called between pictures; may raise, and then there is no file.
    Raises ValueError in one line for anything else, and then leaves no file behind.
    """

    def member(where: str, frame_HWC: np.ndarray) -> bytes:
        if frame_HWC.dtype != np.uint8 or frame_HWC.shape != (*size, 3):
            raise ValueError(f"{where}: expected a uint8 picture {(*size, 3)}, got {frame_HWC.dtype} {frame_HWC.shape}")
        content = io.BytesIO()
        Image.fromarray(frame_HWC).save(content, "PNG")
        return content.getvalue()

    check = partial(check_sampling_submission, ids=ids, size=size, poll=poll)
    return _write(path, samples, readme, ids, "png", member, check, outside="is not in the test set", poll=poll)


def _write(
    path: str | Path, samples: Iterable[tuple[Any, ...]], readme: dict[str, str] | None, ids: Sequence[int], suffix: str,
    member: Callable[..., bytes], check: Callable[[Path], Submission], *, outside: str,
    poll: Callable[[], None], progress: Callable[[int, int], None] | None = None,
) -> Submission:  # fmt: skip
    path = Path(path)
    readme = None if readme is None else check_readme(readme, path)
    wanted, written = set(ids), set()
    with atomic_path(path) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            if readme is not None:
                archive.writestr(_entry(README), json.dumps(readme, indent=2, ensure_ascii=False) + "\n")
            for number, *content in samples:
                poll()
                where = f"{path.name}: sample {number}"
                if number in written or number not in wanted:
                    fault = "is given twice" if number in written else outside
                    raise ValueError(f"{where} {fault}; give every test sample once")
                archive.writestr(_entry(f"{number}.{suffix}"), member(where, *content))
                written.add(number)
                if progress is not None:
                    progress(len(written), len(wanted))
        if written != wanted:
            first = min(wanted - written)
            raise ValueError(f"{path.name}: {len(written)} of {len(wanted)} samples, the first missing is {first}")
        return check(temporary)


def _entry(name: str) -> zipfile.ZipInfo:
    """A member with a fixed date, so that the same predictions give the same file."""
    return zipfile.ZipInfo(name, date_time=(2025, 1, 1, 0, 0, 0))


def validate_compression_submission(
    path: str | Path, *, num_samples: int = NUM_SAMPLES, shape: tuple[int, ...] = SHAPE, vocab_size: int = VOCAB_SIZE,
    poll: Callable[[], None] = lambda: None,
) -> Submission:  # fmt: skip
    """Read every byte of a submission and check it against the rules; nothing in it is executed.

    Raises ValueError in one line naming the member, what is expected and what was found.
    """
    path = Path(path)
    with opened_zip(path, remedy="write it again") as archive:
        wanted = {README, *(f"{i}.npz" for i in range(num_samples))}
        readme = _check_members(archive, wanted, f"{README} and 0.npz..{num_samples - 1}.npz", path)
        for number in range(num_samples):
            poll()
            _check_sample(archive, number, shape, vocab_size, path)
    return Submission(num_samples, path.stat().st_size, readme)


def check_sampling_submission(
    path: str | Path, *, ids: Sequence[int] = IDS, size: tuple[int, int] = SIZE, poll: Callable[[], None] = lambda: None,
) -> Submission:  # fmt: skip
    """Read every byte of a submission and check it against the rules; nothing in it is executed.

    Sizes are compared before anything is unpacked.
    Raises ValueError in one line naming the member, what is expected and what was found.
    """
    path = Path(path)
    with opened_zip(path, remedy="write it again") as archive:
        wanted = {f"{number}.png" for number in ids}
        meaning = f"{min(ids)}.png..{max(ids)}.png, {len(wanted)} of them"
        readme = _check_members(archive, wanted | {README} & {*archive.namelist()}, meaning, path)
        for number in ids:
            poll()
            content = read_member(archive, f"{number}.png", 2 * 3 * size[0] * size[1] + MAX_OVERHEAD)
            parse_png(content, size=size, where=f"{path}: {number}.png")
    return Submission(len(wanted), path.stat().st_size, readme)


def _check_members(archive: zipfile.ZipFile, wanted: set[str], meaning: str, path: Path) -> dict[str, str] | None:
    """The README, where one is wanted, after checking that what is wanted is there, once, and nothing else."""
    names = archive.namelist()
    wrong = sorted(set(names) ^ wanted) or sorted({n for n in names if names.count(n) > 1})
    if wrong:
        fault = "is missing" if wrong[0] not in names else "does not belong there or is double"
        raise ValueError(f"{path}: expected {meaning}; {shown(wrong[0])} {fault}")
    if README not in wanted:
        return None
    text = read_member(archive, README, MAX_README_BYTES)
    return check_readme(parse_json(text, where=f"{path}: {README}", remedy="write the submission again"), path)


def check_readme(readme: Any, path: Path) -> dict[str, str]:
    """The fields of a README in order.  Raises ValueError, naming `path` and the field, unless all are filled in."""
    if not isinstance(readme, dict) or set(readme) != set(README_KEYS):
        wrong = sorted(set(readme) ^ set(README_KEYS)) if isinstance(readme, dict) else [type(readme).__name__]
        raise ValueError(f"{path}: README.txt needs exactly the keys {', '.join(README_KEYS)}; look at {shown(wrong[0])!r}")
    for key, value in readme.items():
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{path}: README.txt key {key!r} must be a text that is not empty, got {shown(value)!r}")
    return {key: readme[key] for key in README_KEYS}


def _check_arrays(
    indices: np.ndarray, values: np.ndarray, shape: tuple[int, ...], vocab_size: int, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """The two arrays in the types of the challenge, or one line that says what is wrong with them."""
    if indices.shape != shape or values.shape != shape:
        raise ValueError(f"{where}: expected indices and values of shape {shape}, got {indices.shape}, {values.shape}")
    if indices.dtype.kind not in "iu" or values.dtype.kind != "f":
        raise ValueError(f"{where}: expected integer indices and float values, got {indices.dtype}, {values.dtype}")
    if indices.min() < 0 or indices.max() >= vocab_size:
        raise ValueError(f"{where}: indices must lie in [0, {vocab_size}), got {indices.min()}..{indices.max()}")
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"{where}: values must be finite in float32")
    if (np.diff(values, axis=-1) > 0).any():
        raise ValueError(f"{where}: values must be in descending order along the last axis")
    indices = indices.astype(np.int32)
    if (np.diff(np.sort(indices, axis=-1), axis=-1) == 0).any():
        raise ValueError(f"{where}: an index occurs twice for one token")
    return indices, values


def _check_sample(archive: zipfile.ZipFile, number: int, shape: tuple[int, ...], vocab_size: int, path: Path) -> None:
    where, num_bytes = f"{path}: {number}.npz", 4 * math.prod(shape)
    # Deflate can grow what does not compress a little; anything beyond is not this sample.
    content = read_member(archive, f"{number}.npz", 2 * (num_bytes + num_bytes // 1000 + HEADER_BYTES))
    arrays = {}
    with opened_zip(content, where=where, max_members=2, remedy="write it again") as inner:
        if sorted(inner.namelist()) != ["indices.npy", "values.npy"]:
            raise ValueError(f"{where}: expected the arrays indices and values, found {shown(sorted(inner.namelist())[:4])}")
        for key, dtype in (("indices", "int32"), ("values", "float32")):
            data = read_member(inner, f"{key}.npy", num_bytes + HEADER_BYTES, where=where)
            arrays[key] = parse_npy(data, shape=shape, dtype=dtype, where=f"{where}: {key}")
    _check_arrays(arrays["indices"], arrays["values"], shape, vocab_size, where)


@torch.no_grad()
def predict_samples(
    model: WorldModel, ids: Iterable[int], tokens_NTHW: Any, states_NFA: Any, *, top_k: int = 500, batch_size: int = 8,
    seed: int = 0, sampling: Sampling = Sampling(), device: torch.device | str = "cpu",  # noqa: B008
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:  # fmt: skip
    """The `top_k` largest logits of every future token of test samples, as `write_compression_submission` takes them.

    ids: numbers of the samples.  tokens_NTHW: their context grids.  states_NFA: their states, at least as many rows
    as the model reads.  The future is withheld, so the prediction is autoregressive along its own tokens.
    Raises ValueError for other shapes.
    """
    ids = list(ids)
    if states_NFA.shape[1] < model.num_states:
        raise ValueError(f"the model reads {model.num_states} state rows, the test set has {states_NFA.shape[1]}")
    dream = Dream(model, None, generator=torch.Generator(device=device).manual_seed(seed), sampling=sampling)
    for start in range(0, len(ids), batch_size):
        part = slice(start, start + batch_size)
        tokens = torch.as_tensor(np.asarray(tokens_NTHW[part], np.int64), device=device)
        states = torch.as_tensor(np.asarray(states_NFA[part], np.float32), device=device)
        seen, future = states.tensor_split([dream.context_frames], 1)
        dream.reset(tokens, seen)
        prediction = dream.step(future, top_k_logits=top_k).prediction
        indices, values = prediction.top_indices_BTHWK, prediction.top_values_BTHWK
        assert isinstance(indices, Tensor) and isinstance(values, Tensor)
        for number, i, v in zip(ids[part], indices.cpu().numpy(), values.float().cpu().numpy()):
            yield number, i.astype(np.int32), v
