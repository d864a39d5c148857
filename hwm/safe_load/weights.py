"""Weights from elsewhere: tensors by name come out, and nothing in a file is run.

Pickle files are programs in disguise; of those only what describes tensors is understood (`pickles`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from hwm.safe_load.paths import hub_folder, inside, is_dir, is_file, reading, reason, shown
from hwm.safe_load.text import parse_json, read_json
from hwm.safe_load.torch_save import read_torch_save

SHOWN = 3
"""Keys named in a message."""
MAX_HEADER_BYTES = 32 * 2**20
MAX_TENSORS = 50_000
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
    check_header(path)
    try:
        return load_file(path)
    except Exception as error:  # a hostile file can raise anything
        raise ValueError(f"{path}: not a whole safetensors file ({reason(error)}); fetch it again") from None


def check_header(path: Path) -> None:
    """Raise ValueError unless a safetensors file begins with a header of sane size that lists a sane number of tensors.

    What the header says of each tensor is checked by the library when it is opened.
    """
    if not is_file(path):
        raise ValueError(f"{shown(path)}: no such file; expected weights in the safetensors format")
    with reading(path), path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        whole = 2 <= size <= path.stat().st_size - 8
        text = file.read(size) if whole and size <= MAX_HEADER_BYTES else b""
    again = f"{path}: not a whole safetensors file"
    if not whole:
        raise ValueError(f"{again} (too short for its header); fetch it again")
    if not text:
        raise ValueError(f"{again} (a header of {size} bytes, at most {MAX_HEADER_BYTES} are read); fetch it again")
    header = parse_json(text, where=again, remedy="fetch it again")
    if not isinstance(header, dict):
        raise ValueError(f"{again} (its header is no JSON object); fetch it again")
    names = [name for name in header if name != "__metadata__"]
    if len(names) > MAX_TENSORS:
        listed = f"lists {len(names)} tensors, {_some(names)}, at most {MAX_TENSORS} are read"
        raise ValueError(f"{again} (its header {listed}); fetch the weights of the model that you want")


def check_model_folder(source: str | Path, subfolder: str | None = None) -> None:
    """Hold a local folder in diffusers' layout against what the library does not check before it opens the files itself.

    Its JSON is small and sane, weights are listed inside the folder (or the hub's cache), and headers are not too large.
    Raises ValueError naming the file; a `source` that is no folder is a hub name and is left to the library.
    """
    folder = Path(source) / (subfolder or "")
    for path in sorted(folder.glob("*.json")) if is_dir(folder) else ():
        listed = read_json(path).get("weight_map", {})
        if not isinstance(listed, dict):
            raise ValueError(f"{path}: its weight_map is no table; fetch the file again")
        for name in {str(name): name for name in listed.values()}.values():
            inside(folder, name, source=path, links_within=hub_folder(folder))
    for path in sorted(folder.glob("*.safetensors")) if is_dir(folder) else ():
        check_header(path)


@contextmanager
def opened_safetensors(path: str | Path) -> Iterator[Any]:
    """A safetensors file to take single tensors, slices of them and metadata from, as `safetensors.safe_open` gives it.

    Raises ValueError, naming the file, also for what the library raises in the block.
    """
    path = Path(path)
    check_header(path)
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


def _some(keys: list[str]) -> str:
    rest = len(keys) - SHOWN
    return ", ".join(shown(key) for key in keys[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
