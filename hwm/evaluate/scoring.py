"""Scores of every clip, gathered batch by batch: the model with each kind of states, the baselines, the tokenizer."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwm.contracts import Prediction, Sampling, Tokenizer, TokenWorldModel
from hwm.evaluate.baselines import PIXEL_BASELINES, copy_last_grid, unigram_nll
from hwm.evaluate.metrics import MISSING_POLICIES, mean_squared_error, psnr_of_mse, ssim, topk_nll
from hwm.evaluate.results import (
    AUTOREGRESSIVE,
    CEILING,
    EXPECTED_CODE,
    LIKELY_TOKENS,
    ORIGINAL,
    PERMUTED,
    RECONSTRUCTION,
    SAMPLED_TOKENS,
    TEACHER_FORCED,
    ZEROED,
    Example,
)


class ClipScores:
    """Runs model, tokenizer and baselines on batches of clips and keeps one score per clip, row and grid or frame."""

    def __init__(
        self,
        model: TokenWorldModel,
        tokenizer: Tokenizer,
        *,
        sampling: Sampling,
        decode: str,
        top_k: int,
        device: torch.device | str,
    ) -> None:
        self.model, self.tokenizer, self.sampling, self.device = model, tokenizer, sampling, device
        self.top_k = top_k
        clock = tokenizer.clock
        if model.context_grids % clock.grids or model.future_grids % clock.grids:
            raise ValueError(
                f"frames are decoded in whole blocks of {clock.grids} grids; the model has {model.context_grids} "
                f"context and {model.future_grids} future grids"
            )
        self.num_frames = clock.num_frames(model.future_grids)
        self.decode_mean = decode == "mean"
        self.tokens_row = LIKELY_TOKENS if sampling.temperature == 0 else SAMPLED_TOKENS
        self.headline = EXPECTED_CODE if self.decode_mean else self.tokens_row
        self.nll: dict[str, list[Tensor]] = {}
        self.right: dict[str, list[Tensor]] = {}
        self.top_nll: dict[str, list[Tensor]] = {}
        self.covered: list[Tensor] = []
        self.mse: dict[tuple[str, str], list[Tensor]] = {}
        self.ssim: dict[tuple[str, str], list[Tensor]] = {}
        self.examples: dict[int, tuple[float, Example]] = {}
        self.seconds = {"model": 0.0, "tokenizer": 0.0, "pixel scores": 0.0}

    @torch.no_grad()
    def score(
        self,
        tokens_BTHW: Tensor,
        states: dict[str, Tensor],
        *,
        generator: torch.Generator,
        unigram_counts: Tensor | None,
        original_BFHWC: Tensor | None,
        clip_numbers: np.ndarray,
        bins: np.ndarray | None,
    ) -> None:
        """Score one batch.  bins: for each clip the number of the example it may become; None keeps none."""
        context, future = tokens_BTHW.tensor_split([self.model.context_grids], 1)
        predictions: dict[str, Prediction] = {}
        for name, states_BFA in states.items():
            predictions[name] = self._predict(context, future, states_BFA, generator, name == AUTOREGRESSIVE)
        predictions[TEACHER_FORCED] = self._predict(context, future, states[AUTOREGRESSIVE], generator, None)
        for name, prediction in predictions.items():
            self._score_tokens(name, prediction, future)
        self._add(self.right, "copy last grid", per_grid(copy_last_grid(context, num_grids=future.shape[1]) == future))
        if unigram_counts is not None:
            self._add(self.nll, "unigram", per_grid(unigram_nll(future, unigram_counts)))
        self._score_topk(predictions[AUTOREGRESSIVE], future)

        past, truth = self._decode(context), self._decode(future)
        rows = self._frames(predictions)
        for name, baseline in PIXEL_BASELINES.items():
            rows[name] = baseline(past, context.to(self.device), self.tokenizer, future.shape[1]).cpu()
        for name, frames in rows.items():
            self._score_frames(RECONSTRUCTION, name, frames, truth)
        recorded = None
        if original_BFHWC is not None:
            recorded = self._check_original(original_BFHWC.cpu(), past, truth)
            seen = original_BFHWC.cpu()[:, : past.shape[1]]
            for name in ("copy last frame", "mean of context"):
                rows[name] = PIXEL_BASELINES[name](seen, context, self.tokenizer, future.shape[1])
            for name, frames in {**rows, CEILING: truth}.items():
                self._score_frames(ORIGINAL, name, frames, recorded)
        if bins is not None:
            self._keep_examples(clip_numbers, bins, past, truth, rows[self.headline], recorded)

    def _predict(
        self, context: Tensor, future: Tensor, states_BFA: Tensor, generator: torch.Generator, wide: bool | None
    ) -> Prediction:
        """wide: with the top-k logits.  None: teacher-forced."""
        started = time.perf_counter()
        prediction = self.model.predict(
            context.to(self.device),
            states_BFA.to(self.device),
            generator=generator,
            sampling=self.sampling,
            targets_BTHW=future.to(self.device),
            teacher_forced=wide is None,
            top_k_logits=self.top_k if wide else 1,
            codes_VC=None if wide is None else self.tokenizer.codes_VC.to(self.device),
        )
        self.seconds["model"] += time.perf_counter() - started
        return prediction

    def _score_tokens(self, name: str, prediction: Prediction, future: Tensor) -> None:
        if prediction.nll_BTHW is not None:
            self._add(self.nll, name, per_grid(prediction.nll_BTHW.cpu()))
        if prediction.top_indices_BTHWK is not None:
            self._add(self.right, name, per_grid(prediction.top_indices_BTHWK[..., 0].cpu() == future))

    def _score_topk(self, prediction: Prediction, future: Tensor) -> None:
        indices, values = prediction.top_indices_BTHWK, prediction.top_values_BTHWK
        if indices is None or values is None:
            return
        indices, values = indices.cpu(), values.cpu()
        for policy in MISSING_POLICIES:
            if policy == "uniform_rest" and not _are_log_probabilities(indices, values, future, prediction.nll_BTHW):
                continue
            nll, covered = topk_nll(indices, values, future, missing=policy, vocab_size=self.tokenizer.vocab_size)
            self._add(self.top_nll, policy, nll.flatten(1).nanmean(1))
        self.covered.append(covered.to(torch.float64).flatten(1).mean(1))

    def _frames(self, predictions: dict[str, Prediction]) -> dict[str, Tensor]:
        """Decoded predictions by row: both readings with true states, the headline's with the other states."""
        true = predictions[AUTOREGRESSIVE]
        if true.tokens_BKTHW is None or (self.decode_mean and true.codes_BTHWC is None):
            raise ValueError("the model gives no expected codes; evaluate its tokens with decode='sample'")
        rows = {self.tokens_row: self._decode(true.tokens_BKTHW[:, 0])}
        if true.codes_BTHWC is not None:
            rows[EXPECTED_CODE] = self._decode_codes(true.codes_BTHWC)
        for name in (ZEROED, PERMUTED):
            prediction = predictions[name]
            if self.decode_mean:
                assert prediction.codes_BTHWC is not None
                rows[name] = self._decode_codes(prediction.codes_BTHWC)
            else:
                assert prediction.tokens_BKTHW is not None
                rows[name] = self._decode(prediction.tokens_BKTHW[:, 0])
        return rows

    def _decode(self, tokens_BTHW: Tensor) -> Tensor:
        started = time.perf_counter()
        video = self.tokenizer.decode(tokens_BTHW.to(self.device)).cpu()
        self.seconds["tokenizer"] += time.perf_counter() - started
        return video

    def _decode_codes(self, codes_BTHWC: Tensor) -> Tensor:
        started = time.perf_counter()
        video = self.tokenizer.decode_codes(codes_BTHWC).cpu()
        self.seconds["tokenizer"] += time.perf_counter() - started
        return video

    def _score_frames(self, reference: str, name: str, frames: Tensor, truth: Tensor) -> None:
        started = time.perf_counter()
        self._add(self.mse, (reference, name), mean_squared_error(frames, truth))
        self._add(self.ssim, (reference, name), ssim(frames, truth))
        self.seconds["pixel scores"] += time.perf_counter() - started

    def _check_original(self, original: Tensor, past: Tensor, truth: Tensor) -> Tensor:
        wanted = (len(past), past.shape[1] + truth.shape[1], *past.shape[2:])
        if original.dtype != torch.uint8 or tuple(original.shape) != wanted:
            raise ValueError(
                f"the recorded video must be uint8 {wanted} as the tokenizer decodes it, got {original.dtype} "
                f"{tuple(original.shape)}; resize it by area first"
            )
        return original[:, past.shape[1] :]

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

    @staticmethod
    def _add(table: dict[Any, list[Tensor]], name: Any, values: Tensor) -> None:
        table.setdefault(name, []).append(values)


def per_grid(values_BTHW: Tensor) -> Tensor:
    """Mean over the places of every grid, float64 (B, T)."""
    return values_BTHW.to(torch.float64).mean((2, 3))


def _are_log_probabilities(indices: Tensor, values: Tensor, future: Tensor, nll_BTHW: Tensor | None) -> bool:
    """Whether the top values of the targets are their log-probabilities rather than unnormalised logits."""
    hit = indices == future[..., None]
    if nll_BTHW is None or not hit.any():
        return False
    return torch.allclose(values[hit], -nll_BTHW.cpu()[hit.any(-1)].to(values.dtype), atol=1e-3)
