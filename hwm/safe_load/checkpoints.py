"""Distributed checkpoints of others: a folder with `.metadata`, a pickle, and files of tensors, from torch's own writer.

torch's reader opens `.metadata` with an unrestricted unpickler and joins the paths in it to the folder as they are;
here it is inert data (the names are those of torch.distributed.checkpoint, PyTorch 2.13), paths stay in the folder, and
tensors only are taken.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hwm.safe_load.paths import inside, is_file, shown
from hwm.safe_load.pickles import MAX_BYTES, Inert, read_inert
from hwm.safe_load.saved import unpickle

_DCP = "torch.distributed.checkpoint"
_DTYPES = {
    f"torch.{name}": getattr(torch, name)
    for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
}
_CLASSES = ("BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
            "TensorStorageMetadata", "_MEM_FORMAT_ENCODING")  # fmt: skip
NAMES = {
    "pathlib.PosixPath", "torch.Size", "torch.serialization._get_layout", f"{_DCP}.filesystem._StorageInfo",
    "collections.OrderedDict", *_DTYPES, *(f"{_DCP}.metadata.{name}" for name in _CLASSES),
}  # fmt: skip


def load_checkpoint(folder: str | Path) -> dict[str, Tensor]:
    """Tensors by name, whole, on the CPU and in the types of the checkpoint.

    Raises ValueError, naming the file, for anything but whole tensors that lie in files of the folder.
    """
    folder = Path(folder)
    path = folder / ".metadata"
    if not is_file(path):
        raise ValueError(f"{shown(path)}: no such file, expected a distributed checkpoint in {shown(folder)}")
    with path.open("rb") as file:
        root = read_inert(file.read(MAX_BYTES + 1), allowed=NAMES.__contains__, where=path)
    try:
        described = _fields(root)["state_dict_metadata"]
        places: dict[str, list[Inert]] = {}
        for index, place in _fields(root)["storage_data"].items():
            places.setdefault(_fields(index)["fqn"], []).append((_fields(index), place))  # type: ignore[arg-type]
        return {name: _read(folder, path, name, node, places[name]) for name, node in described.items()}
    except (AttributeError, KeyError, TypeError, IndexError, OverflowError) as error:
        reason = shown(f"{type(error).__name__} {error}".splitlines()[0])
        raise ValueError(f"{path}: not the description of a distributed checkpoint ({reason}); fetch it again") from None


def _read(folder: Path, source: Path, name: str, node: Inert, places: list[Any]) -> Tensor:
    """One tensor from its chunks, which must cover it exactly."""
    where = f"{source}: {shown(name)}"
    if node.name != f"{_DCP}.metadata.TensorStorageMetadata":
        raise ValueError(f"{where} is no tensor but bytes, which could run code; save the checkpoint with tensors only")
    fields = _fields(node)
    size, dtype = _size(fields["size"]), _DTYPES[fields["properties"].state[0].name]
    wanted = {_size(_fields(c)["offsets"]): _size(_fields(c)["sizes"]) for c in fields["chunks"]}
    lengths = sum(_fields(place)["length"] for _, place in places)
    if math.prod(size) * dtype.itemsize > lengths or min(size, default=0) < 0:
        raise ValueError(f"{where}: {size} of {dtype} does not fit in the {lengths} bytes stored of it; fetch it again")
    whole, filled = torch.empty(size, dtype=dtype), 0
    for index, place in places:
        offsets = _size(index["offset"]) if index.get("offset") is not None else (0,) * len(size)
        part = _piece(folder, source, where, _fields(place))
        fits = part.shape == wanted.get(offsets) and part.dtype == dtype
        if not fits or any(o < 0 or o + s > n for o, s, n in zip(offsets, part.shape, size, strict=True)):
            found = f"{part.dtype} {tuple(part.shape)} at {offsets}"
            raise ValueError(f"{where}: {found} is no chunk that the description lists; fetch the checkpoint again")
        whole[tuple(slice(o, o + s) for o, s in zip(offsets, part.shape))] = part
        filled += part.numel()
    if filled != whole.numel() or len(places) != len(wanted):
        raise ValueError(f"{where}: its chunks do not cover it; fetch the checkpoint again")
    return whole


def _piece(folder: Path, source: Path, where: str, place: dict[str, Any]) -> Tensor:
    file = inside(folder, place["relative_path"], source=source)
    if place.get("transform_descriptors"):
        raise ValueError(f"{where} is stored compressed or encrypted; save the checkpoint without that")
    if not is_file(file):
        raise ValueError(f"{file}: no such file, but {source.name} lists it; fetch the checkpoint again")
    offset, length = place["offset"], place["length"]
    if offset < 0 or length < 0 or offset + length > file.stat().st_size:
        raise ValueError(f"{file}: shorter than {source.name} says; fetch the checkpoint again")
    with file.open("rb") as stream:
        stream.seek(offset)
        value = unpickle(io.BytesIO(stream.read(length)), where=file, num_bytes=length)
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        raise ValueError(f"{file}: expected a tensor at byte {offset}, found {type(value).__name__}")
    return value


def _fields(node: Any) -> dict[str, Any]:
    if not isinstance(node, Inert) or not isinstance(node.state, dict):
        raise TypeError("a record without fields")
    return node.state


def _size(node: Any) -> tuple[int, ...]:
    """torch.Size as it was pickled."""
    return tuple(int(n) for n in (node.args[0] if isinstance(node, Inert) else node))
