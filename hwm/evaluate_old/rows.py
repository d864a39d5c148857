"""The rows of a world model: what it predicts with each kind of states, decoded; one class a kind of model.

The rows with other states are made in the same way as the headline row, from the same random numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from hwm.contracts import LatentWorldModel, Prediction, Sampling, Tokenizer, TokenWorldModel
from hwm.evaluate_old.results import (
    AUTOREGRESSIVE,
    EXPECTED_CODE,
    LIKELY_TOKENS,
    PERMUTED,
    SAMPLED_LATENTS,
    SAMPLED_TOKENS,
    STILL_LATENTS,
    TEACHER_FORCED,
    ZEROED,
)
from hwm.predict.decoding import FrameDecoder

TRUE_STATES = "true"
STILL = Sampling(temperature=0.0)


def own_temperature(model: torch.nn.Module) -> float:
    """Temperature of a model left to its own: its configured one; 0 for a family that has none to configure."""
    return float(getattr(getattr(model, "config", None), "temperature", 0.0))


class TokenRows:
    """Rows of a model that predicts tokens: its tokens and the expectation of their code.

    sampling: None is the model's own.  decode: "mean" makes the expected code the headline, "sample" the tokens.
    """

    def __init__(
        self,
        model: TokenWorldModel,
        decoder: FrameDecoder,
        tokenizer: Tokenizer,
        *,
        sampling: Sampling | None,
        decode: str,
        top_k: int,
        device: torch.device | str,
    ) -> None:
        self.model, self.decoder, self.tokenizer = model, decoder, tokenizer
        self.sampling, self.top_k, self.device = sampling, top_k, device
        self.temperature = own_temperature(model) if sampling is None else sampling.temperature  # type: ignore[arg-type]
        self.tokens_row = SAMPLED_TOKENS if self.temperature else LIKELY_TOKENS
        self.headline = EXPECTED_CODE if decode == "mean" else self.tokens_row
        self.seconds = 0.0

    def predict(
        self,
        context: Tensor,
        future: Tensor,
        states: dict[str, Tensor],
        *,
        seed: int,
        poll: Callable[[], None] = lambda: None,
    ) -> dict[str, Prediction]:
        """Predictions with true (autoregressive), zeroed and permuted states; teacher-forced where grids follow grids.

        poll: called before each of them; may raise.
        """
        started = time.perf_counter()
        wanted = {AUTOREGRESSIVE: TRUE_STATES, ZEROED: ZEROED, PERMUTED: PERMUTED}
        if self.model.future_grids > 1:
            wanted[TEACHER_FORCED] = TRUE_STATES
        found = {}
        for name, which in wanted.items():
            poll()
            forced = name == TEACHER_FORCED
            found[name] = self.model.predict(
                context.to(self.device),
                states[which].to(self.device),
                generator=torch.Generator(device=self.device).manual_seed(seed),
                sampling=self.sampling,
                targets_BTHW=future.to(self.device),
                teacher_forced=forced,
                top_k_logits=self.top_k if name == AUTOREGRESSIVE else 1,
                codes_VC=None if forced else self.tokenizer.codes_VC.to(self.device),
            )
        self.seconds += time.perf_counter() - started
        return found

    def frames(self, context: Tensor, predictions: dict[str, Prediction]) -> dict[str, Tensor]:
        """Decoded predictions by row: both readings with true states, the headline's with the other states."""
        true = predictions[AUTOREGRESSIVE]
        rows = {self.tokens_row: self._decode(context, true, self.tokens_row)}
        if true.codes_BTHWC is not None or self.headline == EXPECTED_CODE:
            rows[EXPECTED_CODE] = self._decode(context, true, EXPECTED_CODE)
        for name in (ZEROED, PERMUTED):
            rows[name] = self._decode(context, predictions[name], self.headline)
        return rows

    def predict_only(self, context: Tensor, states_BFA: Tensor, *, seed: int, decode: bool) -> None:
        """The headline's prediction with nothing else beside it, what its cost is measured on."""
        mean = decode and self.headline == EXPECTED_CODE
        prediction = self.model.predict(
            context.to(self.device),
            states_BFA.to(self.device),
            generator=torch.Generator(device=self.device).manual_seed(seed),
            sampling=self.sampling,
            codes_VC=self.tokenizer.codes_VC.to(self.device) if mean else None,
        )
        if decode:
            self._decode(context, prediction, self.headline)

    def _decode(self, context: Tensor, prediction: Prediction, row: str) -> Tensor:
        if row == EXPECTED_CODE:
            if prediction.codes_BTHWC is None:
                raise ValueError("the model gives no expected codes; evaluate its tokens with decode='sample'")
            return self.decoder.expected_future(context, prediction.codes_BTHWC)
        assert prediction.tokens_BKTHW is not None
        return self.decoder.future(context, prediction.tokens_BKTHW[:, 0])


class LatentRows:
    """Rows of a model that predicts latents: sampled at the model's own temperature, and at temperature 0.

    sampling: None is the model's own.  decode: "mean" makes temperature 0 the headline, "sample" the samples.
    At a temperature of 0 the two rows are one, named for temperature 0.
    """

    def __init__(
        self,
        model: LatentWorldModel,
        decoder: FrameDecoder,
        *,
        sampling: Sampling | None,
        decode: str,
        device: torch.device | str,
    ) -> None:
        self.model, self.decoder, self.sampling, self.device = model, decoder, sampling, device
        self.temperature = own_temperature(model) if sampling is None else sampling.temperature  # type: ignore[arg-type]
        self.headline = SAMPLED_LATENTS if self.temperature and decode == "sample" else STILL_LATENTS
        self.seconds = 0.0

    def frames(
        self, context: Tensor, states: dict[str, Tensor], *, seed: int, poll: Callable[[], None] = lambda: None
    ) -> dict[str, Tensor]:
        """Decoded predictions by row: both with true states, the headline's with zeroed and permuted ones.

        poll: called before each of them; may raise.
        """
        wanted = {STILL_LATENTS: (STILL_LATENTS, TRUE_STATES)}
        if self.temperature:
            wanted[SAMPLED_LATENTS] = (SAMPLED_LATENTS, TRUE_STATES)
        wanted |= {name: (self.headline, name) for name in (ZEROED, PERMUTED)}
        rows = {}
        for row, (way, which) in wanted.items():
            poll()
            rows[row] = self.decoder.future(context, self._predict(way, context, states[which], seed))
        return rows

    def predict_only(self, context: Tensor, states_BFA: Tensor, *, seed: int, decode: bool) -> None:
        """The headline's prediction with nothing else beside it, what its cost is measured on."""
        latents = self._predict(self.headline, context, states_BFA, seed)
        if decode:
            self.decoder.future(context, latents)

    def _predict(self, way: str, context: Tensor, states_BFA: Tensor, seed: int) -> Tensor:
        started = time.perf_counter()
        prediction = self.model.predict(
            context.to(self.device),
            states_BFA.to(self.device),
            generator=torch.Generator(device=self.device).manual_seed(seed),
            sampling=STILL if way == STILL_LATENTS else self.sampling,
        )
        assert prediction.latents_BKTCHW is not None
        self.seconds += time.perf_counter() - started
        return prediction.latents_BKTCHW[:, 0]
