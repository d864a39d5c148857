"""Readers of the 1X datasets: v2.0 tokens, v2.0 raw video, v1.1, and of latents; nothing is loaded before it is used.

`open_dataset` finds out by the files what a folder holds and checks names, counts and exact sizes; the arrays are
memory-mapped on first use.  Byte layouts: reference A.2, A.3, A.5 (1X dataset cards).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hwm.clock import COSMOS, Clock
from hwm.data import layout, video
from hwm.data.checksums import expect_whole
from hwm.data.latents import LatentDataset, LatentShard
from hwm.data.layout import Shard, ShardFault, clip_hop, latent_geometry, read_tokenizer_info, token_geometry
from hwm.data.legacy import LegacyTokenDataset, is_legacy, open_legacy
from hwm.data.video import decoded_frames
from hwm.robot import EVE, Embodiment, read_embodiment
from hwm.safe_load.paths import is_dir, shown
from hwm.work.files import check_size, map_array, read_count, read_json, read_rows


@dataclass(frozen=True)
class TokenShard(Shard):
    """One shard of tokens; block b covers frames `clock.block` * b onwards, the last block may be padded."""

    grid: tuple[int, int]
    vocab_size: int
    clock: Clock

    @cached_property
    def tokens(self) -> np.ndarray:
        """Token grids (N_blocks, T, H, W), int32 memory map, the padded last block included."""
        return map_array(self.video_path, "<i4", self._shape, f"{self._shape} int32 tokens")

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        return self.clock.stored_blocks(self.num_frames), self.clock.grids, *self.grid

    def read_tokens(self, block: int, num_blocks: int = 1) -> np.ndarray:
        """Grids (num_blocks * T, H, W) int64.  Raises ValueError for an id outside the vocabulary."""
        tokens = read_rows(self.tokens, block, block + num_blocks).astype(np.int64).reshape(-1, *self.grid)
        if tokens.min() < 0 or tokens.max() >= self.vocab_size:
            found = tokens.max() if tokens.max() >= self.vocab_size else tokens.min()
            limit = f"a vocabulary of {self.vocab_size}"
            raise ValueError(f"{self.video_path}: block {block} holds id {found}, outside {limit}; tokenize it again")
        return tokens

    def check_sizes(self) -> None:
        super().check_sizes()
        check_size(self.video_path, 4 * int(np.prod(self._shape)), f"{self._shape} int32 tokens")


@dataclass(frozen=True)
class RawShard(Shard):
    """One shard of video; frame k of the mp4 is row k of states and segments."""

    def frames(self, size: int = 0) -> np.ndarray:
        """All frames, uint8 RGB memory map (F, H, W, 3), decoded once into a cache file.

        size: side in pixels of area-resized square frames; 0 keeps the stored size.
        Raises ValueError when the video is damaged or does not have one frame per state row.
        """
        return decoded_frames(self.video_path, num_frames=self.num_frames, size=size)


@dataclass(frozen=True)
class TokenDataset:
    """A v2.0 dataset of tokens.  tokenizer: what the sidecar says about their maker, None for official data."""

    root: Path
    shards: tuple[TokenShard, ...]
    hz: int
    grid: tuple[int, int]
    vocab_size: int
    clock: Clock
    tokenizer: dict | None
    robot: Embodiment

    @property
    def num_frames(self) -> int:
        return sum(shard.num_frames for shard in self.shards)


@dataclass(frozen=True)
class RawDataset:
    """A v2.0 dataset of video.  clock: the blocks into which its frames are cut."""

    root: Path
    shards: tuple[RawShard, ...]
    hz: int
    clock: Clock
    robot: Embodiment

    @property
    def num_frames(self) -> int:
        return sum(shard.num_frames for shard in self.shards)


Dataset = TokenDataset | LatentDataset | RawDataset | LegacyTokenDataset
AnyShard = TypeVar("AnyShard", bound=Shard)
FILES = {"tokens": layout.TOKENS, "latents": layout.LATENTS, "raw": layout.VIDEO}
"""What holds the pictures of each kind of dataset."""
EXPECTED = "video_0.bin, video_0.mp4 or video.bin, here or in videos/, or latents/latents_0.bin"
DESCRIPTION = {"tokens": ".bin tokens", "latents": "latents", "raw": ".mp4 video"}


def open_dataset(path: str | Path, *, faults: list[ValueError] | None = None, verified: bool = True) -> Dataset:
    """Open a dataset folder: v2.0 tokens, v2.0 raw video, v1.1 or latents, told apart by the files in it.

    faults: where given, faulty shards are left out and their errors collected here instead of raised, as `ShardFault`
    where they belong to one shard.
    verified: compare every file with its recorded checksum first, where there is one (`shards.expect_whole`).
    Raises ValueError naming file, expectation and remedy.
    """
    root = Path(path)
    kind = probe_kind(root)
    if kind == "v1.1":
        return open_legacy(root)
    if kind not in FILES:
        raise ValueError(_unknown(root, kind))
    metadata = root / "metadata.json"
    table = read_json(metadata)
    hz, num_shards = read_count(table, "hz", metadata), read_count(table, "num_shards", metadata)
    robot = read_robot(root)
    files = FILES[kind]
    # A shard whose pictures are missing is a faulty one, not an absent one.
    present = sorted({*files.indices(root), *layout.METADATA.indices(root)})

    def fail(message: str) -> None:
        if faults is None:
            raise ValueError(f"{metadata}: {message}")
        faults.append(ValueError(f"{metadata}: {message}"))

    if len(present) != num_shards:
        found = f"{len(present)} shards found (first {present[0]}, last {present[-1]})"
        fail(f"num_shards is {num_shards} but {found}; fetch the rest or correct num_shards")

    def plain(index: int) -> dict[str, Any]:
        path = layout.METADATA.find(root, index)
        about = read_json(path)
        if about.get("shard_ind", index) != index:
            raise ValueError(f"{path}: shard_ind is {about['shard_ind']!r}, expected {index}; fetch the shard again")
        return {
            "index": index,
            "num_frames": read_count(about, "shard_num_frames", path),
            "video_path": files.find(root, index),
            "states_path": layout.STATES.find(root, index),
            "segments_path": layout.SEGMENTS.find(root, index),
            "state_dim": robot.dim,
        }

    dataset: Dataset
    if kind == "tokens":
        info = read_tokenizer_info(root)
        grid, vocab_size, clock = token_geometry(info, root)
        sizes: dict[str, Any] = {"grid": grid, "vocab_size": vocab_size, "clock": clock}
        tokens = _open_shards(present, lambda i: TokenShard(**plain(i), **sizes), faults)
        dataset = TokenDataset(root, tokens, hz, grid, vocab_size, clock, info, robot)
    elif kind == "latents":
        info = read_tokenizer_info(root)
        grid, channels, clock = latent_geometry(info, root)
        every = clip_hop(info or {}, root)
        sizes = {"grid": grid, "channels": channels, "clock": clock, "every": every}

        def latent_shard(index: int) -> LatentShard:
            return LatentShard(**plain(index), **sizes, starts_path=layout.CLIP_STARTS.find(root, index) if every else None)

        latents = _open_shards(present, latent_shard, faults)
        dataset = LatentDataset(root, latents, hz, grid, channels, clock, info or {}, robot, every)
    else:
        dataset = RawDataset(root, _open_shards(present, lambda i: RawShard(**plain(i)), faults), hz, COSMOS, robot)
    expected = read_count(table, "num_images", metadata)
    if not faults and dataset.num_frames != expected:
        fail(f"num_images is {expected} but the shards have {dataset.num_frames} frames; write the dataset again")
    if verified and faults is None:
        expect_whole(root)
    return dataset


def _open_shards(
    present: list[int], build: Callable[[int], AnyShard], faults: list[ValueError] | None
) -> tuple[AnyShard, ...]:
    shards = []
    for index in present:
        try:
            shard = build(index)
            shard.check_sizes()
            shards.append(shard)
        except ValueError as error:
            if faults is None:
                raise
            faults.append(ShardFault(str(error), shard=index))
    return tuple(shards)


def probe_kind(root: Path) -> str:
    """What a folder holds: "tokens", "latents", "raw", "v1.1", "compression test", "sampling test" or "unknown".

    Raises ValueError when it is no folder.
    """
    if not is_dir(root):
        raise ValueError(f"{shown(root)}: no such folder; give the folder that holds metadata.json and the shards")
    if is_legacy(root):
        return "v1.1"
    found = _kinds(root)
    if len(found) != 1:
        return "unknown"
    if found == ["latents"] or (root / "metadata.json").is_file() or layout.SEGMENTS.indices(root):
        return found[0]
    return "compression test" if found == ["tokens"] else "sampling test"


def _kinds(root: Path) -> list[str]:
    return [kind for kind, files in FILES.items() if files.indices(root)]


def _unknown(root: Path, kind: str) -> str:
    if kind != "unknown":
        return f"{root}: holds a {kind} set, which has no future to learn from; open it with open_test_set"
    found = [DESCRIPTION[kind] for kind in _kinds(root)]
    if len(found) > 1:
        return f"{root}: holds both {' and '.join(found)}; keep the datasets in folders of their own"
    inside = [p.name for p in sorted(root.iterdir()) if p.is_dir() and probe_kind(p) != "unknown"]
    if inside:
        return f"{root}: no dataset itself but holds {', '.join(inside)}; give one of these, such as {root / inside[0]}"
    return f"{root}: no 1X dataset: expected {EXPECTED}; check the path"


def read_robot(root: Path) -> Embodiment:
    """The embodiment that the dataset's `robot.toml` describes, or the 1X EVE where there is none."""
    path = root / "robot.toml"
    return read_embodiment(path) if path.is_file() else EVE


def frame_size(dataset: RawDataset) -> tuple[int, int]:
    """Stored height and width of the dataset's video in pixels."""
    return video.probe(dataset.shards[0].video_path)[:2]
