"""One raw shard into one shard of tokens or latents, streamed: memory does not grow with its length.

Every fault of the raw shard, found before or while it is read, is a `ShardFault`; other errors are not the shard's.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hwm.clock import SAMPLING_FRAMES, WAN, subsample
from hwm.contracts import LatentTokenizer, Tokenizer
from hwm.data.checksums import verify
from hwm.data.dataset import ShardFault
from hwm.data.layout import CHECKSUMS, CLIP_STARTS, LATENTS, MOMENTS, SEGMENTS, STATES, TOKENS
from hwm.data.quarantine import Rule
from hwm.data.raw import RawShard
from hwm.data.windows import check_segments, sampling_starts
from hwm.data.writers import LatentShardWriter, TokenShardWriter, shard_finished
from hwm.tokenizers.open import open_tokenizer
from hwm.training.device import cpu_threads
from hwm.work.files import cannot_write, expect_rows
from hwm.work.workers import Tell

BATCH_BLOCKS = 8
"""Blocks or clips that are encoded at once."""
ROWS_AT_ONCE = 4096
KINDS = (TOKENS, LATENTS, CLIP_STARTS, MOMENTS, STATES, SEGMENTS, CHECKSUMS)


@dataclass(frozen=True)
class ShardJob:
    """What is to be made of one raw shard.

    raw, out: dataset folders.  phase: which of the first frames of `rule`.  size: side to which frames are resized, 0 keeps
    them.  frame_size: height and width in pixels that the stored frames must have, None where they are resized.
    """

    raw: Path
    out: Path
    shard: RawShard
    phase: int
    rule: Rule
    size: int
    frame_size: tuple[int, int] | None
    flat: bool

    @property
    def target(self) -> int:
        """Number of the shard to write."""
        return self.shard.index * self.rule.phases + self.phase

    @property
    def finished(self) -> bool:
        """Whether it was written to its end, by whomever."""
        return shard_finished(self.out, self.target)


@dataclass(frozen=True)
class Outcome:
    """What became of a job.  fault: of the raw shard, then nothing was written.  rate: frames per second by its header."""

    job: ShardJob
    fault: ShardFault | None
    rate: float = 0.0


def open_encoder(tokenizer: str, trust: bool, device: str) -> ShardEncoder:
    """For worker processes."""
    return ShardEncoder(open_tokenizer(tokenizer, trust=trust, device=device), device=device)


class ShardEncoder:
    """Does `ShardJob`s with one tokenizer.  poll: called between batches, to stop by raising."""

    def __init__(self, encoder: Tokenizer | LatentTokenizer, *, device: str, poll: Callable[[], None] = lambda: None) -> None:
        self._encoder, self._device, self._poll = encoder, device, poll

    def __call__(self, job: ShardJob, tell: Tell) -> None:
        """Write the shard, or leave no trace of it, and tell the Outcome."""
        try:
            rate = self._check(job)
            # On more threads sums go in another order, and the bytes would depend on how the work was shared.
            with cpu_threads(1), _Rows(job.out) as rows:
                self._write(job, rows)
        except ShardFault as fault:
            for kind in KINDS:  # what a killed attempt left, when the raw shard was still whole
                for flat in (True, False):
                    kind.place(job.out, job.target, flat=flat).unlink(missing_ok=True)
            tell(Outcome(job, ShardFault(str(fault), shard=job.shard.index, frame=fault.frame)))
        else:
            tell(Outcome(job, None, rate))

    def _check(self, job: ShardJob) -> float:
        """All that can be known before decoding; the frames per second that the video claims."""
        shard = job.shard
        try:
            for fault in verify(job.raw, only=shard.index):
                # Checksums name files by their real path; a record names them as all others.
                raise ValueError(str(fault).replace(str(job.raw.resolve()), str(job.raw), 1))
            check_segments(np.array(expect_rows(shard.segments)), shard.segments_path)
            for first in range(0, shard.num_frames, ROWS_AT_ONCE):
                shard.read_states(np.arange(first, min(first + ROWS_AT_ONCE, shard.num_frames)))
            height, width, rate = shard.probed
            if job.frame_size not in (None, (height, width)):
                others = "x".join(map(str, job.frame_size or ()))
                raise ValueError(f"{shard.video_path}: frames of {height}x{width}, not {others} as in most shards; set size")
        except ShardFault:
            raise
        except ValueError as error:
            raise ShardFault(str(error)) from None
        return rate

    def _write(self, job: ShardJob, rows: _Rows) -> None:
        encoder, shard, first, every = self._encoder, job.shard, job.rule.offset(job.phase), job.rule.every
        clock, sizes = encoder.clock, sizes_of(encoder)
        common: dict[str, Any] = {"shard": job.target, "flat": job.flat, "clock": clock, "source": shard.fingerprint}
        for video_BFHWC in (_clips if every else _blocks)(job, clock.block):
            self._poll()
            codes = encoder.encode(torch.from_numpy(video_BFHWC).to(self._device)).cpu().numpy()
            rows.append(codes.astype(np.float32 if "channels" in sizes else np.int32))
        states = np.array(expect_rows(shard.states)[first:])
        segments = np.array(expect_rows(shard.segments)[first:])
        writer: TokenShardWriter | LatentShardWriter
        if "channels" in sizes:
            writer = LatentShardWriter(job.out, **common, every=every)
        else:
            writer = TokenShardWriter(job.out, **common, **sizes)
        if not job.finished:  # another process may have been faster, with the same bytes
            (job.out / "metadata.json").unlink(missing_ok=True)  # what grows is no dataset
            grid = tuple(n // encoder.spatial_stride for n in (job.frame_size or (job.size, job.size)))
            channels = (sizes["channels"],) if "channels" in sizes else ()
            writer.write(rows.all((0, clock.grids, *channels, *grid)), states, segments)


def sizes_of(encoder: Any) -> dict[str, Any]:
    """What tells a tokenizer's grids from other numbers: the channels of latents, or the vocabulary of tokens."""
    return {"channels": encoder.channels} if encoder.kind == "latents" else {"vocab_size": encoder.vocab_size}


def encodes_clips(encoder: Tokenizer | LatentTokenizer) -> bool:
    """Whether sampling clips are made with it, rather than blocks: continuous, by Wan's clock."""
    return encoder.kind == "latents" and encoder.clock == WAN


def _pictures(job: ShardJob) -> Iterator[np.ndarray]:
    """Every frame of the shard, in order; exactly one for each state row."""
    try:
        yield from replace(job.shard, size=job.size).iter_pictures()
    except ShardFault:
        raise
    except ValueError as error:
        raise ShardFault(str(error)) from None


def _blocks(job: ShardJob, block: int) -> Iterator[np.ndarray]:
    """Batches (B, block, H, W, 3) of consecutive blocks from the phase's first frame."""
    pictures = islice(_pictures(job), job.rule.offset(job.phase), None)
    while piece := list(islice(pictures, BATCH_BLOCKS * block)):
        piece += [piece[-1]] * (-len(piece) % block)  # the last block is filled with its last frame, as no reader uses it
        frames = np.stack(piece)
        yield frames.reshape(-1, block, *frames.shape[1:])


def _clips(job: ShardJob, length: int) -> Iterator[np.ndarray]:
    """Batches (B, length, H, W, 3) of sampling clips, every fourth frame of each."""
    shard, kept = job.shard, subsample(length=length)
    starts = deque(sampling_starts(np.array(shard.segments), every=job.rule.every, path=shard.segments_path))
    recent: deque[np.ndarray] = deque(maxlen=SAMPLING_FRAMES)
    clips: list[np.ndarray] = []
    for number, picture in enumerate(_pictures(job)):
        recent.append(picture)
        if starts and number == starts[0] + SAMPLING_FRAMES - 1:
            starts.popleft()
            clips.append(np.stack([recent[i] for i in kept]))
        if len(clips) == BATCH_BLOCKS:
            yield np.stack(clips)
            clips = []
    if clips:
        yield np.stack(clips)


class _Rows:
    """Arrays one after the other in a file without a name, which vanishes with the process."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._file = folder, tempfile.TemporaryFile(dir=folder)
        self._shape: tuple[int, ...] = ()
        self._dtype: np.dtype = np.dtype(np.int32)
        self._count = 0

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # of what a full disk did not take
            self._file.close()

    def append(self, array: np.ndarray) -> None:
        """Add along the first axis.  Raises ValueError when the disk is full."""
        self._shape, self._dtype = array.shape[1:], array.dtype
        self._count += len(array)
        try:
            self._file.write(np.ascontiguousarray(array).data)
            self._file.flush()
        except OSError as error:
            raise cannot_write(self._folder / "shard", error) from None

    def all(self, empty: tuple[int, ...]) -> np.ndarray:
        """Everything, as a memory map; zeros of shape `empty` where nothing was added."""
        if not self._count:
            return np.zeros(empty, np.float32)
        return np.memmap(self._file, dtype=self._dtype, mode="r", shape=(self._count, *self._shape))
