"""Scores of every clip, batch by batch: the model with each kind of states, the baselines, the tokenizer."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from hwm.evaluate_old.baselines import FRAME_BASELINES, copy_last_grid
from hwm.evaluate_old.metrics import mean_squared_error, psnr_of_mse, ssim
from hwm.evaluate_old.perceptual import PerceptualScorer
from hwm.evaluate_old.results import CEILING, COPY_GRID, ORIGINAL, RECONSTRUCTION, Example
from hwm.evaluate_old.rows import LatentRows, TokenRows
from hwm.evaluate_old.token_scores import TokenScorer
from hwm.predict.decoding import FrameDecoder
from hwm.work.parts import Arrays, Columns, Times, inside, seconds, under


class ClipScores:
    """Runs model, tokenizer and baselines on batches of clips, and joins the scores per clip, row and grid or frame.

    tokens: None for a model of latents.  poll: called now and then while a batch is measured; may raise.
    """

    def __init__(
        self,
        rows: TokenRows | LatentRows,
        decoder: FrameDecoder,
        *,
        tokens: TokenScorer | None,
        perceptual: PerceptualScorer,
        poll: Callable[[], None] = lambda: None,
    ) -> None:
        self.rows, self.decoder, self.tokens, self.perceptual, self.poll = rows, decoder, tokens, perceptual, poll
        self.times = Times()
        self._columns = Columns()
        self._examples: dict[int, tuple[float, Example]] = {}

    @torch.no_grad()
    def measure(
        self,
        context: Tensor,
        future: Tensor,
        states: dict[str, Tensor],
        *,
        seed: int,
        original_BFHWC: Tensor | None,
        clip_numbers: np.ndarray,
        first_clip: int,
        bins: np.ndarray | None,
    ) -> Arrays:
        """Scores of one batch; nothing of it is kept here.

        context, future: true tokens or latents.  states: true, zeroed and permuted.
        clip_numbers: in the dataset.  first_clip: place of the first one among all clips that are scored.
        bins: for each clip the number of the example it may become; None keeps none.
        """
        started = time.perf_counter()
        spent = self.rows.seconds, self.decoder.seconds, self.perceptual.seconds
        found: Arrays = {}
        if isinstance(self.rows, TokenRows):
            assert self.tokens is not None
            predictions = self.rows.predict(context, future, states, seed=seed, poll=self.poll)
            found |= under("tokens", self.tokens.measure(predictions, context, future))
            rows = self.rows.frames(context, predictions)
        else:
            rows = self.rows.frames(context, states, seed=seed, poll=self.poll)
        truth = self.decoder.future(context, future)
        past, rows[COPY_GRID] = self.decoder.past_and_repeated(context, copy_last_grid(context, num_grids=future.shape[1]))
        num_frames = truth.shape[1]
        rows |= {name: baseline(past, num_frames=num_frames) for name, baseline in FRAME_BASELINES.items()}
        pixels = -time.perf_counter()
        found |= self._frames(RECONSTRUCTION, rows, truth)
        pixels += time.perf_counter()
        found |= under(
            "perceptual",
            self.perceptual.measure(
                rows, truth, blocks=lambda f: self.decoder.whole_blocks(past, f), first_clip=first_clip, poll=self.poll
            ),
        )
        headline, recorded = rows[self.rows.headline], None
        if original_BFHWC is not None:
            recorded_past, recorded = self._recorded(original_BFHWC.cpu(), past, truth)
            rows |= {name: baseline(recorded_past, num_frames=num_frames) for name, baseline in FRAME_BASELINES.items()}
            pixels -= time.perf_counter()
            found |= self._frames(ORIGINAL, {**rows, CEILING: truth}, recorded)
            pixels += time.perf_counter()
        if bins is not None:
            found |= _examples(clip_numbers, bins, past, truth, headline, recorded)
        return found | seconds(
            model=self.rows.seconds - spent[0],
            tokenizer=self.decoder.seconds - spent[1],
            pixel_scores=pixels,
            perceptual_scores=self.perceptual.seconds - spent[2],
            total=time.perf_counter() - started,
        )

    def add(self, arrays: Arrays) -> None:
        """Take in what was measured of the next clips."""
        self.times.add(arrays)
        self.perceptual.add(inside("perceptual", arrays))
        if self.tokens is not None:
            self.tokens.add(inside("tokens", arrays))
        self._columns.add(inside("pixels", arrays))
        examples = inside("examples", arrays)
        for part in sorted({int(key.partition("/")[0]) for key in examples}):
            of_part = inside(str(part), examples)
            motion = float(of_part["motion"][0])
            if part not in self._examples or motion > self._examples[part][0]:
                self._examples[part] = motion, _example(of_part)

    @property
    def mse(self) -> dict[tuple[str, str], Tensor]:
        """Mean squared error (N, F) by reference and row."""
        return self._of("mse")

    @property
    def ssim(self) -> dict[tuple[str, str], Tensor]:
        """SSIM (N, F) by reference and row."""
        return self._of("ssim")

    @property
    def examples(self) -> list[Example]:
        """The clips to look at, in their order."""
        return [self._examples[part][1] for part in sorted(self._examples)]

    def _of(self, metric: str) -> dict[tuple[str, str], Tensor]:
        found = {}
        for key, values_NF in self._columns.inside(metric).items():
            reference, _, name = key.partition("/")
            found[reference, name] = values_NF
        return found

    def _frames(self, reference: str, rows: dict[str, Tensor], truth: Tensor) -> Arrays:
        found: Arrays = {}
        for name, frames in rows.items():
            self.poll()
            found[f"pixels/mse/{reference}/{name}"] = mean_squared_error(frames, truth).numpy()
            found[f"pixels/ssim/{reference}/{name}"] = ssim(frames, truth).numpy()
        return found

    def _recorded(self, original: Tensor, past: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Context and future of the recorded video, after checking that it is the size that is decoded."""
        wanted = (len(past), past.shape[1] + truth.shape[1], *past.shape[2:])
        if original.dtype != torch.uint8 or tuple(original.shape) != wanted:
            raise ValueError(
                f"the recorded video must be uint8 {wanted} as the tokenizer decodes it, got {original.dtype} "
                f"{tuple(original.shape)}; resize it by area first"
            )
        return original[:, : past.shape[1]], original[:, past.shape[1] :]


def _examples(
    clips: np.ndarray, bins: np.ndarray, past: Tensor, truth: Tensor, frames: Tensor, recorded: Tensor | None
) -> Arrays:
    """From each bin of a batch the clip whose recorded future moves most: its frames and figures, under "examples/BIN/"."""
    motion = mean_squared_error(truth[:, -1], past[:, -1])
    found: Arrays = {}
    for part in np.unique(bins):
        mine = np.flatnonzero(bins == part)
        i = int(mine[motion.numpy()[mine].argmax()])  # the first of equals
        own = {"context": past[i], "truth": truth[i], "prediction": frames[i]}
        if recorded is not None:
            own["original"] = recorded[i]
        psnrs = psnr_of_mse(torch.stack([mean_squared_error(frames[i, -1], truth[i, -1]), motion[i]]))
        facts = {"clip": clips[i : i + 1], "motion": motion[i : i + 1].double().numpy(), "psnr": psnrs.double().numpy()}
        found |= under(f"examples/{part}", facts | {name: video.numpy().copy() for name, video in own.items()})
    return found


def _example(arrays: Arrays) -> Example:
    psnr, psnr_copy = arrays["psnr"].tolist()
    return Example(
        clip=int(arrays["clip"][0]),
        context=arrays["context"],
        truth=arrays["truth"],
        prediction=arrays["prediction"],
        psnr=psnr,
        psnr_copy=psnr_copy,
        original=arrays.get("original"),
    )
