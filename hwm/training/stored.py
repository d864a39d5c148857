"""Named tensors in safetensors files: whole, in one file a group, or in shards that each process writes of what it holds.

Whole:   model.safetensors  optimizer.safetensors  ema.safetensors
Shards:  shards/shard-00001-model-00001-of-00001.safetensors ..., one a process, names "model.<name>" and so on, written
         by PyTorch's distributed checkpoint in its safetensors storage; every tensor's place in the whole is in the
         file's metadata.
Both are read piece by piece into tensors that may be whole or shards themselves, so that any number of processes can
continue what any other number wrote.  Nothing is pickled.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn

from hwm.safe_load.paths import shown
from hwm.safe_load.text import expect_fields, parse_json
from hwm.safe_load.weights import DTYPES, expect_same, opened_safetensors

SHARDS = "shards"
_PLACES = "DCP_SHARDING_INFO"
"""Under this key PyTorch's safetensors storage keeps {name: {"saved_offsets": [...]}}."""

_GONE = {"units.change_std_C"}
"""Statistics that models kept once and have no use for any more."""

Groups = dict[str, dict[str, Tensor]]
"""Tensors by name, in the groups "model", "optimizer" and "ema"."""


def is_share(tensor: Tensor) -> bool:
    """Whether a tensor is this process's share of one, a DTensor: told by its method, as importing that class takes a second."""
    return hasattr(tensor, "full_tensor")


def is_sharded(groups: Groups) -> bool:
    """Whether any tensor is only this process's share of one."""
    return any(is_share(tensor) for named in groups.values() for tensor in named.values())


def write_whole(path: Path, named: dict[str, Tensor]) -> None:
    """Write a safetensors file: contiguous, no memory shared (tied weights are stored under each of their names)."""
    separate, seen = {}, set()
    for name, tensor in named.items():
        plain = tensor.detach().cpu().contiguous()
        if plain.untyped_storage().data_ptr() in seen:
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        separate[name] = plain
    path.touch()
    mode = path.stat().st_mode
    save_file(separate, path, metadata={"format": "pt"})
    path.chmod(mode)  # The library leaves a file that only its owner may read.


def write_shards(folder: Path, groups: Groups, *, process_group: dist.ProcessGroup | None) -> None:
    """Write this process's shards; called by all processes.  Tensors that all hold whole are written once.

    Raises the first error of any process.
    """
    from torch.distributed import checkpoint as dcp
    flat = {f"{group}.{name}": tensor.detach() for group, named in groups.items() for name, tensor in named.items()}
    writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own deprecated calls
        try:
            dcp.save(flat, storage_writer=writer, process_group=process_group)
        except dcp.CheckpointException as error:  # of several processes; the first reason stands for all
            raise next(iter(error.failures.values()))[0] from None


@dataclass(frozen=True)
class _Piece:
    """Where a part of a tensor lies: in `file` under `key`, from `offsets` on in the whole."""

    file: Path
    key: str
    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype


class Stored:
    """The tensors of a checkpoint or weight file whose bytes were verified, read when asked for.

    files: whole files, which are groups by their name, or shards.  widen: take float16 for float32, which holds it exactly.
    Raises ValueError naming the file if one is no whole safetensors file.
    """

    def __init__(self, files: Iterable[Path], *, widen: bool = False) -> None:
        self._pieces: dict[str, dict[str, list[_Piece]]] = {}
        self._types = DTYPES | ({"F16": torch.float32} if widen else {})
        for file in files:
            self._index(file)

    def _index(self, file: Path) -> None:
        with opened_safetensors(file) as opened:
            places = parse_json((opened.metadata() or {}).get(_PLACES, "{}"), where=file)
            for key in opened.keys():
                group, _, name = key.partition(".") if file.parent.name == SHARDS else (file.stem, "", key)
                if name in _GONE:
                    continue
                part = opened.get_slice(key)
                shape = tuple(part.get_shape())
                if part.get_dtype() not in DTYPES:
                    raise ValueError(f"{file}: {key} is of type {part.get_dtype()}, which no model here has; fetch other weights")
                piece = _Piece(file, key, _offsets(places, key, shape, file), shape, self._types[part.get_dtype()])
                self._pieces.setdefault(group, {}).setdefault(name, []).append(piece)

    def sizes(self, group: str) -> dict[str, Tensor]:
        """Every tensor of a group without its values: shape and type alone (on the meta device).

        Raises ValueError where the pieces of one are not the whole of it.
        """
        found = {}
        for name, pieces in self._pieces.get(group, {}).items():
            ends = zip(*([first + length for first, length in zip(piece.offsets, piece.shape)] for piece in pieces))
            whole = [max(axis) for axis in ends]
            if math.prod(whole) > sum(math.prod(piece.shape) for piece in pieces):
                raise ValueError(f"{pieces[0].file}: the parts of {name} do not make {tuple(whole)}; use another checkpoint")
            found[name] = torch.empty(whole, dtype=pieces[0].dtype, device="meta")
        return found

    def read(self, group: str) -> dict[str, Tensor]:
        """All tensors of a group, whole, on the CPU."""
        tensors = {name: torch.empty_like(size, device="cpu") for name, size in self.sizes(group).items()}
        self.read_into(group, tensors)
        return tensors

    @torch.no_grad()
    def read_into(self, group: str, targets: dict[str, Tensor]) -> None:
        """Fill tensors of a group, whole ones or this process's shards, in place; shapes and types are as stored."""
        wanted: dict[Path, list[tuple[_Piece, Tensor, tuple[int, ...]]]] = {}
        for name, target in targets.items():
            local, offsets = _local(target)
            for piece in self._pieces[group][name]:
                wanted.setdefault(piece.file, []).append((piece, local, offsets))
        for file, reads in wanted.items():
            with opened_safetensors(file) as opened:
                for piece, local, offsets in reads:
                    _copy(opened, piece, local, offsets)


def _offsets(places: Any, key: str, shape: tuple[int, ...], file: Path) -> tuple[int, ...]:
    """Where a part lies in its tensor, by the file's own account; a whole tensor has none."""
    place: Any = places.get(key, {"saved_offsets": [0] * len(shape)}) if isinstance(places, dict) else None
    expect_fields(place, file, saved_offsets=list)
    offsets = tuple(place["saved_offsets"])
    if len(offsets) != len(shape) or any(type(n) is not int or not 0 <= n < 2**40 for n in offsets):
        raise ValueError(f"{file}: a part of {key} lies at {shown(offsets)}, which is no place in it; use another checkpoint")
    return offsets


def load_weights(stored: Stored, model: nn.Module, *, where: Path) -> None:
    """Load the weights of a checkpoint into a model, averaged ones where it has them: all of them and nothing else.

    where: as in `expect_same`, which raises ValueError for others and for NaN; the model is then unchanged.
    """
    expect_same(stored.sizes("model") | stored.sizes("ema"), model.state_dict(), where=where)
    tensors = stored.read("model") | stored.read("ema")
    expect_same(tensors, model.state_dict(), where=where)
    model.load_state_dict(tensors)


def _copy(opened: Any, piece: _Piece, local: Tensor, offsets: tuple[int, ...]) -> None:
    """Copy what a piece and a target have in common."""
    if not piece.shape:
        local.copy_(opened.get_tensor(piece.key))
        return
    source, place = [], []
    for start, length, first, count in zip(piece.offsets, piece.shape, offsets, local.shape):
        low, high = max(start, first), min(start + length, first + count)
        if low >= high:
            return
        source.append(slice(low - start, high - start))
        place.append(slice(low - first, high - first))
    local[tuple(place)] = opened.get_slice(piece.key)[tuple(source)].to(local.device)


def _local(target: Any) -> tuple[Tensor, tuple[int, ...]]:
    """The memory of this process behind a tensor, and where in the whole it begins."""
    if not is_share(target):
        return target, (0,) * target.ndim
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
    _, offsets = compute_local_shape_and_global_offset(target.shape, target.device_mesh, target.placements)
    return target.to_local(), tuple(offsets)
