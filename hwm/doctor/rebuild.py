"""How well a tokenizer rebuilds a video, before hours are spent on what it makes of it.

What a tokenizer loses no model of its tokens can give back.  So its reconstruction is held against a threshold, and against
copying: where a recorded frame of some time ago is nearer to a frame than the frame's own reconstruction, copying wins against
the recorded video whatever a model learns.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hwm.clock import SAMPLING_STEP, subsample
from hwm.data.onex import open_dataset
from hwm.data.recordings.excerpt import WHOLE, View
from hwm.data.windows import ClipIndex
from hwm.doctor.verdict import Verdict, count, graded
from hwm.evaluate.metrics import psnr
from hwm.recipes import RECIPES
from hwm.tokenizers.autoencoder import VideoAutoencoder
from hwm.tokenizers.open import open_tokenizer
from hwm.tokenizers.shard_job import encodes_clips

CLIPS = 16
AT_ONCE = 4
FIRST_FRAMES = 600
"""Of a shard, among which its clips are chosen: more would have to be decoded to get to them."""
LEAST_PSNR = 28.0
"""dB below which edges of hands and cables are gone at 64 to 256 pixels, as we have seen it (ours)."""
FAR_AHEAD = 8
"""Frames ahead up to which a world model is usually asked; copying that wins so far leaves it little to win (ours)."""


@dataclass(frozen=True)
class Rebuilt:
    """What was measured on clips of a video.

    psnr, worst: of the frames rebuilt against the recorded ones in dB, mean over the clips and of the worst.
    copied: PSNR of the recorded frame of so many frames before, by their number.
    """

    tokenizer: str
    psnr: float
    worst: float
    copied: dict[int, float]
    clips: int

    @property
    def ahead(self) -> int:
        """Frames ahead up to which copying a recorded frame is as near as the reconstruction; 0 where it never is."""
        return next((n for n in sorted(self.copied, reverse=True) if self.copied[n] >= self.psnr), 0)

    @property
    def poor(self) -> bool:
        """Whether something should be done about it first."""
        return self.psnr < LEAST_PSNR or self.ahead >= FAR_AHEAD

    def text(self) -> str:
        """What was found, in words."""
        numbers = sorted(self.copied)
        shown = [n for n in (numbers[0], FAR_AHEAD, numbers[-1]) if n in self.copied]
        listed = ", ".join(f"{self.copied[n]:.1f} dB of {count(n, 'frame')} ago" for n in dict.fromkeys(shown))
        found = f"{self.tokenizer} rebuilds {count(self.clips, 'clip')} of it at {self.psnr:.1f} dB (the worst {self.worst:.1f})"
        found += f"; a copy of the frame has {listed}"
        if self.ahead:
            found += f".  Up to {count(self.ahead, 'frame')} ahead copying is nearer to the recording than this tokenizer's own "
            found += "reconstruction of the truth: there no model of what it makes can win"
        return found


@torch.no_grad()
def rebuild(
    coder: Any, raw: str | Path, *, size: int = 0, clips: int = CLIPS, device: str = "cpu", view: View = WHOLE
) -> Rebuilt:
    """Encode and decode clips spread over a raw dataset, each a block of the tokenizer or, by Wan's clock, a sampling clip.

    coder: any tokenizer.  size: side in pixels to which frames are resized first, 0 keeps them.
    view: what of the recordings is taken.
    Raises ValueError where the dataset is none of video, has no such clip, or frames do not divide by the tokenizer's stride.
    """
    dataset: Any = open_dataset(raw, view=view)
    if dataset.kind != "video":
        raise ValueError(f"{raw}: holds no video; give the raw dataset (videos as .mp4)")
    dataset = dataset.resized(size) if size else dataset
    sampled = encodes_clips(coder)
    step, places = SAMPLING_STEP if sampled else 1, subsample() if sampled else np.arange(coder.clock.block)
    length, distinct = int(places[-1]) + 1, len(np.unique(places))
    cut: dict[str, Any] = {"kind": "frames", "overlap": True, "length": length}
    index = ClipIndex.build(dataset, **cut, every=coder.clock.block)
    if len(index) < clips:
        index = ClipIndex.build(dataset, **cut)
    near = np.flatnonzero(index.start <= max(FIRST_FRAMES, int(index.start.min())))
    chosen = near[np.unique(np.linspace(0, len(near) - 1, min(clips, len(near))).round().astype(int))]
    rebuilt: list[float] = []
    copied: dict[int, list[float]] = {n: [] for n in range(step, step * distinct, step)}
    for first in range(0, len(chosen), AT_ONCE):
        some = chosen[first : first + AT_ONCE]
        pictures = [_frames(dataset.shards[int(index.shard[i])], int(index.start[i]), places) for i in some]
        video = torch.from_numpy(np.stack(pictures)).to(device)
        rebuilt += psnr(coder.decode(coder.encode(video)), video).mean(1).tolist()
        for frames, values in copied.items():
            recorded = video[:, :distinct]
            values += psnr(recorded[:, : -(frames // step)], recorded[:, frames // step :]).mean(1).tolist()
    means = {frames: float(np.mean(values)) for frames, values in copied.items()}
    return Rebuilt(coder.name, float(np.mean(rebuilt)), min(rebuilt), means, len(rebuilt))


def _frames(shard: Any, start: int, places: np.ndarray) -> np.ndarray:
    """Frames of a shard, uint8 RGB (F, H, W, 3), decoded up to the last of them and not kept."""
    pictures = list(islice(shard.iter_pictures(), start, start + int(places[-1]) + 1))
    return np.stack([pictures[place] for place in places])


def remedy(coder: Any, tokenizer: str, raw: str | Path, *, size: int = 0) -> str:
    """The command that trains or fine-tunes a tokenizer on this video, and what to do then."""
    by_model = {entry.build().model: entry.name for entry in RECIPES if entry.place == "tokenizers"}
    own = isinstance(coder, VideoAutoencoder)
    usual = "fsq-8x8x8" if coder.kind == "tokens" else "continuous-4x8x8" if encodes_clips(coder) else "continuous-8x8x8"
    recipe = by_model.get(coder.config, "") if own else usual
    start = f" --init {shlex.quote(tokenizer if own else usual)}" if recipe else ""
    raw = Path(raw)
    held_out = raw.with_name(raw.name.replace("train", "val", 1))
    val = shlex.quote(str(held_out)) if held_out != raw and held_out.is_dir() else "HELD_OUT"
    resized = f" --set data.image_size={size}" if size else ""
    command = f"hwm train {recipe or usual}{start} --out runs/tokenizer --data {shlex.quote(str(raw))} --val {val}{resized}"
    what = "fine-tune it" if own and recipe else "train one"
    then = "hwm export runs/tokenizer my-tokenizer; and tokenize with --tokenizer my-tokenizer"
    finer = usual.replace("8x8x8", "8x4x4")
    more = f"; of small frames {finer} keeps more, in four times the tokens" * (finer != usual and coder.spatial_stride > 4)
    return f"{what} on this video: {command}; {then}{more}"


def rebuilding(
    tokenizer: str, raw: str | Path, *, size: int = 0, trust: bool = False, device: str = "cpu", view: View = WHOLE
) -> Verdict:
    """The verdict on a tokenizer and a video."""
    coder = open_tokenizer(tokenizer, trust=trust, device=device)
    if coder.kind == "video":
        raise ValueError(f"{tokenizer}: leaves frames as they are; there is nothing to rebuild")
    found = rebuild(coder, raw, size=size, device=device, view=view)
    return graded("rebuilding", found.text(), remedy(coder, tokenizer, raw, size=size), warns=found.poor)
