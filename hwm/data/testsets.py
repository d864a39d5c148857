"""The two 1X test sets: single samples whose future is withheld (reference A.6; 1X dataset cards).

Compression: one block of tokens (17 frames) and 64 rows of states.  Sampling: 17 frames of video and 97 rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hwm.clock import Clock
from hwm.data import layout
from hwm.data.checksums import digests, expect_whole
from hwm.data.dataset import Decoder, Finding, hash_of, raised
from hwm.data.layout import read_tokenizer_info, token_geometry
from hwm.data.onex import probe_kind, read_robot
from hwm.data.tokens import token_picture
from hwm.data.video import count_frames, probe, read_video
from hwm.data.windows import evenly
from hwm.robot import Embodiment
from hwm.work.files import map_array

CONTEXT_FRAMES = 17


@dataclass(frozen=True)
class SampleSet:
    """Samples with ids: the number in each one's file names, ascending.  states_NFA: float32, F rows from its first frame on.

    official: how many samples 1X's own set has.  seen_in: the files of its pictures.
    """

    official: ClassVar[int]
    seen_in: ClassVar[layout.FileKind]

    root: Path
    ids: tuple[int, ...]
    states_NFA: np.ndarray
    robot: Embodiment

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def fingerprint(self) -> str:
        """As `Dataset.fingerprint`, of the samples and their numbers."""
        files = [kind.find(self.root, i) for kind in (self.seen_in, layout.STATES) for i in self.ids]
        return hash_of([self.ids, digests(self.root, files)])

    def facts(self) -> dict[str, Any]:
        """Counts and sizes, as plain values for JSON."""
        return {"samples": len(self), "state_rows": self.states_NFA.shape[1]}

    def pictures(self, count: int, tokenizer: Decoder | None = None) -> list[np.ndarray]:
        """The last seen frames of at most `count` samples, as `Shard.pictures`."""
        raise NotImplementedError

    def check(self) -> Iterator[Finding]:
        """Everything wrong or worth knowing that opening did not find."""
        if len(self) != self.official:
            yield Finding("note", str(self.root), f"{len(self)} samples; the official set has {self.official}")


@dataclass(frozen=True)
class CompressionTestSet(SampleSet):
    """tokens_NTHW: int64, the context block of every sample, in the order of the ids."""

    official: ClassVar[int] = 450
    seen_in: ClassVar[layout.FileKind] = layout.TOKENS

    tokens_NTHW: np.ndarray
    grid: tuple[int, int]
    vocab_size: int
    clock: Clock
    tokenizer: dict | None

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"grid": list(self.grid), "vocab_size": self.vocab_size}

    def pictures(self, count: int, tokenizer: Decoder | None = None) -> list[np.ndarray]:
        return [token_picture(self.tokens_NTHW[i], tokenizer) for i in evenly(count, len(self))]


@dataclass(frozen=True)
class SamplingTestSet(SampleSet):
    """Video of the seen frames, by `frames`."""

    official: ClassVar[int] = 250
    seen_in: ClassVar[layout.FileKind] = layout.VIDEO

    video_paths: tuple[Path, ...]

    def frames(self, i: int, size: int = 0) -> np.ndarray:
        """The seen frames of the i-th sample, uint8 RGB (17, H, W, 3); size: side after area resizing, 0 keeps it."""
        frames = read_video(self.video_paths[i], size=size)
        _expect_context(len(frames), self.video_paths[i])
        return frames

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"frame_size": list(probe(self.video_paths[0])[:2])}

    def pictures(self, count: int, tokenizer: Decoder | None = None) -> list[np.ndarray]:
        return [self.frames(i)[-1] for i in evenly(count, len(self))]

    def check(self) -> Iterator[Finding]:
        for path in self.video_paths:
            yield from raised(partial(_expect_decoded, path))
        yield from super().check()


def _expect_decoded(path: Path) -> None:
    _expect_context(count_frames(path), path)


def _expect_context(num_frames: int, path: Path) -> None:
    if num_frames != CONTEXT_FRAMES:
        raise ValueError(f"{path}: has {num_frames} frames, expected {CONTEXT_FRAMES}; fetch it again")


def open_test_set(path: str | Path, *, verified: bool = True) -> CompressionTestSet | SamplingTestSet:
    """Open a test set, flat or with sub-folders; which of the two it is follows from its files.

    verified: as in open_dataset.
    Raises ValueError naming file, expectation and remedy.
    """
    root = Path(path)
    kind, robot = probe_kind(root), read_robot(root)
    if verified and kind.endswith("test"):
        expect_whole(root)
    if kind == "compression test":
        info = read_tokenizer_info(root)
        grid, vocab_size, clock = token_geometry(info, root)
        ids = layout.TOKENS.indices(root)
        shape = (1, clock.grids, *grid)
        files = [layout.TOKENS.find(root, i) for i in ids]
        blocks = [map_array(file, "<i4", shape, f"one block {shape[1:]} of int32 tokens") for file in files]
        for file, block in zip(files, blocks):
            if block.min() < 0 or block.max() >= vocab_size:
                fault = f"ids {block.min()}..{block.max()}, expected 0..{vocab_size - 1}"
                raise ValueError(f"{file}: {fault}; fetch it again")
        tokens_NTHW = np.concatenate(blocks).astype(np.int64)
        states_NFA = _read_states(root, ids, robot)
        return CompressionTestSet(root, tuple(ids), states_NFA, robot, tokens_NTHW, grid, vocab_size, clock, info)
    if kind == "sampling test":
        ids = layout.VIDEO.indices(root)
        videos = tuple(layout.VIDEO.find(root, i) for i in ids)
        return SamplingTestSet(root, tuple(ids), _read_states(root, ids, robot), robot, videos)
    found = "nothing known" if kind == "unknown" else f"a {kind} dataset"
    raise ValueError(f"{root}: expected a test set (video_0.bin or .mp4, states_0.bin, no segments), found {found}")


def _read_states(root: Path, ids: list[int], robot: Embodiment) -> np.ndarray:
    """States (N, F, A) float32; every sample must have as many rows as the first."""
    paths = [layout.STATES.find(root, i) for i in ids]
    row = 4 * robot.dim
    num_rows = max(CONTEXT_FRAMES, paths[0].stat().st_size // row)
    meaning = f"{num_rows} rows of {robot.dim} float32, as in {paths[0].name}"
    states_NFA = np.stack([map_array(path, "<f4", (num_rows, robot.dim), meaning) for path in paths])
    bad = np.nonzero(~np.isfinite(states_NFA))
    if len(bad[0]):
        raise ValueError(f"{paths[bad[0][0]]}: row {bad[1][0]} is not finite; fetch the file again")
    return states_NFA
