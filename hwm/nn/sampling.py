"""Drawing tokens from logits: greedy, or by temperature, top-k and top-p."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hwm.contracts import Sampling

Chance = torch.Generator | Sequence[torch.Generator] | Tensor
"""Where uniform numbers come from: one generator; one for each clip and draw, clips first, of rows that are so many clips' one
after the other; or the numbers themselves, float64 (N, num) in [0, 1)."""
NUCLEUS = (256, 4096)
"""How many of the most likely are looked at first for top-p, and then."""


def _block(num: int) -> int:
    """Length of the blocks of a two-level search over `num` entries; 0 where they do not divide it."""
    return next((b for b in (256, 250, 128, 125, 64, 50, 32) if num % b == 0 and num > 4 * b), 0)


def greedy(logits_NV: Tensor) -> Tensor:
    """Index of the largest logit, the lowest one among equals; (N,) int64.

    In two levels, block maxima first: the maximum vectorises on a CPU, argmax does not.
    """
    block = _block(logits_NV.shape[1])
    if not block:
        return logits_NV.argmax(1)
    blocks_NMb = logits_NV.unflatten(1, (-1, block))
    best_N = blocks_NMb.amax(2).argmax(1)
    row_N = torch.arange(len(logits_NV), device=logits_NV.device)
    return best_N * block + blocks_NMb[row_N, best_N].argmax(1)


def linear_greedy(hidden_ND: Tensor, weight_VD: Tensor, *, bias_V: Tensor | None = None, tile: int = 4000) -> Tensor:
    """Index of the largest of hidden @ weight.T + bias, (N,) int64, the lowest one among equals.

    On a CPU a tile of the vocabulary at a time: its logits are searched while they are in the cache, and only in
    the few rows where the tile beats the ones before it.
    """
    N, V = len(hidden_ND), len(weight_VD)
    if hidden_ND.device.type != "cpu" or V <= tile:
        return greedy(F.linear(hidden_ND, weight_VD, bias_V))
    best_N, index_N = torch.full((N,), -torch.inf, dtype=hidden_ND.dtype), torch.zeros(N, dtype=torch.int64)
    buffer_NV = torch.empty(N, tile, dtype=hidden_ND.dtype)
    for start in range(0, V, tile):
        weight_vD = weight_VD[start : start + tile]
        out = buffer_NV if len(weight_vD) == tile else None
        if bias_V is None:
            logits_Nv = torch.mm(hidden_ND, weight_vD.t(), out=out)
        else:
            logits_Nv = torch.addmm(bias_V[start : start + tile], hidden_ND, weight_vD.t(), out=out)
        largest_N = logits_Nv.amax(1)
        better_n = (largest_N > best_N).nonzero().squeeze(1)
        index_N[better_n] = start + greedy(logits_Nv[better_n])
        best_N = torch.maximum(best_N, largest_N)
    return index_N


def top_k(logits_NV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest logits in descending order and their indices, (N, k) each.

    In two levels: the k largest entries lie in the k blocks with the largest maxima.
    """
    V, block = logits_NV.shape[1], 16
    if V % block or V < 4 * k * block:
        return logits_NV.topk(k, 1)
    blocks_NMb = logits_NV.unflatten(1, (-1, block))
    best_Nk = blocks_NMb.amax(2).topk(k, 1, sorted=False).indices
    candidates = blocks_NMb.gather(1, best_Nk[:, :, None].expand(-1, -1, block)).flatten(1)
    values, place = candidates.topk(k, 1)
    index = best_Nk.gather(1, place // block) * block + place % block
    return values, index


def draw(logits_NV: Tensor, sampling: Sampling, *, generator: Chance, num: int = 1) -> Tensor:
    """Draw `num` indices a row, (N, num) int64.

    The order is temperature, then the k most likely, then the smallest set of the most likely with probability of
    at least top_p among those.  Every draw consumes one uniform number of the generator, whatever the filters.
    """
    if sampling.temperature == 0:
        return greedy(logits_NV)[:, None].expand(-1, num)
    V = logits_NV.shape[1]
    uniform_NK = uniform(len(logits_NV), generator, num=num).to(logits_NV.device)
    logits_NV = logits_NV.float() if logits_NV.dtype in (torch.bfloat16, torch.float16) else logits_NV
    keep = min(sampling.top_k or V, V)
    if keep == V and sampling.top_p == 1:
        return _inverse_cdf((logits_NV / sampling.temperature).softmax(1), uniform_NK)
    if keep < V:
        values, index = top_k(logits_NV, keep)
        return index.gather(1, _nucleus((values / sampling.temperature).softmax(1), sampling.top_p, uniform_NK))
    # Most rows reach top_p among few: only those that do not are sorted further.
    total_N1 = (logits_NV / sampling.temperature).logsumexp(1, keepdim=True)
    drawn_NK, rows = torch.empty_like(uniform_NK, dtype=torch.int64), torch.arange(len(uniform_NK), device=uniform_NK.device)
    for keep in [k for k in NUCLEUS if k < V] + [V]:
        values, index = top_k(logits_NV[rows], keep)
        probability = (values / sampling.temperature - total_N1[rows]).exp()
        enough = probability.sum(1) >= sampling.top_p if keep < V else torch.ones_like(rows, dtype=torch.bool)
        place = _nucleus(probability[enough], sampling.top_p, uniform_NK[rows[enough]])
        drawn_NK[rows[enough]] = index[enough].gather(1, place)
        rows = rows[~enough]
        if not len(rows):
            break
    return drawn_NK


def _nucleus(probability_Nk: Tensor, top_p: float, uniform_NK: Tensor) -> Tensor:
    """Places (N, K) drawn among the fewest first ones that have a probability of `top_p` together.

    probability_Nk: in falling order.  The first one always stays: what comes before it is nothing, whatever rounding says.
    """
    outside = probability_Nk.cumsum(1) - probability_Nk >= top_p
    outside[:, 0] = False
    return _inverse_cdf(probability_Nk.masked_fill(outside, 0), uniform_NK)


def draw_digits(logits: Sequence[Tensor], temperature: float, *, generator: Chance, num: int = 1) -> list[Tensor]:
    """Draw `num` ids a row whose digits are independent, lowest digit first: (N, num) int64 for each digit.

    logits: of each digit, (N, size).  The ids are those that `draw` gives for the table of all ids, which is not made: the
    highest digit is found first, and what is left of the one uniform number finds the next.
    """
    if temperature == 0 or len(logits) == 1:
        return [draw(part_Nv, Sampling(temperature=temperature), generator=generator, num=num) for part_Nv in logits]
    left_NK, digits = uniform(len(logits[0]), generator, num=num).to(logits[0].device), []
    for part_Nv in reversed(logits):
        digit_NK, left_NK = _invert((part_Nv.float() / temperature).softmax(1), left_NK)
        digits.append(digit_NK)
    return digits[::-1]


def uniform(num_rows: int, generator: Chance, *, num: int = 1) -> Tensor:
    """Uniform numbers (num_rows, num), float64 in [0, 1).

    Of several generators each gives one draw of the rows of its clip, whose numbers so do not depend on its company.
    Raises ValueError where they do not share the rows evenly.
    """
    if isinstance(generator, Tensor):
        return generator
    if isinstance(generator, torch.Generator):
        drawn = torch.rand(num_rows, num, generator=generator, device=generator.device, dtype=torch.float64)
        return drawn.clamp(max=1 - 1e-12)
    clips, rest = divmod(len(generator), num)
    if rest or num_rows % max(clips, 1):
        raise ValueError(f"{num_rows} rows of {num} draws cannot be shared evenly by {len(generator)} generators")
    parts = [torch.rand(num_rows // clips, generator=g, device=g.device, dtype=torch.float64) for g in generator]
    return torch.stack(parts).view(clips, num, -1).transpose(1, 2).reshape(num_rows, num).contiguous().clamp(max=1 - 1e-12)


def _inverse_cdf(weight_NV: Tensor, uniform_NK: Tensor) -> Tensor:
    """Indices (N, K) at which the cumulative weight passes the fraction `uniform`; never one of weight zero."""
    block = _block(weight_NV.shape[1])
    if not block:
        return _invert(weight_NV, uniform_NK)[0]
    blocks_NMb = weight_NV.unflatten(1, (-1, block))
    best_NK, inside_NK = _invert(blocks_NMb.sum(2), uniform_NK)
    rows = torch.arange(len(weight_NV), device=weight_NV.device)[:, None].expand_as(best_NK)
    chosen = blocks_NMb[rows, best_NK].flatten(0, 1)
    return best_NK * block + _invert(chosen, inside_NK.reshape(-1, 1))[0].view_as(best_NK)


def _invert(weight_NV: Tensor, uniform_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Index where the cumulative weight passes uniform * total, and the fraction of that entry passed, in [0, 1)."""
    cumulative = weight_NV.double().cumsum(1)
    point = uniform_NK * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, point, right=True).clamp(max=weight_NV.shape[1] - 1)
    weight = weight_NV.double().gather(1, index)
    fraction = (point - (cumulative.gather(1, index) - weight)) / weight
    return index, fraction.clamp(0, 1 - 1e-12)
