"""ST-Transformer as one would first write it: the plain reference of the benchmarks.

Materialised attention, logits of every position at once, time moved inside the batch by copies, every new grid
predicted by running all grids again.  Parameter names are those of `hwm.models.st_transformer`, so that the same
weights load into both (flat vocabularies only); the results are equal in float64 (tests/models/test_naive_st.py).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwm.clock import COSMOS
from hwm.model_config import STConfig
from hwm.nn.states import StateEncoder, state_pooling


class Attention(nn.Module):
    def __init__(self, config: STConfig) -> None:
        super().__init__()
        self.num_heads, self.dropout = config.num_heads, config.dropout
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=config.qkv_bias)
        self.out = nn.Linear(config.width, config.width)
        self.q_norm = nn.LayerNorm(config.width // config.num_heads) if config.qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(config.width // config.num_heads) if config.qk_norm else nn.Identity()

    def forward(self, x_GLD: Tensor, *, causal: bool) -> Tensor:
        G, L, D = x_GLD.shape
        q, k, v = (y.view(G, L, self.num_heads, -1).transpose(1, 2) for y in self.qkv(x_GLD).chunk(3, -1))
        scores = self.q_norm(q) @ self.k_norm(k).transpose(2, 3) / math.sqrt(D // self.num_heads)
        if causal:
            scores = scores.masked_fill(torch.ones(L, L, dtype=torch.bool, device=scores.device).triu(1), -torch.inf)
        weights = F.dropout(scores.softmax(-1), self.dropout, self.training).to(v.dtype)
        return self.out((weights @ v).transpose(1, 2).reshape(G, L, D))


class Block(nn.Module):
    def __init__(self, config: STConfig) -> None:
        super().__init__()
        D = config.width
        self.dropout = config.dropout
        self.spatial_norm, self.temporal_norm, self.mlp_norm = nn.LayerNorm(D), nn.LayerNorm(D), nn.LayerNorm(D)
        self.spatial, self.temporal = Attention(config), Attention(config)
        self.mlp = nn.Sequential(nn.Linear(D, config.mlp_ratio * D), nn.GELU(), nn.Linear(config.mlp_ratio * D, D))

    def forward(self, x_BTSD: Tensor) -> Tensor:
        B, T, S, D = x_BTSD.shape
        y = self.spatial(self.spatial_norm(x_BTSD).reshape(B * T, S, D), causal=False).view(B, T, S, D)
        x_BTSD = x_BTSD + F.dropout(y, self.dropout, self.training)
        y = self.temporal_norm(x_BTSD).transpose(1, 2).reshape(B * S, T, D)
        y = self.temporal(y, causal=True).view(B, S, T, D).transpose(1, 2)
        x_BTSD = x_BTSD + F.dropout(y, self.dropout, self.training)
        return x_BTSD + F.dropout(self.mlp(self.mlp_norm(x_BTSD)), self.dropout, self.training)


class NaiveVocabulary(nn.Module):
    def __init__(self, config: STConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.vocab_size, config.width))


class NaiveST(nn.Module):
    """The plain model.  Its defaults cover what the benchmarks run: states of the target grid, no scheduled sampling."""

    def __init__(self, config: STConfig) -> None:
        super().__init__()
        assert not config.factors and config.state_alignment == "target" and config.attention == "spatiotemporal"
        self.config = config
        num_grids = config.context_grids + config.future_grids
        pooling = state_pooling(COSMOS, num_grids, num_states=config.num_states)[1:]
        self.vocabulary = NaiveVocabulary(config)
        self.place_positions = nn.Parameter(torch.empty(config.grid[0] * config.grid[1], config.width))
        self.step_positions = nn.Parameter(torch.empty(num_grids - 1, config.width))
        self.states = StateEncoder(
            pooling, state_dim=config.state_dim, hidden=config.state_hidden, width=config.width
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, tokens_BTHW: Tensor, states_BFA: Tensor) -> Tensor:
        """Logits of the grid after each of the given ones, (B, T, S, V)."""
        tokens_BTS = tokens_BTHW.flatten(2)
        steps = tokens_BTS.shape[1]
        step_BTD = self.states(states_BFA)[:, :steps] + self.step_positions[:steps]
        x_BTSD = F.embedding(tokens_BTS, self.vocabulary.weight) + self.place_positions + step_BTD[:, :, None]
        for block in self.blocks:
            x_BTSD = block(x_BTSD)
        return F.linear(self.norm(x_BTSD), self.vocabulary.weight)

    def loss(self, tokens_BTHW: Tensor, states_BFA: Tensor) -> Tensor:
        """Mean cross-entropy of the grids that count."""
        first = self.config.context_grids - 1 if self.config.loss_on == "future" else 0
        logits_BTSV = self(tokens_BTHW[:, :-1], states_BFA)[:, first:]
        targets_BTS = tokens_BTHW[:, 1 + first :].flatten(2)
        logits_NV = logits_BTSV.flatten(0, 2)
        return F.cross_entropy(logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float(), targets_BTS.flatten())

    @torch.no_grad()
    def generate(self, context_BTHW: Tensor, states_BFA: Tensor) -> Tensor:
        """Greedy future grids, (B, T, H, W)."""
        grids_BTHW = context_BTHW
        for _ in range(self.config.future_grids):
            newest_BSV = self(grids_BTHW, states_BFA)[:, -1]
            grids_BTHW = torch.cat([grids_BTHW, newest_BSV.argmax(-1).view_as(grids_BTHW[:, :1])], 1)
        return grids_BTHW[:, context_BTHW.shape[1] :]
