"""What a world model has to beat: pictures and tokens that need no learning, and the simplest learned model.

`CopyLastGrid` is a world model like any other, so everything that runs with a trained network runs with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from hwm.contracts import Batch, Kind, Prediction, Sampling


def copy_last_frame(context_BFHWC: Tensor, *, num_frames: int) -> Tensor:
    """The last context frame, `num_frames` times: uint8 (B, num_frames, H, W, C)."""
    return context_BFHWC[:, -1:].expand(-1, num_frames, -1, -1, -1).contiguous()


def mean_of_context(context_BFHWC: Tensor, *, num_frames: int) -> Tensor:
    """The mean of the context frames, rounded, `num_frames` times: uint8 (B, num_frames, H, W, C)."""
    mean = context_BFHWC.to(torch.float32).mean(1, keepdim=True).round().to(torch.uint8)
    return mean.expand(-1, num_frames, -1, -1, -1).contiguous()


def copy_last_grid(context: Tensor, *, num_grids: int) -> Tensor:
    """The last context grid, tokens (B, T, H, W) or latents (B, T, C, H, W), `num_grids` times."""
    return context[:, -1:].repeat_interleave(num_grids, 1)


def unigram_counts(batches: Iterable[Tensor], *, vocab_size: int) -> Tensor:
    """How often each id occurs in training tokens: int64 (V,).

    batches: token tensors of any shape in [0, vocab_size).  Raises ValueError where there are none.
    """
    counts = [torch.bincount(tokens.flatten(), minlength=vocab_size) for tokens in batches]
    if not counts:
        raise ValueError("token frequencies need at least one batch of training tokens")
    return torch.stack(counts).sum(0)


def unigram_nll(tokens_BTHW: Tensor, counts_V: Tensor) -> Tensor:
    """-log of the add-one smoothed frequency of each token in nats, float64 (B, T, H, W)."""
    smoothed = counts_V.to(torch.float64) + 1
    return (smoothed.sum().log() - smoothed.log())[tokens_BTHW]


class CopyLastGrid(nn.Module):
    """The trivial world model: a token stays what it was with a probability learned per future grid.

    All other ids share the rest equally, so every quantity of a `Prediction` has a closed form.
    vocab_size: number of ids, at least 2.  context_grids, future_grids: as the clips have them.
    num_states: state rows it accepts; it does not use them.
    """

    predicts: Kind = "tokens"
    validation_key = "ce_auto"
    frame_step = 1
    temperature, reach = 0.0, 0
    reach = 0
    temperature = 0.0

    def __init__(
        self, *, vocab_size: int = 64000, context_grids: int = 3, future_grids: int = 3, num_states: int = 34
    ) -> None:
        super().__init__()
        if vocab_size < 2:
            raise ValueError(f"vocab_size must be at least 2, got {vocab_size}")
        self.vocab_size, self.context_grids = vocab_size, context_grids
        self.future_grids, self.num_states = future_grids, num_states
        self.stay_logit_T = nn.Parameter(torch.zeros(future_grids))

    def state_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """None: it uses no states."""
        return []

    def idle_parameters(self) -> list[str]:
        """None."""
        return []

    def first_loss(self, batch: Batch) -> float | None:
        """None: it starts with what it believes of staying."""
        return None

    @property
    def neutral_state_A(self) -> Tensor:
        """Any: states are not used."""
        return torch.zeros(1)

    def _nll(self, previous_BTHW: Tensor, target_BTHW: Tensor) -> Tensor:
        stay, move = self._log_probabilities()
        return -torch.where(previous_BTHW == target_BTHW, stay[:, None, None], move[:, None, None])

    def _log_probabilities(self, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """log p of the previous id and of any single other id, (T,) each."""
        stay = nn.functional.logsigmoid(self.stay_logit_T) / temperature
        move = (nn.functional.logsigmoid(-self.stay_logit_T) - math.log(self.vocab_size - 1)) / temperature
        total = torch.logaddexp(stay, move + math.log(self.vocab_size - 1))
        return stay - total, move - total

    def loss(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy in nats of the future grids given the true grid before each."""
        context, future = self._split(batch)
        previous = torch.cat([context[:, -1:], future[:, :-1]], 1)
        return {"loss": self._nll(previous, future).mean(), "accuracy": (previous == future).float().mean().detach()}

    @torch.no_grad()
    def validate(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy and accuracy per clip (B,), teacher-forced and autoregressive ("auto")."""
        context, future = self._split(batch)
        scores = {}
        for name, previous in {
            "teacher": torch.cat([context[:, -1:], future[:, :-1]], 1),
            "auto": copy_last_grid(context, num_grids=self.future_grids),
        }.items():
            scores[f"ce_{name}"] = self._nll(previous, future).flatten(1).mean(1)
            scores[f"accuracy_{name}"] = (previous == future).float().flatten(1).mean(1)
        return scores

    @torch.no_grad()
    def predict(
        self,
        context_BTHW: Tensor,
        states_BFA: Tensor,
        *,
        generator: torch.Generator,
        num_samples: int = 1,
        sampling: Sampling | None = None,
        targets_BTHW: Tensor | None = None,
        teacher_forced: bool = False,
        top_k_logits: int = 0,
        codes_VC: Tensor | None = None,
    ) -> Prediction:
        """As `TokenWorldModel.predict`, greedy by itself; the logits given are log-probabilities.

        Raises ValueError for teacher forcing without targets and for top-k or top-p, which it does not have.
        """
        sampling = sampling or Sampling()
        if sampling.top_k or sampling.top_p < 1:
            raise ValueError("CopyLastGrid draws with a temperature only; leave top_k at 0 and top_p at 1")
        if teacher_forced and targets_BTHW is None:
            raise ValueError("teacher forcing needs targets_BTHW")
        samples, first_previous = [], None
        for _ in range(num_samples):
            previous, drawn = context_BTHW[:, -1], []
            inputs = []
            for t in range(self.future_grids):
                inputs.append(previous)
                drawn.append(self._draw(previous, t, sampling.temperature, generator))
                previous = targets_BTHW[:, t] if teacher_forced and targets_BTHW is not None else drawn[-1]
            samples.append(torch.stack(drawn, 1))
            first_previous = torch.stack(inputs, 1) if first_previous is None else first_previous
        assert first_previous is not None
        top = self._top(first_previous, min(top_k_logits, self.vocab_size)) if top_k_logits else (None, None)
        return Prediction(
            tokens_BKTHW=torch.stack(samples, 1),
            nll_BTHW=None if targets_BTHW is None else self._nll(first_previous, targets_BTHW),
            top_indices_BTHWK=top[0],
            top_values_BTHWK=top[1],
            entropy_BTHW=self._entropy().expand_as(first_previous),
            codes_BTHWC=None if codes_VC is None else self._codes(first_previous, codes_VC),
        )

    def _draw(self, previous_BHW: Tensor, t: int, temperature: float, generator: torch.Generator) -> Tensor:
        if temperature == 0:
            # Another id is likelier only where staying is less likely than every single move; the first one then.
            stay, move = self._log_probabilities()
            return previous_BHW if stay[t] >= move[t] else (previous_BHW == 0).to(previous_BHW.dtype)
        stay = self._log_probabilities(temperature)[0][t].exp()
        keep = torch.rand(previous_BHW.shape, generator=generator, device=previous_BHW.device) < stay
        shape, device = previous_BHW.shape, previous_BHW.device
        other = torch.randint(self.vocab_size - 1, shape, generator=generator, device=device)
        return torch.where(keep, previous_BHW, other + (other >= previous_BHW))

    def _top(self, previous_BTHW: Tensor, num: int) -> tuple[Tensor, Tensor]:
        """The previous id, then the smallest other ids; they all share one probability."""
        others = torch.arange(num - 1, device=previous_BTHW.device).expand(*previous_BTHW.shape, num - 1)
        others = others + (others >= previous_BTHW[..., None])
        stay, move = (p[:, None, None, None] for p in self._log_probabilities())
        values = torch.cat([stay.expand(*previous_BTHW.shape, 1), move.expand(*previous_BTHW.shape, num - 1)], -1)
        indices = torch.cat([previous_BTHW[..., None], others], -1)
        values, order = torch.sort(values, dim=-1, descending=True, stable=True)
        return indices.gather(-1, order), values

    def _entropy(self) -> Tensor:
        stay, move = self._log_probabilities()
        return -(stay.exp() * stay + (1 - stay.exp()) * move)[:, None, None]

    def _codes(self, previous_BTHW: Tensor, codes_VC: Tensor) -> Tensor:
        stay, move = (p.exp()[:, None, None, None] for p in self._log_probabilities())
        own = codes_VC[previous_BTHW]
        return stay * own + move * (codes_VC.sum(0) - own)

    def _split(self, batch: Batch) -> tuple[Tensor, Tensor]:
        wanted = self.context_grids + self.future_grids
        if batch.tokens_BTHW is None or batch.tokens_BTHW.shape[1] != wanted:
            raise ValueError(f"a clip of {wanted} token grids is needed")
        return batch.tokens_BTHW[:, : self.context_grids], batch.tokens_BTHW[:, self.context_grids :]
