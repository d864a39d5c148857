"""The token vocabulary: a table that embeds tokens and a head that predicts them; flat or factorised into digits."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwm.contracts import Prediction, Sampling
from hwm.nn.losses import chunk_rows, linear_cross_entropy
from hwm.nn.sampling import Chance, draw, draw_digits, linear_greedy, top_k, uniform


@dataclass(frozen=True)
class TokenReading:
    """What was read from the distribution of N tokens; None where it was not asked for.

    drawn_NK: int64 ids.  nll_N, entropy_N: nats.  top_indices_NK, top_values_NK: the most likely ids in descending
    order and their logits, normalised (log-probabilities).  codes_NC: expected code vector.
    confidence_NK: log-probability of each drawn id, before temperature and filters.
    """

    drawn_NK: Tensor
    nll_N: Tensor | None = None
    entropy_N: Tensor | None = None
    top_indices_NK: Tensor | None = None
    top_values_NK: Tensor | None = None
    codes_NC: Tensor | None = None
    confidence_NK: Tensor | None = None


class Vocabulary(nn.Module):
    """Embedding of token ids and the output head.

    tied: the head shares the weights of the embedding and has no bias; else it has its own weights and a bias.
    factors: sizes of the digits of an id, lowest digit first; empty: the ids are not taken apart.  The embedding of
    an id is the sum over its digits, its probability the product.
    Sources: tied, Revontuli report section 3.2; untied, reference D.1; factorised, 1X v1.1 release (2 digits of 512).
    """

    def __init__(self, vocab_size: int, width: int, *, tied: bool, factors: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.factors = factors or (vocab_size,)
        self.weight = nn.Parameter(torch.empty(sum(self.factors), width))
        self.head = None if tied else nn.Linear(width, sum(self.factors))

    def digits(self, ids: Tensor) -> Tensor:
        """Digits of ids (...), lowest first, (..., F)."""
        if len(self.factors) == 1:
            return ids[..., None]
        digits = []
        for size in self.factors:
            digits.append(ids % size)
            ids = ids // size
        return torch.stack(digits, -1)

    def embed(self, ids: Tensor) -> Tensor:
        """Embedding of ids (...) in [0, V), (..., D)."""
        if len(self.factors) == 1:
            return F.embedding(ids, self.weight)
        offsets = torch.tensor([0, *self.factors[:-1]], device=ids.device).cumsum(0)
        rows = (self.digits(ids) + offsets).flatten(0, -2)
        return F.embedding_bag(rows, self.weight, mode="sum").unflatten(0, ids.shape)

    def loss(self, hidden_ND: Tensor, ids_N: Tensor, *, code_weight: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        """Objective to differentiate, cross-entropy in nats, share of ids that are the most likely one.

        code_weight: see `linear_cross_entropy`; 0 makes the objective the cross-entropy.
        """
        weight_VD, bias_V = self._head()
        return linear_cross_entropy(
            hidden_ND, weight_VD, self.digits(ids_N), factors=self.factors, bias_V=bias_V, code_weight=code_weight
        )

    def first_cross_entropy(self, head_std: float) -> float:
        """Nats of a random id before any training: ln V, more by half the variance of the logits where that is small.

        Logits are sums over the width of products of a normalised activation and a weight of deviation head_std.
        """
        uniform, width = math.log(math.prod(self.factors)), self.weight.shape[1]
        variance = len(self.factors) * head_std**2 * width
        return uniform + min(variance / 2, 0.1 * uniform)

    def log_probabilities(self, hidden_ND: Tensor) -> Tensor:
        """log p of every id, (N, V) float32 or float64: for a chunk of rows, not for a batch."""
        joint_NV = None
        for part_Nv in reversed(self.logits(hidden_ND).split(self.factors, 1)):
            part_Nv = part_Nv.log_softmax(1)
            joint_NV = part_Nv if joint_NV is None else (joint_NV[:, :, None] + part_Nv[:, None, :]).flatten(1)
        assert joint_NV is not None
        return joint_NV

    def most_likely(self, hidden_ND: Tensor) -> Tensor:
        """Most likely id, (N,) int64."""
        return torch.cat([self._greedy(h) for h in hidden_ND.split(self._chunk(joint=False))])

    def read(
        self, hidden_ND: Tensor,
        *, sampling: Sampling, generator: Chance, num_draws: int = 1, targets_N: Tensor | None = None, num_top: int = 0,
        codes_VC: Tensor | None = None, confidence: bool = False,
    ) -> TokenReading:
        """Draw from the distribution and describe it, chunk by chunk.

        num_draws: ids drawn a row.  targets_N: fills nll.  num_top: fills top_indices and top_values.
        codes_VC: fills codes.  confidence: fills confidence.  Any of these four fills the entropy as well.
        """
        describe = targets_N is not None or num_top > 0 or codes_VC is not None or confidence
        effects = None if codes_VC is None or num_top > 1 else self._digit_effects(codes_VC)
        # Digits are independent: unless ids are ranked beyond the first or filtered jointly, their own tables say everything.
        filtered = sampling.temperature > 0 and (sampling.top_k > 0 or sampling.top_p < 1)
        apart = describe and not filtered and num_top <= 1 and (codes_VC is None or effects is not None)
        chunk = self._chunk(joint=filtered or (describe and not apart))
        warm = sampling.temperature > 0
        numbers_NK = uniform(len(hidden_ND), generator, num=num_draws) if warm else hidden_ND.new_empty(len(hidden_ND), 0)
        parts = []
        for start in range(0, len(hidden_ND), chunk):
            hidden_nD = hidden_ND[start : start + chunk]
            targets_n = None if targets_N is None else targets_N[start : start + chunk]
            chance_nK = numbers_NK[start : start + chunk]
            if not describe:
                if sampling.temperature == 0:
                    drawn_nK = self._greedy(hidden_nD)[:, None].expand(-1, num_draws)
                elif self._flat or filtered:
                    logits_nV = self.logits(hidden_nD) if self._flat else self.log_probabilities(hidden_nD)
                    drawn_nK = draw(logits_nV, sampling, generator=chance_nK, num=num_draws)
                else:
                    logits = self.logits(hidden_nD).split(self.factors, 1)
                    drawn_nK = self._joined(draw_digits(logits, sampling.temperature, generator=chance_nK, num=num_draws))
                parts.append(TokenReading(drawn_nK))
            elif apart:
                how: dict[str, Any] = {"sampling": sampling, "generator": chance_nK, "num_draws": num_draws}
                parts.append(self._describe_digits(hidden_nD, targets_n, effects, confidence=confidence, top=num_top > 0, **how))
            else:
                log_p_nV = self.log_probabilities(hidden_nD)
                drawn_nK = draw(log_p_nV, sampling, generator=chance_nK, num=num_draws)
                num = min(num_top, self.vocab_size)
                parts.append(_describe(log_p_nV, drawn_nK, targets_n, num, codes_VC, confidence))
        return _concatenate(parts)

    def _describe_digits(
        self, hidden_ND: Tensor, targets_N: Tensor | None, effects: list[Tensor] | None,
        *, sampling: Sampling, generator: Chance, num_draws: int, confidence: bool, top: bool,
    ) -> TokenReading:
        """The reading from the digits' own distributions, without the joint table.  top: whether the likeliest id is told."""
        target_digits = None if targets_N is None else self.digits(targets_N).unbind(-1)
        logits = self.logits(hidden_ND).split(self.factors, 1)
        digits = draw_digits(logits, sampling.temperature, generator=generator, num=num_draws)
        drawn_NK = self._joined(digits)
        nll_N = codes_NC = indices_N1 = values_N1 = None
        if top:
            values, likeliest = zip(*(part_Nv.log_softmax(1).max(1, keepdim=True) for part_Nv in logits))
            indices_N1, values_N1 = self._joined(list(likeliest)), torch.stack(values).sum(0)
        entropy_N, chosen_NK = hidden_ND.new_zeros(len(hidden_ND)), hidden_ND.new_zeros(drawn_NK.shape)
        for f, (part_Nv, digit_NK) in enumerate(zip(logits, digits)):
            log_p_Nv = part_Nv.log_softmax(1)
            chosen_NK = chosen_NK + log_p_Nv.gather(1, digit_NK)
            entropy_N = entropy_N - (log_p_Nv.exp() * log_p_Nv.clamp(min=-1e9)).sum(1)
            if target_digits is not None:
                own_N = -log_p_Nv.gather(1, target_digits[f][:, None]).squeeze(1)
                nll_N = own_N if nll_N is None else nll_N + own_N
            if effects is not None:
                own_NC = log_p_Nv.exp() @ effects[f].to(log_p_Nv.dtype)
                codes_NC = own_NC if codes_NC is None else codes_NC + own_NC
        confidence_NK = chosen_NK if confidence else None
        return TokenReading(drawn_NK, nll_N, entropy_N, indices_N1, values_N1, codes_NC, confidence_NK)

    def _joined(self, digits: list[Tensor]) -> Tensor:
        """The ids of digits, lowest first."""
        ids, step = torch.zeros_like(digits[0]), 1
        for digit, size in zip(digits, self.factors):
            ids, step = ids + step * digit, step * size
        return ids

    def _digit_effects(self, codes_VC: Tensor) -> list[Tensor] | None:
        """Tables (size, C) of every digit that add up to the code of an id; None where codes do not decompose."""
        effects, step = [], 1
        for f, size in enumerate(self.factors):
            own = codes_VC[torch.arange(size, device=codes_VC.device) * step]
            effects.append(own if f == 0 else own - codes_VC[0])
            step *= size
        digits = self.digits(torch.arange(self.vocab_size, device=codes_VC.device))
        total = sum(effect[digits[:, f]] for f, effect in enumerate(effects))
        return effects if torch.allclose(torch.as_tensor(total), codes_VC, atol=1e-6) else None

    @property
    def _flat(self) -> bool:
        return len(self.factors) == 1

    def _head(self) -> tuple[Tensor, Tensor | None]:
        return (self.weight, None) if self.head is None else (self.head.weight, self.head.bias)

    def _chunk(self, *, joint: bool) -> int:
        rows = chunk_rows(self.weight)
        return max(1, rows * len(self.weight) // self.vocab_size) if joint else rows

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Logits of all digits side by side, float32 (float64 for float64)."""
        logits = F.linear(hidden_ND, *self._head())
        return logits if logits.dtype == torch.float64 else logits.float()

    def _greedy(self, hidden_ND: Tensor) -> Tensor:
        ids_N, step = torch.zeros(len(hidden_ND), dtype=torch.int64, device=hidden_ND.device), 1
        weight_VD, bias_V = (None if x is None else x.to(hidden_ND.dtype) for x in self._head())
        assert weight_VD is not None
        biases = (None,) * len(self.factors) if bias_V is None else bias_V.split(self.factors)
        for weight_vD, bias_v in zip(weight_VD.split(self.factors), biases):
            ids_N = ids_N + step * linear_greedy(hidden_ND, weight_vD, bias_V=bias_v)
            step *= len(weight_vD)
        return ids_N


def _describe(
    log_p_NV: Tensor, drawn_NK: Tensor, targets_N: Tensor | None, num_top: int, codes_VC: Tensor | None, confidence: bool
) -> TokenReading:
    """Everything asked for, from log-probabilities of all ids."""
    nll_N = values_NK = indices_NK = codes_NC = None
    confidence_NK = log_p_NV.gather(1, drawn_NK) if confidence else None
    if targets_N is not None:
        nll_N = -log_p_NV.gather(1, targets_N[:, None]).squeeze(1)
    if num_top:
        values_NK, indices_NK = top_k(log_p_NV, num_top)
    p_NV = log_p_NV.exp()
    if codes_VC is not None:
        codes_NC = p_NV @ codes_VC.to(p_NV.dtype)
    entropy_N = -(p_NV.mul_(log_p_NV.clamp_(min=-1e9))).sum(1)
    return TokenReading(drawn_NK, nll_N, entropy_N, indices_NK, values_NK, codes_NC, confidence_NK)


def _concatenate(parts: list[TokenReading]) -> TokenReading:
    columns = {name: [getattr(part, name) for part in parts] for name in vars(parts[0])}
    return TokenReading(**{name: torch.cat(column) for name, column in columns.items() if column[0] is not None})


def as_prediction(tokens_BKTHW: Tensor, readings: list[TokenReading]) -> Prediction:
    """Readings of the grids, one a grid with rows in the order (B, H, W), as fields with the shapes of the contract."""
    B, _, _, H, W = tokens_BKTHW.shape

    def gather(name: str) -> Tensor | None:
        columns = [getattr(reading, name) for reading in readings]
        return None if columns[0] is None else torch.stack([c.unflatten(0, (B, H, W)) for c in columns], 1)

    return Prediction(
        tokens_BKTHW=tokens_BKTHW, nll_BTHW=gather("nll_N"), top_indices_BTHWK=gather("top_indices_NK"),
        top_values_BTHWK=gather("top_values_NK"), entropy_BTHW=gather("entropy_N"), codes_BTHWC=gather("codes_NC"),
    )
