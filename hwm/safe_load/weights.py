"""Weights from elsewhere: tensors by name come out, and nothing in a file is run.

Pickle files are programs in disguise; of those only what describes tensors is understood (`pickles`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from hwm.safe_load.paths import is_file, reading, reason, shown
from hwm.safe_load.pickles import MAX_DIMS
from hwm.safe_load.text import parse_json
from hwm.safe_load.torch_save import read_torch_save

SHOWN = 3
"""Keys named in a message."""
MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSORS = 50_000
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}
"""Types by their names in safetensors."""
EXACT = (torch.float32, torch.float16, torch.bfloat16)
"""Types whose values float32 holds without rounding."""


def load_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name, on the CPU: of a .safetensors file, or of a .pth or .pt file made by torch.save.

    A .pth or .pt may hold the dict itself or a dict with it under "state_dict"; whatever lies beside it is dropped.
    Raises ValueError, naming the file and the remedy, for anything but named dense tensors.
    """
    path = Path(path)
    if not is_file(path):
        raise ValueError(f"{shown(path)}: no such weight file; give the path of a .safetensors, .pth or .pt file")
    if path.suffix == ".safetensors":
        return load_safetensors(path)
    if path.suffix not in (".pth", ".pt"):
        found = path.suffix or "without suffix"
        raise ValueError(f"{path}: weight files are .safetensors, .pth or .pt, not {found}; save a model's state_dict()")
    return read_torch_save(path)


def load_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, in the types of the file.

    Raises ValueError, naming the file, where there is none, it is not whole, or its header lists too much.
    """
    path = Path(path)
    read_header(path)
    try:
        return load_file(path)
    except Exception as error:  # a hostile file can raise anything
        raise ValueError(f"{path}: not a whole safetensors file ({reason(error)}); fetch it again") from None


def read_header(path: str | Path) -> dict[str, tuple[torch.dtype | None, tuple[int, ...]]]:
    """Type and shape by name of what a safetensors file holds, by its header alone; None is a type that torch has not.

    Raises ValueError, naming the file, unless the header is of sane size and its tensors are the rest of the file exactly.
    """
    path = Path(path)
    if not is_file(path):
        raise ValueError(f"{shown(path)}: no such file; expected weights in the safetensors format")
    again = f"{path}: not a whole safetensors file"
    with reading(path), path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        rest = path.stat().st_size - 8 - size
        text = file.read(size) if rest >= 0 and 2 <= size <= MAX_HEADER_BYTES else b""
    if size < 2 or rest < 0:
        raise ValueError(f"{again} (too short for its header); fetch it again")
    if not text:
        raise ValueError(f"{again} (a header of {size} bytes, at most {MAX_HEADER_BYTES} are read); fetch it again")
    header = parse_json(text, where=again, remedy="fetch it again")
    if not isinstance(header, dict):
        raise ValueError(f"{again} (its header is no JSON object); fetch it again")
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        listed = f"lists {len(header)} tensors, {_some(list(header))}, at most {MAX_TENSORS} are read"
        raise ValueError(f"{again} (its header {listed}); fetch the weights of the model that you want")
    found, places = {}, []
    for name, entry in header.items():
        shape, place = (_numbers(entry, key) for key in ("shape", "data_offsets"))
        if shape is None or place is None or len(place) != 2 or math.prod(n or 1 for n in shape) > 2**48:
            raise ValueError(f"{again} ({shown(name)} has no shape and place); fetch it again")
        dtype = DTYPES.get(str(entry.get("dtype")))
        if dtype and math.prod(shape) * dtype.itemsize != place[1] - place[0]:
            raise ValueError(f"{again} ({shown(name)} of shape {shape} does not fill its place {place}); fetch it again")
        found[name] = dtype, tuple(shape)
        places.append(place)
    end = 0
    for start, stop in sorted(places):
        if start != end:
            raise ValueError(f"{again} (tensors that overlap or leave gaps at byte {min(start, end)}); fetch it again")
        end = stop
    if end != rest:
        raise ValueError(f"{again} (its tensors are {end} bytes, {rest} are there); fetch it again")
    return found


def _numbers(entry: object, key: str) -> list[int] | None:
    """A short list of whole numbers of an entry of a header; None where there is none."""
    found = entry.get(key) if isinstance(entry, dict) else None
    sound = isinstance(found, list) and len(found) <= MAX_DIMS and all(type(n) is int and 0 <= n < 2**48 for n in found)
    return found if sound else None


@contextmanager
def opened_safetensors(path: str | Path) -> Iterator[Any]:
    """A safetensors file to take single tensors, slices of them and metadata from, as `safetensors.safe_open` gives it.

    Raises ValueError, naming the file, also for what the library raises in the block.
    """
    path = Path(path)
    read_header(path)
    try:
        opened = safe_open(path, framework="pt")
    except Exception as error:  # a hostile file can raise anything
        raise ValueError(f"{path}: not a whole safetensors file ({reason(error)}); fetch it again") from None
    try:
        with opened as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({reason(error)}); fetch it again") from None


def select(
    state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]],
    *, path: str | Path, remedy: str, ignored: tuple[str, ...] = (),
) -> dict[str, Tensor]:
    """Exactly the tensors of these names and shapes, as float32, which holds every value of float16 and bfloat16.

    path: the file, for messages.  remedy: what to fetch or do, e.g. "fetch alex.pth of ...".
    ignored: names of the file that begin so are left out.
    Raises ValueError for tensors that are missing or neither wanted nor ignored, that have another shape, are no floats
    that float32 can hold, or are not finite.  The line says how many there are of each and names the first.
    """
    missing = [key for key in shapes if key not in state]
    unexpected = [key for key in state if key not in shapes and not key.startswith(ignored)]
    misfits = [
        f"{key} is {str(state[key].dtype).removeprefix('torch.')} {tuple(state[key].shape)}, expected floats {shape}"
        for key, shape in shapes.items()
        if key in state and (tuple(state[key].shape) != shape or state[key].dtype not in EXACT)
    ]
    faults = [f"{_some(keys)} {what}" for keys, what in ((missing, "missing"), (unexpected, "unexpected")) if keys]
    faults += [misfits[0] + (f" and {len(misfits) - 1} more" if len(misfits) > 1 else "")] if misfits else []
    if not faults:
        wild = [key for key in shapes if not state[key].isfinite().all()]
        faults = [f"{_some(wild)} not finite"] if wild else []
    if faults:
        raise ValueError(f"{path}: {'; '.join(faults)}: not the expected weights; {remedy}")
    return {key: state[key].float() for key in shapes}


def expect_same(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, where: str | Path) -> None:
    """Raise ValueError with every kind of difference between stored tensors and those of a model, types never cast.

    tensors: on the meta device where only shapes and types are to be compared.  where: their file, for the message.
    """
    both = sorted(tensors.keys() & expected.keys())
    pairs = [(name, tensors[name], expected[name]) for name in both]
    faults = {
        "missing": sorted(expected.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - expected.keys()),
        "of another shape": [f"{n} {tuple(t.shape)}, the model has {tuple(e.shape)}" for n, t, e in pairs if t.shape != e.shape],
        "of another dtype": [f"{n} {t.dtype}, the model has {e.dtype}" for n, t, e in pairs if t.dtype != e.dtype],
        "with NaN": [n for n, t, _ in pairs if not t.is_meta and t.is_floating_point() and t.isnan().any()],
    }
    found = [
        f"{len(names)} {fault}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for fault, names in faults.items()
        if names
    ]
    if found:
        raise ValueError(f"{where}: does not fit the model ({len(both)} names match); {'; '.join(found)}")


def _some(keys: list[str]) -> str:
    rest = len(keys) - SHOWN
    return ", ".join(shown(key) for key in keys[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
