"""Flow-HWM as one would first write it: the plain reference of the benchmarks.

Every step of the solver computes everything again: context, modulation, all streams of the last block; attention as a
materialised soft-max, rotation by complex numbers, guidance as two calls.  It reads the weights of an
`hwm.models.flow.FlowHWM`; the results are equal in float64 (tests/models/test_naive_flow.py).
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwm.contracts import Batch
from hwm.models.flow import FlowHWM

FUTURE = 1
"""Number of the stream of future video."""


class NaiveFlow(nn.Module):
    """The plain model with a copy of the weights of `ours`; no shortcuts, no dropout, no time per grid."""

    def __init__(self, ours: FlowHWM) -> None:
        super().__init__()
        assert not (ours.config.shortcut or ours.config.dropout or ours.config.time_per_grid)
        self.weights, self.config = copy.deepcopy(ours), ours.config
        self.places = [self.turns(positions_LX) for positions_LX in self.positions()]

    # Attention

    def positions(self) -> list[Tensor]:
        """Positions (L, axes) of the tokens of each stream."""
        c, frames = self.config, self.weights.network.past_frames
        rows, columns = c.grid[0] // c.patch, c.grid[1] // c.patch
        places = [(t, h, w) for t in range(c.context_grids + c.future_grids) for h in range(rows) for w in range(columns)]
        video, past = torch.tensor(places), c.context_grids * rows * columns
        actions = torch.arange(c.num_states)[:, None]
        return [video[:past], video[past:], actions[:frames], actions[frames:]]

    def turns(self, positions_LX: Tensor) -> Tensor:
        """Complex factors: pair i of an axis turns by position * 10000 ** (-2 i / width)."""
        H, axes = self.config.width // self.config.num_heads, positions_LX.shape[1]
        each = H // (2 * axes) * 2
        angles = []
        for axis in range(axes):
            width = H - (axes - 1) * each if axis == 0 else each
            for i in range(width // 2):
                angles.append(positions_LX[:, axis].double() * 10_000 ** (-2 * i / width))
        return torch.polar(torch.ones(len(positions_LX), H // 2).double(), torch.stack(angles, 1))

    def rotate(self, x_BNLH: Tensor, turn_LP: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x_BNLH.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * turn_LP.to(pairs.dtype)).flatten(-2)

    def attend(self, attention: nn.Module, q: list[Tensor], k: list[Tensor], v: list[Tensor], places: list, hidden) -> Tensor:
        """Queries of some streams to keys and values of others; `places` are the factors of both."""

        def heads(parts: list[Tensor], norm: nn.Module, turns: list[Tensor]) -> Tensor:
            turned = []
            for part, turn in zip(parts, turns):
                x_BNLH = norm(part.unflatten(-1, (self.config.num_heads, -1))).transpose(1, 2)
                turned.append(self.rotate(x_BNLH, turn))
            return torch.cat(turned, 2)

        queries, keys = heads(q, attention.q_norm, places[0]), heads(k, attention.k_norm, places[1])
        values = torch.cat(v, 1).unflatten(-1, (self.config.num_heads, -1)).transpose(1, 2)
        scores = queries @ keys.transpose(2, 3) / math.sqrt(queries.shape[-1])
        if hidden is not None:
            scores = scores.masked_fill(hidden, -torch.inf)
        return (scores.softmax(-1) @ values).transpose(1, 2).flatten(2)

    # Blocks

    def joint_block(self, block, x: list[Tensor], conditions: list[Tensor], last: bool) -> list[Tensor]:
        modulation = [block.modulation.of(s)(conditions[s]) for s in range(4)]
        projected = []
        for s in range(4):
            shift, scale = modulation[s][:2]
            projected.append(block.qkv.of(s).linear(self.norm(x[s]) * (1 + scale) + shift).chunk(3, -1))
        places, lengths = self.places, [y.shape[1] for y in x]
        hidden = None
        if self.config.context_sees == "context":
            future = torch.cat([torch.full((n,), s == FUTURE) for s, n in enumerate(lengths)])
            hidden = future[None, :] & ~future[:, None]
        q, k, v = ([p[i] for p in projected] for i in range(3))
        y = block.out(self.attend(block.attention, q, k, v, [places, places], hidden)).split(lengths, 1)
        return self.feed_forward(block, [x[s] + modulation[s][2] * y[s] for s in range(4)], modulation, last)

    def split_block(self, block, x: list[Tensor], conditions: list[Tensor], last: bool) -> list[Tensor]:
        modulation, places = [block.modulation.of(s)(conditions[s]) for s in range(4)], self.places
        x = list(x)
        for s in range(4):
            shift, scale, gate = modulation[s][:3]
            q, k, v = block.qkv.of(s).linear(self.norm(x[s]) * (1 + scale) + shift).chunk(3, -1)
            y = self.attend(block.attention, [q], [k], [v], [[places[s]], [places[s]]], None)
            x[s] = x[s] + gate * block.out.of(s)(y)
        others = [s for s in range(4) if s != FUTURE]
        k, v = zip(*(block.cross_kv.of(s)(self.norm(x[s])).chunk(2, -1) for s in others))
        shift, scale, gate = block.cross_modulation(conditions[FUTURE])
        q = block.cross_q(self.norm(x[FUTURE]) * (1 + scale) + shift)
        seen = [places[s] for s in others]
        y = block.cross_out(self.attend(block.cross_attention, [q], k, v, [[places[FUTURE]], seen], None))
        x[FUTURE] = x[FUTURE] + gate * y
        return self.feed_forward(block, x, modulation, last)

    def feed_forward(self, block, x: list[Tensor], modulation: list, last: bool) -> list[Tensor]:
        x = list(x)
        for s in [FUTURE] if last else range(4):
            shift, scale, gate = modulation[s][3:6]
            x[s] = x[s] + gate * block.mlp.of(s)(self.norm(x[s]) * (1 + scale) + shift)
        return x

    def norm(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:])

    # The model

    def velocity(self, x_BTCHW: Tensor, past_BTCHW: Tensor, states_BFA: Tensor, times_B: Tensor) -> Tensor:
        net, p = self.weights.network, self.config.patch

        def patches(latents: Tensor) -> Tensor:
            B, T, C, H, W = latents.shape
            tiles = latents.view(B, T, C, H // p, p, W // p, p).permute(0, 1, 3, 5, 2, 4, 6)
            return tiles.reshape(B, T * (H // p) * (W // p), C * p * p)

        actions = net.actions(states_BFA)
        past_actions, future_actions = actions[:, : net.past_frames], actions[:, net.past_frames :]
        x = [net.past_patches(patches(past_BTCHW)), net.future_patches(patches(x_BTCHW)), past_actions, future_actions]
        future = self.condition(times_B, future_actions)
        context = self.condition(torch.ones_like(times_B), future_actions)
        conditions = [future] * 4 if self.config.context_sees == "all" else [context, future, context, context]
        run = self.joint_block if self.config.attention == "joint" else self.split_block
        for block in net.blocks:
            x = run(block, x, conditions, block is net.blocks[-1])
        shift, scale = net.final_modulation(future)
        y = net.final(self.norm(x[FUTURE]) * (1 + scale) + shift)
        B, T, C, H, W = x_BTCHW.shape
        return y.view(B, T, H // p, W // p, C, p, p).permute(0, 1, 4, 2, 5, 3, 6).reshape(B, T, C, H, W)

    def condition(self, times_B: Tensor, future_actions: Tensor) -> Tensor:
        net, half = self.weights.network, self.config.width // 2
        angles = 1000 * times_B.float()[:, None] * torch.exp(-math.log(10_000) / half * torch.arange(half))
        condition = net.time(torch.cat([angles.cos(), angles.sin()], 1).to(future_actions.dtype))
        if net.state_condition is not None:
            condition = condition + net.state_condition(future_actions.mean(1))
        return condition[:, None]

    def normalised(self, latents_BTCHW: Tensor, states_BFA: Tensor) -> tuple[Tensor, Tensor]:
        units = self.weights.units
        latents = (latents_BTCHW - units.mean_C[:, None, None]) / units.std_C[:, None, None]
        return latents, (states_BFA - units.shift_scale[0]) * units.shift_scale[1]

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """The flow-matching loss, with the random numbers that ours draws."""
        c = self.config
        assert batch.latents_BTCHW is not None
        latents, states = self.normalised(batch.latents_BTCHW, batch.states_BFA)
        past, data = latents[:, : c.context_grids], latents[:, c.context_grids :]
        kept = (torch.rand(len(data), generator=generator) >= c.condition_dropout).to(data)
        noise = torch.randn(data.shape, generator=generator).to(data)
        t = torch.randn(len(data), generator=generator).sigmoid().to(data)
        at = t.view(-1, 1, 1, 1, 1)
        x = at * data + (1 - (1 - c.sigma_min) * at) * noise
        v = self.velocity(x, past * kept.view(-1, 1, 1, 1, 1), states * kept.view(-1, 1, 1), t)
        return F.mse_loss(v, data - (1 - c.sigma_min) * noise)

    @torch.no_grad()
    def generate(self, context_BTCHW: Tensor, states_BFA: Tensor, generator: torch.Generator) -> Tensor:
        """One sample of each clip by Euler steps, the conditional and the unconditional velocity one after the other."""
        c = self.config
        past, states = self.normalised(context_BTCHW, states_BFA)
        x = torch.randn(len(past), c.future_grids, *past.shape[2:], generator=generator).to(past) * c.temperature
        for k in range(c.steps):
            t = torch.full((len(x),), k / c.steps)
            v = self.velocity(x, past, states, t)
            if c.guidance != 1:
                v_0 = self.velocity(x, torch.zeros_like(past), torch.zeros_like(states), t)
                v = v_0 + c.guidance * (v - v_0)
            x = x + v / c.steps
        units = self.weights.units
        return x * units.std_C[:, None, None] + units.mean_C[:, None, None]
