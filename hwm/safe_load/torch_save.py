"""Files of torch.save, in both of its formats, as tensors by name: the pickle tells what there is, the bytes lie beside it.

Zip:     NAME/data.pkl, NAME/data/KEY with the bytes of each storage, not packed
Legacy:  pickles of a magic number, a version, facts of the machine, the value and the keys of the storages, one after
         the other, then for each key a count and the bytes

Only the storages of the tensors that are wanted are read, each once, and each must have exactly the size that the pickle
says; all of it together is never more than the file.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from hwm.safe_load.archives import check_size, opened_zip, read_member
from hwm.safe_load.paths import shown
from hwm.safe_load.pickles import MAX_BYTES, Other, Storage, UnknownNameError, View, parse_pickle

MAX_TENSORS = 15_000
AGAIN = "it may be cut off, a TorchScript program or another format: fetch it again"
_MAGIC, _VERSION, _HEAD = 0x1950A86A20F9469CFC6C, 1001, 1024

_Fill = Callable[[Storage, Any], None]
"""Reads the bytes of a storage into a buffer of their size."""


def read_torch_save(path: Path) -> dict[str, Tensor]:
    """The tensors of a dict, or of the one under "state_dict" in it, on the CPU; those that share memory go on sharing it.

    Raises ValueError, naming the file, for anything but named dense tensors that are stored whole.
    """
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
        file.seek(0)
        try:
            return _zipped(path) if zipped else _legacy(path, file)
        except UnknownNameError as error:
            raise ValueError(
                f"{path}: refused: it asks for the Python object {shown(error)}, so opening it could run code; "
                "expected nothing but tensors, get the weights as safetensors or from a source you trust"
            ) from None
        except (ValueError, OSError) as error:
            if str(error).startswith(str(path)):
                raise
            raise ValueError(f"{path}: not a file of tensors made by torch.save ({error}); {AGAIN}") from None


def _zipped(path: Path) -> dict[str, Tensor]:
    where = f"{path}: not a file of tensors made by torch.save"
    with opened_zip(path, where=where, remedy=AGAIN) as archive:
        check_size(archive, where=path, max_bytes=path.stat().st_size + 2**20)
        roots = [name[:-8] for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(roots) != 1 or f"{roots[0]}constants.pkl" in archive.NameToInfo:
            raise ValueError(f"{len(roots)} of data.pkl in it" if len(roots) != 1 else "a TorchScript program")
        root = roots[0]
        if (order := f"{root}byteorder") in archive.NameToInfo and read_member(archive, order, 16) != b"little":
            raise ValueError("written by a machine of another byte order; open it with PyTorch there and save it as safetensors")
        value, _, storages = parse_pickle(read_member(archive, f"{root}data.pkl", MAX_BYTES, where=path))
        members = {key: f"{root}data/{key}" for key in storages}
        for key, storage in storages.items():
            _expect_size(archive, members[key], storage)

        def fill(storage: Storage, buffer: Any) -> None:
            read_member(archive, members[storage.key], storage.nbytes, where=path, into=buffer)

        return _tensors(value, path, fill)


def _expect_size(archive: zipfile.ZipFile, member: str, storage: Storage) -> None:
    found = archive.NameToInfo.get(member)
    if found is None or found.file_size != storage.nbytes:
        have = "is missing" if found is None else f"has {found.file_size} bytes"
        raise ValueError(f"{shown(member)} {have}, {storage.nbytes} are asked for")


def _legacy(path: Path, file: BinaryIO) -> dict[str, Tensor]:
    content, place = file.read(MAX_BYTES), 0
    for expected in (_MAGIC, _VERSION, None):
        value, place, _ = parse_pickle(content[:_HEAD], place)
        if expected not in (None, value):
            raise ValueError("not its magic number or version")
    value, place, storages = parse_pickle(content, place)
    keys, place, _ = parse_pickle(content, place)
    if not isinstance(keys, list) or len(keys) != len(storages) or not all(type(k) is str and k in storages for k in keys):
        raise ValueError("other storages than it asks for")
    starts, end = {}, path.stat().st_size
    for key in keys:
        file.seek(place)
        if int.from_bytes(file.read(8), "little") != storages[key].count or place + 8 + storages[key].nbytes > end:
            raise ValueError(f"storage {shown(key)} has not the {storages[key].nbytes} bytes that are asked for")
        starts[key], place = place + 8, place + 8 + storages[key].nbytes

    def fill(storage: Storage, buffer: Any) -> None:
        file.seek(starts[storage.key])
        if file.readinto(buffer) != storage.nbytes:  # type: ignore[attr-defined]
            raise ValueError(f"storage {shown(storage.key)} is cut off")

    return _tensors(value, path, fill)


def _tensors(value: Any, path: Path, fill: _Fill) -> dict[str, Tensor]:
    save = "save a model's state_dict()"
    if isinstance(value, dict) and isinstance(value.get("state_dict"), dict):
        value = value["state_dict"]
    if not isinstance(value, dict) or not value:
        found = "an empty dict" if isinstance(value, dict) else _kind(value)
        raise ValueError(f"{path}: expected a dict of tensors by name, found {found}; {save}")
    if len(value) > MAX_TENSORS:
        raise ValueError(f"{path}: lists {len(value)} tensors, at most {MAX_TENSORS} are read; {save}")
    for key, view in value.items():
        if not isinstance(key, str) or not isinstance(view, View):
            raise ValueError(f"{path}: expected dense tensors by name, found {_kind(view)} under {shown(key)[:80]!r}; {save}")
    memory: dict[str, Tensor] = {}
    for view in value.values():
        storage = view.storage
        if storage.key not in memory:
            memory[storage.key] = buffer = torch.empty(storage.nbytes, dtype=torch.uint8)
            fill(storage, buffer.numpy().data)
    return {key: _tensor(memory[view.storage.key], view) for key, view in value.items()}


def _tensor(memory: Tensor, view: View) -> Tensor:
    if 0 in view.shape:
        return torch.empty(view.shape, dtype=view.dtype)
    room = len(memory) // view.dtype.itemsize * view.dtype.itemsize
    return memory[:room].view(view.dtype).as_strided(view.shape, view.strides, view.offset)


def _kind(value: Any) -> str:
    return shown(value.name) if isinstance(value, Other) else type(value).__name__
