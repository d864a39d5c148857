"""Masked-HWM as one would first write it: the plain reference of the benchmarks.

Actions copied to every place and averaged over the places after each temporal attention, logits of every grid at once,
all grids run again for every pass.  Parameter names are those of `hwm.models.masked`, so that the same weights load
into both (joint attention, flat vocabularies); corruption, masks and re-masking draw the same random numbers, and the
results are equal in float64 (tests/models/test_naive_masked.py).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwm.clock import COSMOS
from hwm.model_config import MaskedConfig
from hwm.models.masked_blocks import slot_visibility
from hwm.models.masked_filling import masks_left, random_mask, remask
from hwm.models.token_grids import corrupt
from hwm.nn.rope import grid_positions, rope_angles, rotate
from hwm.nn.states import ActionEncoder, state_pooling
from hwm.nn.streams import PerStream, Sharing, sharing_by_layer


class Attention(nn.Module):
    def __init__(self, config: MaskedConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width)
        self.q_norm = nn.LayerNorm(config.width // config.num_heads) if config.qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(config.width // config.num_heads) if config.qk_norm else nn.Identity()

    def forward(self, x_GLD: Tensor, angles_LP: Tensor, visible_LL: Tensor | None = None) -> Tensor:
        G, L, D = x_GLD.shape
        q, k, v = (y.view(G, L, self.num_heads, -1).transpose(1, 2) for y in self.qkv(x_GLD).chunk(3, -1))
        q, k = rotate(self.q_norm(q), angles_LP), rotate(self.k_norm(k), angles_LP)
        scores = q @ k.transpose(2, 3) / math.sqrt(D // self.num_heads)
        if visible_LL is not None:
            scores = scores.masked_fill(~visible_LL, -torch.inf)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(G, L, D))


class FeedForward(nn.Module):
    def __init__(self, config: MaskedConfig) -> None:
        super().__init__()
        D, hidden = config.width, config.mlp_ratio * config.width
        self.dropout = config.dropout
        self.norm, self.up, self.down = nn.LayerNorm(D), nn.Linear(D, hidden), nn.Linear(hidden, D)

    def forward(self, x: Tensor) -> Tensor:
        y = F.dropout(F.gelu(self.up(self.norm(x))), self.dropout, self.training)
        return x + F.dropout(self.down(y), self.dropout, self.training)


class Streams(nn.Module):
    def __init__(self, config: MaskedConfig, sharing: Sharing) -> None:
        super().__init__()
        self.layers = PerStream(lambda: FeedForward(config), sharing)


class Block(nn.Module):
    def __init__(self, config: MaskedConfig, sharing: Sharing) -> None:
        super().__init__()
        D = config.width
        self.num_past = config.context_grids
        self.spatial_norm, self.temporal_norm = nn.LayerNorm(D), nn.LayerNorm(D)
        self.spatial, self.temporal = Attention(config), Attention(config)
        self.mlp = Streams(config, sharing)

    def forward(
        self, video_BTSD: Tensor, actions_BTD: Tensor, places: Tensor, times: Tensor, visible: Tensor
    ) -> tuple[Tensor, Tensor]:
        B, T, S, D = video_BTSD.shape
        y = self.spatial(self.spatial_norm(video_BTSD).reshape(B * T, S, D), places)
        video_BTSD = video_BTSD + y.view(B, T, S, D)
        slots = torch.cat([video_BTSD, actions_BTD[:, :, None].expand(-1, -1, S, -1)], 1)
        slots = slots.transpose(1, 2).reshape(B * S, 2 * T, D)
        slots = slots + self.temporal(self.temporal_norm(slots), times, visible)
        slots = slots.view(B, S, 2 * T, D).transpose(1, 2)
        video, actions = slots[:, :T], slots[:, T:].mean(2)
        streams = [x for y in (video, actions) for x in (y[:, : self.num_past], y[:, self.num_past :])]
        past, future, past_actions, future_actions = (self.mlp.layers.of(i)(x) for i, x in enumerate(streams))
        return torch.cat([past, future], 1), torch.cat([past_actions, future_actions], 1)


class NaiveVocabulary(nn.Module):
    def __init__(self, config: MaskedConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.vocab_size, config.width))
        self.head = nn.Linear(config.width, config.vocab_size)


class NaiveMasked(nn.Module):
    """The plain model of joint attention, with learned positions."""

    def __init__(self, config: MaskedConfig) -> None:
        super().__init__()
        assert config.attention == "joint" and config.learned_positions
        assert not config.factors and not config.state_modulation
        self.config = config
        G, S = config.context_grids + config.future_grids, config.grid[0] * config.grid[1]
        pooling = state_pooling(COSMOS, G, num_states=config.num_states)
        self.vocabulary = NaiveVocabulary(config)
        self.mask = nn.Parameter(torch.empty(config.width))
        self.positions = nn.Parameter(torch.empty(G, S, config.width))
        self.actions = ActionEncoder(
            pooling, state_dim=config.state_dim, width=config.width, mlp_ratio=config.mlp_ratio
        )
        kinds = sharing_by_layer(config.sharing, num_layers=config.num_layers, unshared_blocks=config.unshared_blocks)
        self.blocks = nn.ModuleList(Block(config, kind) for kind in kinds)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, tokens_BTHW: Tensor, masked_BTHW: Tensor, states_BFA: Tensor) -> Tensor:
        """Logits of all grids, (B, T, S, V)."""
        config = self.config
        tokens_BTS, masked_BTS = tokens_BTHW.flatten(2), masked_BTHW.flatten(2)
        G, head = tokens_BTS.shape[1], config.width // config.num_heads
        places = rope_angles(grid_positions(*config.grid), head).to(tokens_BTS.device)
        times = rope_angles(torch.arange(G).repeat(2)[:, None], head).to(tokens_BTS.device)
        visible = slot_visibility(G, config.visibility).to(tokens_BTS.device)
        video = F.embedding(tokens_BTS, self.vocabulary.weight)
        video = torch.where(masked_BTS[..., None], self.mask, video) + self.positions
        actions = self.actions(states_BFA)
        for block in self.blocks:
            video, actions = block(video, actions, places, times, visible)
        return self.vocabulary.head(self.norm(video))

    def loss(self, tokens_BTHW: Tensor, states_BFA: Tensor, *, generator: torch.Generator) -> Tensor:
        """Cross-entropy of the masked future tokens."""
        config = self.config
        inputs = corrupt(
            tokens_BTHW, vocab_size=config.vocab_size, max_rate=config.max_corruption, generator=generator
        )
        future = tokens_BTHW[:, config.context_grids :]
        masked = torch.zeros_like(tokens_BTHW, dtype=torch.bool)
        masked[:, config.context_grids :] = random_mask(tuple(future.shape), generator=generator)
        logits_BTSV = self(inputs, masked, states_BFA)
        nll = F.cross_entropy(logits_BTSV.flatten(0, 2), tokens_BTHW.flatten(), reduction="none")
        return nll[masked.flatten()].mean()

    @torch.no_grad()
    def generate(self, context_BTHW: Tensor, states_BFA: Tensor, *, generator: torch.Generator) -> Tensor:
        """Most likely future grids, (B, T, H, W), random re-masking."""
        config = self.config
        B, C = context_BTHW.shape[:2]
        tokens = torch.cat([context_BTHW, torch.zeros(B, config.future_grids, *config.grid).to(context_BTHW)], 1)
        masked = torch.ones_like(tokens, dtype=torch.bool)
        masked[:, :C] = False
        for grid in range(C, C + config.future_grids):
            for left in masks_left(config.steps, config.grid[0] * config.grid[1]):
                ids = self(tokens, masked, states_BFA)[:, grid].argmax(-1).view(B, *config.grid)
                tokens[:, grid] = torch.where(masked[:, grid], ids, tokens[:, grid])
                if left:
                    now = masked[:, grid].flatten(1)
                    chance = torch.rand(now.shape, generator=generator, device=generator.device).to(now.device)
                    masked[:, grid] = remask(now, chance, left).view(B, *config.grid)
                else:
                    masked[:, grid] = False
        return tokens[:, C:]
