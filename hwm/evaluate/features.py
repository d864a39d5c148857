"""Features of predicted frames between which a Frechet distance is taken.

The features give the distance its name: only those of the FID Inception network give an "FID".
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from hwm.clock import Clock
from hwm.evaluate.inception import load_inception
from hwm.tokenizers.store import load_tokenizer

FRAMES_AT_ONCE = 16
"""Frames that go through Inception together; each costs about 50 MB of activations."""


class VideoFeatures(Protocol):
    """Features of the future of videos.  `name`: what the Frechet distance between them is called."""

    name: str

    def __call__(self, video_BFHWC: Tensor, *, num_future_frames: int) -> Tensor:
        """uint8 video of context and future to float32 (B, N, D): N features of its last `num_future_frames`."""


class TokenizerFeatures:
    """Activations of the encoder of the shipped tokenizer fsq-8x8x8, at every place of the future's grids (ours).

    The distance between them is the TFD (tokenizer-feature distance): it compares local appearance and motion,
    over 8x8 pixels and their surroundings and over 8 frames.  It needs no further file and is NOT an FID: the
    network was trained to reconstruct the built-in robot's pictures, not to recognise objects, and sees no whole
    frame.  Values compare with other TFDs only.
    """

    name = "TFD"

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._tokenizer = load_tokenizer("fsq-8x8x8", device=str(device))

    @torch.no_grad()
    def __call__(self, video_BFHWC: Tensor, *, num_future_frames: int) -> Tensor:
        """uint8 video (B, F, H, W, 3) of whole 17-frame blocks to float32 (B, grids * h * w, 192).

        The grids are those that cover a future frame; they do not depend on context before their block.
        Raises ValueError for a video that is not whole blocks, or no future in it.
        """
        clock: Clock = self._tokenizer.clock
        num_frames = video_BFHWC.shape[1]
        _check_future(num_frames, num_future_frames)
        if num_frames % clock.block:
            raise ValueError(f"TFD needs videos of whole blocks of {clock.block} frames, got {num_frames} frames")
        grid = clock.grid_of(num_frames - num_future_frames)
        block, skipped = divmod(grid, clock.grids)  # blocks are encoded independently; those of the context are not needed
        features_BTDHW = self._tokenizer.features(video_BFHWC[:, block * clock.block :].to(self.device))[:, skipped:]
        return features_BTDHW.float().movedim(2, -1).flatten(1, 3)


class InceptionFeatures:
    """The pool3 features of the FID Inception network, of every future frame by itself.

    weights: the user's file pt_inception-2015-12-05-6726825d.pth, or the same tensors as safetensors.
    Raises ValueError for a file that is not it.
    """

    name = "FID"

    def __init__(self, weights: str | Path, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._inception = load_inception(weights, device=device)

    @torch.no_grad()
    def __call__(self, video_BFHWC: Tensor, *, num_future_frames: int) -> Tensor:
        """uint8 video (B, F, H, W, 3) to float32 (B, num_future_frames, 2048).  Raises ValueError for no future in it."""
        _check_future(video_BFHWC.shape[1], num_future_frames)
        frames_NCHW = video_BFHWC[:, -num_future_frames:].flatten(0, 1).movedim(-1, 1)
        features = [self._inception(part.to(self.device)) for part in frames_NCHW.split(FRAMES_AT_ONCE)]
        return torch.cat(features).unflatten(0, (len(video_BFHWC), -1))


def _check_future(num_frames: int, num_future_frames: int) -> None:
    if not 0 < num_future_frames <= num_frames:
        raise ValueError(f"expected between 1 and {num_frames} future frames, got {num_future_frames}")
