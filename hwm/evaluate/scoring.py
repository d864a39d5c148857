"""Scores of every clip, gathered batch by batch: the model with each kind of states, the baselines, the tokenizer."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from hwm.evaluate.baselines import FRAME_BASELINES, copy_last_grid
from hwm.evaluate.metrics import mean_squared_error, psnr_of_mse, ssim
from hwm.evaluate.perceptual import PerceptualScorer
from hwm.evaluate.results import CEILING, COPY_GRID, ORIGINAL, RECONSTRUCTION, Example
from hwm.evaluate.rows import LatentRows, TokenRows
from hwm.evaluate.token_scores import TokenScorer
from hwm.predict.decoding import FrameDecoder


class ClipScores:
    """Runs model, tokenizer and baselines on batches of clips and keeps one score per clip, row and grid or frame.

    tokens: None for a model of latents.
    """

    def __init__(
        self,
        rows: TokenRows | LatentRows,
        decoder: FrameDecoder,
        *,
        tokens: TokenScorer | None,
        perceptual: PerceptualScorer,
    ) -> None:
        self.rows, self.decoder, self.tokens, self.perceptual = rows, decoder, tokens, perceptual
        self.mse: dict[tuple[str, str], list[Tensor]] = {}
        self.ssim: dict[tuple[str, str], list[Tensor]] = {}
        self.examples: dict[int, tuple[float, Example]] = {}
        self._pixel_seconds, self._num_scored = 0.0, 0

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time by part."""
        return {
            "model": self.rows.seconds,
            "tokenizer": self.decoder.seconds,
            "pixel scores": self._pixel_seconds,
            "perceptual scores": self.perceptual.seconds,
        }

    @torch.no_grad()
    def score(
        self,
        context: Tensor,
        future: Tensor,
        states: dict[str, Tensor],
        *,
        seed: int,
        original_BFHWC: Tensor | None,
        clip_numbers: np.ndarray,
        bins: np.ndarray | None,
    ) -> None:
        """Score one batch, in the order of the clips.

        context, future: true tokens or latents.  states: true, zeroed and permuted.
        bins: for each clip the number of the example it may become; None keeps none.
        """
        if isinstance(self.rows, TokenRows):
            assert self.tokens is not None
            predictions = self.rows.predict(context, future, states, seed=seed)
            self.tokens.add(predictions, context, future)
            rows = self.rows.frames(context, predictions)
        else:
            rows = self.rows.frames(context, states, seed=seed)
        truth = self.decoder.future(context, future)
        past, rows[COPY_GRID] = self.decoder.past_and_repeated(context, copy_last_grid(context, num_grids=future.shape[1]))
        num_frames = truth.shape[1]
        rows |= {name: baseline(past, num_frames=num_frames) for name, baseline in FRAME_BASELINES.items()}
        for name, frames in rows.items():
            self._score_frames(RECONSTRUCTION, name, frames, truth)
        self.perceptual.add(
            rows, truth, blocks=lambda frames: self.decoder.whole_blocks(past, frames), first_clip=self._num_scored
        )
        headline, recorded = rows[self.rows.headline], None
        if original_BFHWC is not None:
            recorded_past, recorded = self._recorded(original_BFHWC.cpu(), past, truth)
            rows |= {name: baseline(recorded_past, num_frames=num_frames) for name, baseline in FRAME_BASELINES.items()}
            for name, frames in {**rows, CEILING: truth}.items():
                self._score_frames(ORIGINAL, name, frames, recorded)
        if bins is not None:
            self._keep_examples(clip_numbers, bins, past, truth, headline, recorded)
        self._num_scored += len(truth)

    def _score_frames(self, reference: str, name: str, frames: Tensor, truth: Tensor) -> None:
        started = time.perf_counter()
        self.mse.setdefault((reference, name), []).append(mean_squared_error(frames, truth))
        self.ssim.setdefault((reference, name), []).append(ssim(frames, truth))
        self._pixel_seconds += time.perf_counter() - started

    def _recorded(self, original: Tensor, past: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Context and future of the recorded video, after checking that it is the size that is decoded."""
        wanted = (len(past), past.shape[1] + truth.shape[1], *past.shape[2:])
        if original.dtype != torch.uint8 or tuple(original.shape) != wanted:
            raise ValueError(
                f"the recorded video must be uint8 {wanted} as the tokenizer decodes it, got {original.dtype} "
                f"{tuple(original.shape)}; resize it by area first"
            )
        return original[:, : past.shape[1]], original[:, past.shape[1] :]

    def _keep_examples(
        self, clips: np.ndarray, bins: np.ndarray, past: Tensor, truth: Tensor, frames: Tensor, recorded: Tensor | None
    ) -> None:
        motion = mean_squared_error(truth[:, -1], past[:, -1])
        psnr = psnr_of_mse(mean_squared_error(frames[:, -1], truth[:, -1]))
        for i, part in enumerate(bins.tolist()):
            if part not in self.examples or motion[i] > self.examples[part][0]:
                example = Example(
                    clip=int(clips[i]),
                    context=past[i].numpy().copy(),
                    truth=truth[i].numpy().copy(),
                    prediction=frames[i].numpy().copy(),
                    psnr=float(psnr[i]),
                    psnr_copy=float(psnr_of_mse(motion[i])),
                    original=None if recorded is None else recorded[i].numpy().copy(),
                )
                self.examples[part] = (float(motion[i]), example)
