"""Cross-entropy of a linear head without ever holding all of its logits.

Logits of a 64 000-word vocabulary outweigh everything else of a model: here they live for one chunk of rows at a
time, and the gradient of a chunk is formed right where its logits are, so nothing is stored or computed twice.

A vocabulary may be factorised: `factors` are the sizes of its digits, the head gives the logits of all digits side
by side, and the probability of a token is the product over its digits.  One factor is the plain case.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 64 * 2**20
"""Logits held at a time.  Large enough that adding into the head's gradient, once a chunk, costs little."""


def chunk_rows(weight_VD: Tensor, chunk_bytes: int = CHUNK_BYTES) -> int:
    """Rows of logits that fit into `chunk_bytes` as float32."""
    return max(16, chunk_bytes // (4 * weight_VD.shape[0]))


def linear_cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, digits_NF: Tensor,
    *, factors: tuple[int, ...], bias_V: Tensor | None = None, code_weight: float = 0.0, chunk: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Objective to differentiate, its cross-entropy part, and the share of tokens that are the most likely one.

    Cross-entropy: mean over N of -log p(token) in nats.  The objective adds code_weight times the squared error of the
    expected digits, summed over factors, digit d of L counting as (d - L // 2) / (L // 2): moves in the order of the
    codes weigh more than flicker between neighbours.

    hidden_ND: inputs of the head.  weight_VD: its weight, rows of all factors one after the other.  bias_V: its bias.
    digits_NF: int64, digit f of every target in [0, factors[f]).  chunk: rows at a time; 0 chooses.
    The products run in the type that autocast would choose; soft-max and sums run in float32 (float64 for float64).
    """
    dtype = _product_dtype(hidden_ND)
    trained = any(x is not None and x.requires_grad for x in (hidden_ND, weight_VD, bias_V))
    needs_gradient = torch.is_grad_enabled() and trained
    rows = chunk or chunk_rows(weight_VD)
    return _LinearCrossEntropy.apply(hidden_ND, weight_VD, bias_V, digits_NF, factors, code_weight, rows, dtype, needs_gradient)


def _product_dtype(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) and x.dtype != torch.float64 else x.dtype


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, digits_NF: Tensor, factors: tuple[int, ...],
        code_weight: float, chunk: int, dtype: torch.dtype, needs_gradient: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        N = len(hidden_ND)
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        hidden, weight = hidden_ND.to(dtype), weight_VD.to(dtype)
        bias = None if bias_V is None else bias_V.to(dtype)
        nll_sum = torch.zeros((), dtype=exact, device=hidden.device)
        correct_sum = torch.zeros((), dtype=exact, device=hidden.device)
        code_sum = torch.zeros((), dtype=exact, device=hidden.device)
        codes = [(torch.arange(size, device=hidden.device, dtype=exact) - size // 2) / max(1, size // 2) for size in factors]
        if needs_gradient:
            grad_hidden = torch.empty_like(hidden)
            grad_weight = torch.zeros_like(weight_VD, dtype=exact)
            grad_bias = None if bias_V is None else torch.zeros_like(bias_V, dtype=exact)
        logits_buffer = torch.empty(min(chunk, N), len(weight), dtype=dtype, device=hidden.device)
        for start in range(0, N, chunk):
            rows = slice(start, min(start + chunk, N))
            out = logits_buffer[: rows.stop - start]
            if bias is None:
                logits_nV = torch.mm(hidden[rows], weight.t(), out=out).to(exact)
            else:
                logits_nV = torch.addmm(bias, hidden[rows], weight.t(), out=out).to(exact)
            correct_n = None
            for part_nv, code_v, digit_n1 in zip(logits_nV.split(factors, 1), codes, digits_NF[rows].split(1, 1)):
                largest_n1 = part_nv.amax(1, keepdim=True)
                target_n1 = part_nv.gather(1, digit_n1)
                hit_n = (target_n1 == largest_n1).squeeze(1)
                correct_n = hit_n if correct_n is None else correct_n & hit_n
                total_n1 = part_nv.sub_(largest_n1).exp_().sum(1, keepdim=True)
                nll_sum += (total_n1.log() + largest_n1 - target_n1).sum()
                if not needs_gradient and not code_weight:
                    continue
                part_nv.mul_(1 / total_n1)
                if code_weight:
                    expected_n1 = part_nv @ code_v[:, None]
                    error_n1 = expected_n1 - code_v[digit_n1]
                    code_sum += error_n1.square().sum()
                    part_nv.mul_(1 + 2 * code_weight * error_n1 * (code_v - expected_n1))
                if needs_gradient:
                    part_nv.scatter_add_(1, digit_n1, torch.full_like(target_n1, -1))
            assert correct_n is not None
            correct_sum += correct_n.sum()
            if needs_gradient:
                if grad_bias is not None:
                    grad_bias += logits_nV.sum(0)
                grad_nV = logits_nV.to(dtype)
                torch.mm(grad_nV, weight, out=grad_hidden[rows])
                if dtype == exact:
                    grad_weight.addmm_(grad_nV.t(), hidden[rows])
                else:
                    grad_weight += grad_nV.t() @ hidden[rows]
        if needs_gradient:
            ctx.save_for_backward(
                grad_hidden.div_(N).to(hidden_ND.dtype),
                grad_weight.div_(N).to(weight_VD.dtype),
                None if grad_bias is None or bias_V is None else grad_bias.div_(N).to(bias_V.dtype),
            )
        nll, correct = nll_sum / N, correct_sum / N
        ctx.mark_non_differentiable(nll, correct)
        return nll + code_weight * code_sum / N, nll, correct

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, grad_nll: Tensor, grad_correct: Tensor) -> tuple[Any, ...]:
        own = (None if grad is None else grad * grad_loss for grad in ctx.saved_tensors)
        return *own, *(None,) * 6
