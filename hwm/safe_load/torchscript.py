"""The weights of a TorchScript file (.jit), lifted out without running the program that it is.

Such a file is a zip: code, and `data.pkl` with the tree of modules whose tensors lie beside it (PyTorch 2.13,
torch/jit/_serialization.py).  Read are that tree, as inert data, and the tensors; the code is never looked at.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hwm.safe_load.archives import check_members, opened_zip, read_member
from hwm.safe_load.paths import shown
from hwm.safe_load.pickles import MAX_BYTES, Inert, read_inert

STORAGES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
        "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}  # fmt: skip
REBUILD = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter")
_OTHER_NAMES = re.compile(r"__torch__\.[\w.]+|torch\.jit\._pickle\.\w+|collections\.OrderedDict")
MAX_DEPTH = 100
MAX_CODE_BYTES = 64 * 2**20
"""Code and its origins, which are compressed."""


def load_torchscript_weights(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name, as `state_dict` of the module gives them, on the CPU and in the types of the file.

    Tensors that are plain attributes come with them.  Raises ValueError, naming the file, for no such file, for any
    name in it that the format does not have, and for a frozen module, whose tensors have lost their names.
    """
    path = Path(path)
    with opened_zip(path, where=path, remedy="fetch it again") as archive:
        check_members(archive, where=path, max_bytes=2 * path.stat().st_size + MAX_CODE_BYTES)
        tree = [name for name in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(tree) != 1:
            raise ValueError(f"{path}: not a TorchScript file (no data.pkl in it); fetch it again")
        content = read_member(archive, tree[0], MAX_BYTES, where=path)
        root = read_inert(content, allowed=_belongs, where=path)
        tensors = _Tensors(archive, tree[0].removesuffix("data.pkl"), path).collect(root)
    if not tensors:
        raise ValueError(f"{path}: no named tensors in it: a frozen program; get the weights as safetensors")
    return tensors


def _belongs(name: str) -> bool:
    return name in STORAGES or name in REBUILD or bool(_OTHER_NAMES.fullmatch(name))


class _Tensors:
    """The tensors that a tree of modules refers to, each storage read once."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, path: Path) -> None:
        self._archive, self._folder, self._path = archive, folder, path
        self._storages: dict[str, Tensor] = {}
        self._bytes = 0

    def collect(self, root: Any) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        level = [("", root)]
        for _ in range(MAX_DEPTH):
            below = []
            for prefix, node in level:
                state = node.state if isinstance(node, Inert) and node.name.startswith("__torch__.") else None
                for key, value in state.items() if isinstance(state, dict) else ():
                    name = f"{prefix}{key}"
                    if isinstance(value, Inert) and value.name in REBUILD:
                        found[name] = self._tensor(value, name)
                    else:
                        below.append((f"{name}.", value))
            if not below:
                return found
            level = below
        raise ValueError(f"{self._path}: modules nested deeper than {MAX_DEPTH}; fetch it again")

    def _tensor(self, node: Inert, name: str) -> Tensor:
        try:
            if node.name == REBUILD[1]:
                node = node.args[0]
            reference, offset, size, stride = node.args[:4]
            tensor = self._storage(*reference.args[0][:5]).as_strided(tuple(size), tuple(stride), offset).clone()
            self._bytes += tensor.nbytes
            if self._bytes > 2 * self._path.stat().st_size:
                raise ValueError("tensors that share their numbers many times over")
            return tensor
        except (ValueError, TypeError, AttributeError, IndexError, KeyError, RuntimeError, OverflowError) as error:
            reason = shown(str(error).splitlines()[0] if str(error) else type(error).__name__)
            raise ValueError(f"{self._path}: the tensor {shown(name)} is not whole ({reason}); fetch it again") from None

    def _storage(self, kind: str, storage: type[Inert], key: str, _device: str, count: int) -> Tensor:
        if kind != "storage":
            raise ValueError("no storage")
        dtype = STORAGES[storage.name]
        if key not in self._storages:
            content = read_member(self._archive, f"{self._folder}data/{key}", count * dtype.itemsize, where=self._path)
            if len(content) != count * dtype.itemsize:
                raise ValueError(f"{len(content)} bytes for {count} numbers")
            self._storages[key] = torch.frombuffer(bytearray(content), dtype=dtype) if count else torch.empty(0, dtype=dtype)
        return self._storages[key].view(dtype)
