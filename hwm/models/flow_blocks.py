"""Transformer blocks over the four token streams with modulation by time: joint attention and split attention.

Both take whichever streams they are given: the past and the actions may go through alone, and leave keys and values
(a memory) that the future video reads later.  Source: HWM paper section 2.4, figure 3; the parts that the paper leaves
open as in the release (reference D.2): LayerNorm without weights, no bias in the projections, QK-norm.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwm.model_config import FlowConfig
from hwm.nn.dropout import dropout
from hwm.nn.modulation import AdaLNZero, normalise, over_tokens
from hwm.nn.rope import rotate
from hwm.nn.streams import FUTURE_ACTIONS, FUTURE_VIDEO, PAST_ACTIONS, PAST_VIDEO, PerStream, Sharing

Tokens = dict[int, Tensor]
"""Tokens (B, L, D) of the streams that are there."""
Vectors = dict[int, tuple[Tensor, ...]]
"""Modulation of each stream: shift, scale, gate of attention, then of the feed-forward (then of cross-attention), each
(B or 1, T, D) for T runs of tokens."""
Memory = tuple[Tensor, Tensor]
"""Keys, normalised and rotated, and values (B, N, L, H)."""

SOURCES = (PAST_VIDEO, PAST_ACTIONS, FUTURE_ACTIONS)
"""What the future video reads by cross-attention."""


class Projection(nn.Module):
    """Queries, keys and values in one product, without bias; without queries for those who only are read."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 3 * width, bias=False)

    def forward(self, x_BLD: Tensor, *, queries: bool = True) -> tuple[Tensor, ...]:
        weight = self.linear.weight if queries else self.linear.weight[x_BLD.shape[-1] :]
        return F.linear(x_BLD, weight).chunk(3 if queries else 2, -1)


class Attention(nn.Module):
    """Queries to keys and values: heads, LayerNorm over each head's queries and keys, rotary positions."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q_norm, self.k_norm = (
            nn.LayerNorm(config.width // config.num_heads) if config.qk_norm else nn.Identity() for _ in range(2)
        )

    def memory(self, k_BLD: Tensor, v_BLD: Tensor, angles_LP: Tensor) -> Memory:
        """What queries read of these tokens."""
        v_BNLH = self._heads(v_BLD).transpose(1, 2)
        return rotate(self._normed(self.k_norm, k_BLD), angles_LP), v_BNLH

    def forward(self, q_BLD: Tensor, angles_LP: Tensor, memory: Memory) -> Tensor:
        q_BNLH = rotate(self._normed(self.q_norm, q_BLD), angles_LP)
        return F.scaled_dot_product_attention(q_BNLH, *memory).transpose(1, 2).flatten(2)

    def _heads(self, x_BLD: Tensor) -> Tensor:
        return x_BLD.unflatten(-1, (self.num_heads, -1))

    def _normed(self, norm: nn.Module, x_BLD: Tensor) -> Tensor:
        # Autocast runs the norm in float32; attention runs in the type of the values.
        return norm(self._heads(x_BLD)).to(x_BLD.dtype).transpose(1, 2)


def _mlp(config: FlowConfig) -> nn.Sequential:
    hidden = config.mlp_ratio * config.width
    return nn.Sequential(nn.Linear(config.width, hidden), nn.GELU(), nn.Linear(hidden, config.width))


class Block(nn.Module):
    """What both blocks do alike; each makes the rest of its layers, in an order of its own.

    last: nobody reads the past and the actions after this block, so they only give keys and values.
    """

    mlp: PerStream

    def __init__(self, config: FlowConfig, sharing: Sharing, *, last: bool) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.readers = (FUTURE_VIDEO,) if last else tuple(range(4))
        self.modulation = PerStream(lambda: AdaLNZero(config.width, 6), sharing)

    def vectors(self, conditions: Tokens) -> Vectors:
        """Modulation of the streams under their conditions (B, T, D)."""
        return {stream: self.modulation.of(stream)(c_BTD) for stream, c_BTD in conditions.items()}

    def _add(self, x_BLD: Tensor, gate_BTD: Tensor, y_BLD: Tensor) -> Tensor:
        """Residual connection behind a gate: x + gate * y, y with dropout while training."""
        return torch.addcmul(x_BLD, over_tokens(gate_BTD, x_BLD), dropout(y_BLD, self.dropout, training=self.training))

    def _feed_forward(self, stream: int, x_BLD: Tensor, vectors: tuple[Tensor, ...]) -> Tensor:
        shift, scale, gate = vectors[3:6]
        return self._add(x_BLD, gate, self.mlp.of(stream)(normalise(x_BLD, shift, scale)))


class JointBlock(Block):
    """All tokens attend to all tokens; modulation, projections and feed-forward by `sharing`, one output projection."""

    def __init__(self, config: FlowConfig, sharing: Sharing, *, last: bool) -> None:
        super().__init__(config, sharing, last=last)
        self.qkv = PerStream(lambda: Projection(config.width), sharing)
        self.attention = Attention(config)
        self.out = nn.Linear(config.width, config.width)
        self.mlp = PerStream(lambda: _mlp(config), sharing, streams=self.readers)

    def forward(
        self, tokens: Tokens, vectors: Vectors, angles: list[Tensor], memory: Memory | None = None
    ) -> tuple[Tokens, Memory]:
        """The streams that go on, and the memory of all tokens given.

        angles: rotary angles (L, P) of all four streams.  memory: of other tokens, that these read besides their own.
        """
        readers = [stream for stream in tokens if stream in self.readers]
        queries, keys, values = [], [], []
        for stream, x_BLD in tokens.items():
            y_BLD = normalise(x_BLD, *vectors[stream][:2])
            *q_BLD, k_BLD, v_BLD = self.qkv.of(stream)(y_BLD, queries=stream in readers)
            queries += q_BLD
            keys.append(k_BLD)
            values.append(v_BLD)
        own = self.attention.memory(torch.cat(keys, 1), torch.cat(values, 1), torch.cat([angles[s] for s in tokens]))
        if not readers:
            return {}, own
        seen = own if memory is None else (torch.cat([memory[0], own[0]], 2), torch.cat([memory[1], own[1]], 2))
        y_BLD = self.out(self.attention(torch.cat(queries, 1), torch.cat([angles[s] for s in readers]), seen))
        parts = y_BLD.split([tokens[stream].shape[1] for stream in readers], 1)
        # Stream by stream: attention and feed-forward of one draw their dropout before those of the next.
        rest = ((s, self._add(tokens[s], vectors[s][2], part)) for s, part in zip(readers, parts))
        return {s: self._feed_forward(s, x_BLD, vectors[s]) for s, x_BLD in rest}, own


class SplitBlock(Block):
    """Every stream attends to itself, then the future video to the past video and to the actions, then feed-forward.

    Each source of the cross-attention has keys and values of its own, from tokens under a LayerNorm without
    modulation; all are read in one soft-max.  With sharing "modality" throughout, this composition has the paper's
    size: 47 D^2 a block (SYSTEMS.md section 3).  Arguments and forward as in JointBlock; the memory is of the sources.
    """

    def __init__(self, config: FlowConfig, sharing: Sharing, *, last: bool) -> None:
        super().__init__(config, sharing, last=last)
        D = config.width
        self.cross_modulation = AdaLNZero(D, 3)
        self.qkv = PerStream(lambda: Projection(D), sharing)
        self.attention = Attention(config)
        self.out = PerStream(lambda: nn.Linear(D, D), sharing)
        self.cross_q = nn.Linear(D, D, bias=False)
        self.cross_kv = PerStream(lambda: nn.Linear(D, 2 * D, bias=False), "stream", streams=SOURCES)
        self.cross_attention = Attention(config)
        self.cross_out = nn.Linear(D, D)
        self.mlp = PerStream(lambda: _mlp(config), sharing, streams=self.readers)

    def vectors(self, conditions: Tokens) -> Vectors:
        """Modulation of the streams under their conditions (B, T, D); three more for the future video."""
        vectors = super().vectors(conditions)
        if FUTURE_VIDEO in conditions:
            vectors[FUTURE_VIDEO] += self.cross_modulation(conditions[FUTURE_VIDEO])
        return vectors

    def forward(
        self, tokens: Tokens, vectors: Vectors, angles: list[Tensor], memory: Memory | None = None
    ) -> tuple[Tokens, Memory]:
        tokens = {stream: self._self_attend(stream, x, vectors[stream], angles[stream]) for stream, x in tokens.items()}
        sources = [stream for stream in tokens if stream in SOURCES]
        if sources:
            pairs = [self.cross_kv.of(s)(F.layer_norm(tokens[s], tokens[s].shape[-1:])).chunk(2, -1) for s in sources]
            keys, values = (torch.cat(part, 1) for part in zip(*pairs))
            memory = self.cross_attention.memory(keys, values, torch.cat([angles[s] for s in sources]))
        assert memory is not None, "the future video needs something to read"
        if FUTURE_VIDEO in tokens:
            x_BLD, (shift, scale, gate) = tokens[FUTURE_VIDEO], vectors[FUTURE_VIDEO][6:]
            q_BLD = self.cross_q(normalise(x_BLD, shift, scale))
            y_BLD = self.cross_out(self.cross_attention(q_BLD, angles[FUTURE_VIDEO], memory))
            tokens[FUTURE_VIDEO] = self._add(x_BLD, gate, y_BLD)
        return {s: self._feed_forward(s, x, vectors[s]) for s, x in tokens.items() if s in self.readers}, memory

    def _self_attend(self, stream: int, x_BLD: Tensor, vectors: tuple[Tensor, ...], angles_LP: Tensor) -> Tensor:
        shift, scale, gate = vectors[:3]
        q_BLD, k_BLD, v_BLD = self.qkv.of(stream)(normalise(x_BLD, shift, scale))
        y_BLD = self.attention(q_BLD, angles_LP, self.attention.memory(k_BLD, v_BLD, angles_LP))
        return self._add(x_BLD, gate, self.out.of(stream)(y_BLD))
