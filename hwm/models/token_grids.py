"""What ST-Transformer and Masked-HWM have in common: grids of tokens, of which the future ones follow one by one.

A family adds its network, its loss and `_follow`, its way from the context to the grids after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hwm.contracts import Batch, Kind, Prediction, Sampling
from hwm.models.family import WorldModule
from hwm.nn.dropout import predicting
from hwm.nn.parameters import decay_groups
from hwm.nn.vocabulary import TokenReading, Vocabulary, as_prediction


@dataclass(frozen=True)
class Asked:
    """What a prediction is asked for; see `hwm.contracts.WorldModel.predict`."""

    sampling: Sampling
    generator: torch.Generator | Sequence[torch.Generator]
    num_samples: int
    targets_BTHW: Tensor | None
    teacher_forced: bool
    num_top: int
    codes_VC: Tensor | None

    @property
    def by_sample(self) -> Sequence[Sequence[torch.Generator]]:
        """Of several generators those of every sample's clips."""
        assert not isinstance(self.generator, torch.Generator)
        return [self.generator[k :: self.num_samples] for k in range(self.num_samples)]

    def generators(self, copies: int) -> tuple[Any, Any]:
        """Whence the first of `copies` samples draws, as long as there is one for all of them, and whence the others."""
        if isinstance(self.generator, torch.Generator) or copies == 1:
            return self.generator, self.generator
        return self.by_sample[0], [g for clips in self.by_sample[1:] for g in clips]

    def about(self, t: int) -> dict[str, Any]:
        """What it says of the distribution of future grid t."""
        targets_N = None if self.targets_BTHW is None else self.targets_BTHW[:, t].flatten()
        return {"targets_N": targets_N, "num_top": self.num_top, "codes_VC": self.codes_VC}


class TokenGrids(WorldModule):
    """A world model over token grids.

    config: an STConfig or a MaskedConfig, of which it reads the fields that both have.
    encoder: name of the module that reads the states.
    """

    predicts: Kind = "tokens"
    encoder: str
    vocabulary: Vocabulary
    parameter_groups = decay_groups

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.num_grids = config.context_grids + config.future_grids

    def state_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Those of the state encoder."""
        return list(getattr(self, self.encoder).named_parameters(self.encoder))

    def first_loss(self, batch: Batch) -> float | None:
        """The cross-entropy of random ids."""
        return self.vocabulary.first_cross_entropy(self.head_std)

    @property
    def head_std(self) -> float:
        """Standard deviation of the head's weights before any training."""
        return self.config.init_std

    def _follow(self, context_BTHW: Tensor, states_BFA: Tensor, asked: Asked) -> tuple[list[Tensor], list[TokenReading]]:
        """Of every future grid the samples (K, B, H, W), K = 1 where all are equal, and what is said of the first one."""
        raise NotImplementedError

    @torch.no_grad()
    def predict(
        self, context_BTHW: Tensor, states_BFA: Tensor,
        *, generator: torch.Generator | Sequence[torch.Generator], num_samples: int = 1, sampling: Sampling | None = None,
        targets_BTHW: Tensor | None = None, teacher_forced: bool = False, top_k_logits: int = 0, codes_VC: Tensor | None = None,
    ) -> Prediction:
        """Predict the future grids one after the other; without dropout, but under `kept_dropout`.

        context_BTHW: int64, the context grids.  states_BFA: raw states from the first context frame, num_states rows.  The rest
        as in `hwm.contracts.WorldModel`.  Asking for any of nll, top logits or codes also fills the entropy; the top values
        are log-probabilities.  Samples share the work on the context; where nothing is random they are equal and made once.
        Raises ValueError for another number of grids or states, or teacher forcing without targets.
        """
        context_BTHW = self._check_tokens(context_BTHW, self.context_grids)
        if targets_BTHW is not None:
            targets_BTHW = self._check_tokens(targets_BTHW, self.future_grids)
        elif teacher_forced:
            raise ValueError("teacher forcing needs targets_BTHW, the true future grids")
        sampling = sampling or Sampling(temperature=self.temperature)
        asked = Asked(sampling, generator, num_samples, targets_BTHW, teacher_forced, top_k_logits, codes_VC)
        with predicting(self, generator):
            drawn, readings = self._follow(context_BTHW, states_BFA, asked)
        tokens_BKTHW = torch.stack(drawn, 2).transpose(0, 1).expand(-1, num_samples, -1, -1, -1)
        return as_prediction(tokens_BKTHW, readings)

    def _read(
        self, hidden_ND: Tensor, *, copies: int, draws: int, asked: Asked, about: dict[str, Any], confidence: bool = False
    ) -> tuple[TokenReading, Tensor, Tensor | None]:
        """Draw `draws` samples from the head's inputs; what is said of the first, all ids (sample-major), confidences.

        hidden_ND: rows of `copies` samples, one after the other.  As long as all are equal there is one, from which all are
        drawn; only the first is described.
        """
        first_ND, others_ND = hidden_ND.tensor_split([len(hidden_ND) // copies])
        how: dict[str, Any] = {"sampling": asked.sampling, "confidence": confidence}
        own, others = asked.generators(copies)
        readings = [self.vocabulary.read(first_ND, num_draws=draws // copies, generator=own, **how, **about)]
        if len(others_ND):
            readings.append(self.vocabulary.read(others_ND, generator=others, **how))
        ids_N = torch.cat([r.drawn_NK.t().flatten() for r in readings])
        sure = [r.confidence_NK.t().flatten() for r in readings if r.confidence_NK is not None]
        return readings[0], ids_N, torch.cat(sure) if sure else None

    def _scores(self, batch: Batch, generator: torch.Generator, *, teacher_forced: bool) -> tuple[Tensor, Tensor]:
        """Cross-entropy in nats a token of the future grids, and the share guessed right, (B,) each."""
        tokens_BTHW = self._check_tokens(batch.tokens_BTHW, self.num_grids)
        context_BTHW, future_BTHW = tokens_BTHW.tensor_split([self.context_grids], 1)
        prediction = self.predict(
            context_BTHW, batch.states_BFA, generator=generator, targets_BTHW=future_BTHW, teacher_forced=teacher_forced
        )
        assert prediction.nll_BTHW is not None and prediction.tokens_BKTHW is not None
        right_BTHW = (prediction.tokens_BKTHW[:, 0] == future_BTHW).float()
        return prediction.nll_BTHW.mean((1, 2, 3)), right_BTHW.mean((1, 2, 3))

    def _check_tokens(self, tokens_BTHW: Tensor | None, num_grids: int) -> Tensor:
        expected = (num_grids, *self.config.grid)
        if tokens_BTHW is None or tuple(tokens_BTHW.shape[1:]) != expected:
            got = "no tokens" if tokens_BTHW is None else tuple(tokens_BTHW.shape[1:])
            raise ValueError(f"the model works on {expected} token grids (T, H, W) here, got {got}")
        return tokens_BTHW


def corrupt(tokens_BTHW: Tensor, *, vocab_size: int, max_rate: float, generator: torch.Generator) -> Tensor:
    """Replace tokens by uniformly random ones, at a rate drawn from U(0, max_rate) for every clip.

    A replacement may be the token itself.  Source: HWM paper section 2.2, after Copilot4D; over what a rate is shared is ours.
    """
    device = generator.device
    rate_B111 = max_rate * torch.rand(len(tokens_BTHW), 1, 1, 1, generator=generator, device=device)
    replaced = torch.rand(tokens_BTHW.shape, generator=generator, device=device) < rate_B111
    random = torch.randint(vocab_size, tokens_BTHW.shape, generator=generator, device=device)
    return torch.where(replaced.to(tokens_BTHW.device), random.to(tokens_BTHW.device), tokens_BTHW)
