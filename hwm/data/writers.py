"""Writers of the 1X v2.0 layouts, byte for byte (reference A.3, A.5), and of latents in the same manner.

Every file appears whole or not at all, and a shard's metadata is written last: a shard is finished when its
metadata exists (`shard_finished`), so interrupted work goes on shard by shard.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from hwm.clock import COSMOS, Clock
from hwm.data import layout
from hwm.data.checksums import write_checksums
from hwm.data.layout import clip_table
from hwm.data.moments import MOMENT_ROWS, moments_of_blocks, moments_of_clips
from hwm.data.video import VideoWriter
from hwm.data.windows import sampling_starts, usable_blocks
from hwm.work.files import write_array, write_json


def shard_finished(root: str | Path, shard: int) -> bool:
    """Whether this shard was written to its end."""
    return shard in layout.METADATA.indices(Path(root))


@dataclass(frozen=True)
class TokenShardWriter:
    """Write one shard of tokens.

    flat: all files directly under `root`, as in the validation set, instead of a folder per kind.
    source: fingerprint of the raw shard that it is made of.
    """

    root: str | Path
    shard: int
    flat: bool = False
    vocab_size: int = 64000
    clock: Clock = COSMOS
    source: str = ""

    def write(self, tokens_NTHW: np.ndarray, states: np.ndarray, segments: np.ndarray) -> None:
        """Write blocks of tokens with the states (F, A) and segment ids (F,) of every frame.

        tokens_NTHW: ids in [0, vocab_size), N = ceil(F / 17) blocks of T grids, the last one padded.
        Raises ValueError for values that no reader would accept.
        """
        root = Path(self.root)
        path = layout.TOKENS.place(root, self.shard, flat=self.flat)
        shape = (self.clock.stored_blocks(len(states)), self.clock.grids)
        if tokens_NTHW.ndim != 4 or tokens_NTHW.shape[:2] != shape:
            raise ValueError(f"{path}: {len(states)} frames need {shape} blocks and grids, got {tokens_NTHW.shape}")
        if not np.issubdtype(tokens_NTHW.dtype, np.integer):
            raise ValueError(f"{path}: tokens must be whole numbers, got {tokens_NTHW.dtype}")
        if tokens_NTHW.min() < 0 or tokens_NTHW.max() >= self.vocab_size:
            extent = f"{tokens_NTHW.min()}..{tokens_NTHW.max()}"
            raise ValueError(f"{path}: token ids must lie in [0, {self.vocab_size}), got {extent}")
        _check_rows(path, states, segments)
        write_array(path, tokens_NTHW, "<i4")
        _finish(root, self.shard, self.flat, [path], states, segments, self.source)


@dataclass(frozen=True)
class LatentShardWriter:
    """Write one shard of latents and its moments.

    flat, source: see TokenShardWriter.  every: 0 for blocks; for sampling clips the frames from one clip's start to the next's.
    """

    root: str | Path
    shard: int
    flat: bool = False
    clock: Clock = COSMOS
    every: int = 0
    source: str = ""

    def write(self, latents_NTCHW: np.ndarray, states: np.ndarray, segments: np.ndarray) -> None:
        """Write blocks or clips of latents, as float16, with the states (F, A) and segment ids (F,) of every frame.

        latents_NTCHW: N = ceil(F / 17) blocks of T grids, the last one padded; it does not count in the moments,
        nor do blocks that cross a segment's end.  Or one row for each of `sampling_starts`, which may be none.
        Raises ValueError for values that no reader would accept, also those too large for float16.
        """
        root = Path(self.root)
        path = layout.LATENTS.place(root, self.shard, flat=self.flat)
        _check_rows(path, states, segments)
        starts = sampling_starts(segments, every=self.every, path=path) if self.every else None
        shape = (self.clock.stored_blocks(len(states)) if starts is None else len(starts), self.clock.grids)
        if latents_NTCHW.ndim != 5 or latents_NTCHW.shape[:2] != shape:
            rows = "blocks" if starts is None else "clips"
            raise ValueError(f"{path}: {len(states)} frames need {shape} {rows} and grids, got {latents_NTCHW.shape}")
        with np.errstate(over="ignore"):
            stored = latents_NTCHW.astype("<f2", copy=False)
        if not all(np.isfinite(stored[k : k + MOMENT_ROWS]).all() for k in range(0, len(stored), MOMENT_ROWS)):
            raise ValueError(f"{path}: latents must be finite and below 65504, the reach of float16")
        write_array(path, stored, "<f2")
        moments_path = layout.MOMENTS.place(root, self.shard, flat=self.flat)
        files = [path, moments_path]
        if starts is None:
            moments = moments_of_blocks(stored, usable=usable_blocks(segments, self.clock))
        else:
            moments = moments_of_clips(stored)
            files.append(layout.CLIP_STARTS.place(root, self.shard, flat=self.flat))
            write_array(files[-1], starts, "<i4")
        write_json(moments_path, {name: value.as_json() for name, value in moments.items()})
        _finish(root, self.shard, self.flat, files, states, segments, self.source)


class RawShardWriter:
    """Write one shard of video, appended piece by piece; it is finished when the `with` block ends without an error.

    height, width: of the frames, even, in pixels.  flat: see TokenShardWriter.
    """

    def __init__(self, root: str | Path, *, shard: int, height: int, width: int, flat: bool = False, hz: int = 30) -> None:
        self.root, self.shard, self.flat = Path(root), shard, flat
        self._path = layout.VIDEO.place(self.root, shard, flat=flat)
        self._video = VideoWriter(self._path, height=height, width=width, fps=hz)
        self._states: list[np.ndarray] = []
        self._segments: list[np.ndarray] = []
        self._masks: list[np.ndarray] = []
        self._commands: list[np.ndarray] = []

    def __enter__(self) -> RawShardWriter:
        self._video.__enter__()
        return self

    def append(
        self, frames_FHWC: np.ndarray, states_FA: np.ndarray, segment: int, masks_FHW: np.ndarray | None = None
    ) -> None:
        """Append frames uint8 RGB of one segment with their states; segment ids must not decrease.

        masks_FHW: bool, which pixels show the robot's body; of all frames of a shard or of none.
        """
        segments = np.full(len(frames_FHWC), segment, np.int32)
        _check_rows(self._path, states_FA, segments)
        if self._segments and segment < self._segments[-1][-1]:
            before = self._segments[-1][-1]
            raise ValueError(f"{self._path}: segment ids must not decrease, got {segment} after {before}")
        if (masks_FHW is None and self._masks) or (masks_FHW is not None and masks_FHW.shape != frames_FHWC.shape[:3]):
            found = "none" if masks_FHW is None else f"{masks_FHW.shape} for frames {frames_FHWC.shape}"
            raise ValueError(f"{self._path}: masks must be of every frame and of its size, got {found}")
        if masks_FHW is not None:
            if self._states and not self._masks:
                raise ValueError(f"{self._path}: masks must be of every frame, there are none of the first ones")
            self._masks.append(np.packbits(masks_FHW, axis=-1))
        self._video.write(frames_FHWC)
        self._states.append(np.array(states_FA, np.float32))
        self._segments.append(segments)

    def part(self) -> None:
        """Encode what follows as if nothing had been before (`VideoWriter.part`)."""
        self._video.part()

    def append_commands(self, commands_FA: np.ndarray) -> None:
        """Append the commands of frames, a row like their states' each; of all frames of a shard or of none."""
        self._commands.append(np.array(commands_FA, np.float32))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._video.__exit__(kind, error, trace)
        if kind is None:
            states, segments = np.concatenate(self._states), np.concatenate(self._segments)
            files = [self._path]
            if self._masks:
                files.append(layout.MASKS.place(self.root, self.shard, flat=self.flat))
                write_array(files[-1], np.concatenate(self._masks), "u1")
            if self._commands:
                files.append(layout.COMMANDS.place(self.root, self.shard, flat=self.flat))
                commands = np.concatenate(self._commands)
                if commands.shape != states.shape or not np.isfinite(commands).all():
                    raise ValueError(f"{files[-1]}: commands must be finite {states.shape}, as the states, got {commands.shape}")
                write_array(files[-1], commands, "<f4")
            _finish(self.root, self.shard, self.flat, files, states, segments)


def _check_rows(path: Path, states: np.ndarray, segments: np.ndarray) -> None:
    if states.ndim != 2 or segments.shape != states.shape[:1] or not len(states):
        raise ValueError(f"{path}: expected states (F, A) and segments (F,), got {states.shape} and {segments.shape}")
    if not np.isfinite(states).all():
        raise ValueError(f"{path}: states must be finite, row {np.nonzero(~np.isfinite(states))[0][0]} is not")
    if (np.diff(segments) < 0).any():
        raise ValueError(f"{path}: segment ids must not decrease, they do after frame {np.diff(segments).argmin()}")


def _finish(
    root: Path, shard: int, flat: bool, files: list[Path], states: np.ndarray, segments: np.ndarray, source: str = ""
) -> None:
    """Write what goes with the video, tokens or latents in `files`, the metadata last."""
    states_path = layout.STATES.place(root, shard, flat=flat)
    segments_path = layout.SEGMENTS.place(root, shard, flat=flat)
    write_array(states_path, states, "<f4")
    write_array(segments_path, segments, "<i4")
    write_checksums(layout.CHECKSUMS.place(root, shard, flat=flat), [*files, states_path, segments_path])
    about = {"shard_num_frames": len(states), "shard_ind": shard} | ({"source": source} if source else {})
    write_json(layout.METADATA.place(root, shard, flat=flat), about)


def write_tokenizer_info(
    root: str | Path, *, name: str, fingerprint: str, vocab_size: int = 0, channels: int = 0, grid: tuple[int, int], clock: Clock,
    config: dict, phases: int = 1, every: int = 0, first: bool = False,
) -> None:  # fmt: skip
    """Write the sidecar `tokenizer.json` that tells readers the grid (H, W), the clock and who made tokens or latents.

    Either vocab_size, of tokens, or channels, of latents.  phases: first frames from which every raw shard was cut.
    every: 0, or for sampling clips the frames from one clip's start to the next's.  first: leave one that is there.
    """
    assert bool(vocab_size) != bool(channels)
    kind = {"vocab_size": vocab_size} if vocab_size else {"channels": channels}
    about = {"name": name, "fingerprint": fingerprint, **kind, "grid": list(grid)}
    about |= {"clock": {"stride": clock.stride, "block": clock.block}}
    about |= {"clip": clip_table(every)} if every else {}
    write_json(Path(root) / "tokenizer.json", {**about, "phases": phases, "config": config}, first=first)


def write_dataset_metadata(root: str | Path, *, num_shards: int, num_images: int, hz: int = 30) -> None:
    """Write `metadata.json`, which makes the folder a dataset; call it once, after the last shard.

    num_images: frames over all shards.
    """
    root = Path(root)
    write_json(root / "metadata.json", {"num_shards": num_shards, "query": None, "hz": hz, "num_images": num_images})
    whole = [root / name for name in ("metadata.json", "tokenizer.json", "statistics.json", "robot.toml", "quarantine.jsonl")]
    shards = [layout.METADATA.find(root, i) for i in layout.METADATA.indices(root)]
    write_checksums(root / "checksums.json", [path for path in whole + shards if path.is_file()])
