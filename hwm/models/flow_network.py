"""The network of Flow-HWM: from noisy future latents, the past, the actions and the flow's time to the velocity, or the data.

Source: HWM paper sections 2.3.1 and 2.4; what the paper leaves open as in the release (reference D.2).  `forward` is all
of it.  Prediction calls its parts, since most of them need not run at every step.
"""

from typing import Any

import torch
from torch import Tensor, nn

from hwm.clock import Clock
from hwm.model_config import FlowConfig
from hwm.models.flow_blocks import JointBlock, Memory, SplitBlock, Tokens, Vectors
from hwm.nn.flow_matching import SHORTCUT_LEVELS, time_features
from hwm.nn.modulation import AdaLNZero, normalise
from hwm.nn.rope import grid_positions, rope_angles
from hwm.nn.states import state_pooling, with_changes
from hwm.nn.streams import FUTURE_ACTIONS, FUTURE_VIDEO, PAST_ACTIONS, PAST_VIDEO, STREAMS, sharing_by_layer


class FlowNetwork(nn.Module):
    """Four streams of tokens, blocks modulated by time, one output for each future latent.  Everything is normalised.

    Linear layers start from Xavier's uniform distribution, the last one among them (the paper found zeros unstable),
    modulation and every added condition from zero.
    """

    video_positions: Tensor
    action_positions: Tensor
    pooling_TF: Tensor

    def __init__(self, config: FlowConfig, *, clock: Clock) -> None:
        super().__init__()
        self.config = config
        D, rows, columns = config.width, *(side // config.patch for side in config.grid)
        num_grids = config.context_grids + config.future_grids
        self.past_tokens = config.context_grids * rows * columns
        self.past_frames, num_frames = clock.num_frames(config.context_grids), clock.num_frames(num_grids)
        patch = config.channels * config.patch**2
        self.past_patches, self.future_patches = nn.Linear(patch, D), nn.Linear(patch, D)
        state_width = config.state_dim * (2 if config.state_changes else 1)
        self.actions = nn.Sequential(nn.Linear(state_width, 4 * D), nn.SiLU(), nn.Linear(4 * D, D))
        self.time = nn.Sequential(nn.Linear(D, 4 * D), nn.SiLU(), nn.Linear(4 * D, D))
        self.state_condition = nn.Linear(D, D) if config.state_modulation else None
        self.place_patches = nn.Linear(config.context_grids * patch, D) if config.place_context else None
        self.step_size = nn.Embedding(SHORTCUT_LEVELS + 1, D, padding_idx=SHORTCUT_LEVELS) if config.shortcut else None
        Block = JointBlock if config.attention == "joint" else SplitBlock
        sharing = sharing_by_layer(config.sharing, num_layers=config.num_layers, unshared_blocks=config.unshared_blocks)
        last = config.num_layers - 1
        self.blocks: Any = nn.ModuleList(Block(config, kind, last=layer == last) for layer, kind in enumerate(sharing))
        self.final_modulation, self.final = AdaLNZero(D, 2), nn.Linear(D, patch, bias=False)
        pooling_GF = state_pooling(clock, num_grids, num_states=num_frames)
        pooling_TF = torch.from_numpy(pooling_GF[config.context_grids :, self.past_frames :])
        self.register_buffer("pooling_TF", pooling_TF, persistent=False)
        self.register_buffer("video_positions", grid_positions(num_grids, rows, columns), persistent=False)
        self.register_buffer("action_positions", grid_positions(num_frames), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, AdaLNZero):
                module.reset()
        if self.step_size is not None:
            nn.init.zeros_(self.step_size.weight)
        if self.state_condition is not None:
            nn.init.zeros_(self.state_condition.weight)
            if self.config.state_start:
                nn.init.normal_(self.state_condition.weight, std=self.config.state_start)

    def forward(self, x_BTCHW: Tensor, past_BTCHW: Tensor, states_BFA: Tensor, *, times_BT: Tensor, levels_B: Tensor) -> Tensor:
        """Output for the future latents x, in their type: their velocity, or the data (config.output).

        times_BT: time in [0, 1] of each future grid, or (B, 1) for one time of all.
        levels_B: step size as a level of `flow_matching.sample_shortcuts`; SHORTCUT_LEVELS is the plain flow.
        """
        context = self.embed(past_BTCHW, states_BFA)
        pooled_BTD = self.pool_actions(context)
        vectors, place_BLD = self.vectors(self.conditions(times_BT, levels_B, pooled_BTD)), self.place(past_BTCHW)
        if self.config.context_sees == "all":
            return self.advance(x_BTCHW, vectors, place_BLD=place_BLD, context=context)
        return self.advance(x_BTCHW, vectors, place_BLD=place_BLD, memories=self.remember(context, pooled_BTD))

    def embed(self, past_BTCHW: Tensor, states_BFA: Tensor) -> Tokens:
        """Tokens (B, L, D) of the streams that are given: one of each patch of a grid, one of each frame's states."""
        if self.config.state_changes:
            states_BFA = with_changes(states_BFA, row=self.past_frames - 1)
        actions_BFD = self.actions(states_BFA.to(self.final.weight.dtype))
        past_BLD = self.past_patches(self._patches(past_BTCHW))
        return {
            PAST_VIDEO: past_BLD,
            PAST_ACTIONS: actions_BFD[:, : self.past_frames],
            FUTURE_ACTIONS: actions_BFD[:, self.past_frames :],
        }

    def place(self, past_BTCHW: Tensor) -> Tensor | None:
        """The past latents at the place of every future token, (B, L, D), where they enter there (ours)."""
        if self.place_patches is None:
            return None
        patches_BTSP = self._patches(past_BTCHW).unflatten(1, (self.config.context_grids, -1))
        place_BSD: Tensor = self.place_patches(patches_BTSP.transpose(1, 2).flatten(2))
        return place_BSD.repeat(1, self.config.future_grids, 1)

    def pool_actions(self, context: Tokens) -> Tensor | None:
        """Mean embedding of the actions of each future grid (B, T, D), where they modulate (ours)."""
        if self.state_condition is None:
            return None
        actions_BFD = context[FUTURE_ACTIONS]
        return self.pooling_TF.to(actions_BFD.dtype) @ actions_BFD

    def conditions(self, times_BT: Tensor, levels_B: Tensor, pooled_BTD: Tensor | None) -> Tokens:
        """Conditions (B, T, D) of the streams that stand at the flow's time: its embedding and what joins it.

        Where future grids differ in time, the context stands at the mean of their conditions (ours).
        """
        future_BTD = self._time_condition(times_BT, pooled_BTD)
        if self.step_size is not None:
            future_BTD = future_BTD + self.step_size(levels_B)[:, None]
        if self.config.context_sees == "context":
            return {FUTURE_VIDEO: future_BTD}
        context_B1D = future_BTD.mean(1, keepdim=True)
        return {s: future_BTD if s == FUTURE_VIDEO else context_B1D for s in range(len(STREAMS))}

    def vectors(self, conditions: Tokens) -> list[Vectors]:
        """Modulation in every block and, where the future video is among the streams, of the output at the end."""
        vectors = [block.vectors(conditions) for block in self.blocks]
        if FUTURE_VIDEO in conditions:
            vectors.append({FUTURE_VIDEO: self.final_modulation(conditions[FUTURE_VIDEO])})
        return vectors

    def remember(self, context: Tokens, pooled_BTD: Tensor | None) -> list[Memory]:
        """The context through all blocks on its own, at time 1: the keys and values that it leaves in each (ours)."""
        time_11 = torch.ones(1, 1, device=context[PAST_VIDEO].device)
        pooled_B1D = None if pooled_BTD is None else pooled_BTD.mean(1, keepdim=True)
        conditions = dict.fromkeys(context, self._time_condition(time_11, pooled_B1D))
        memories, angles = [], self._angles()
        for block, vectors in zip(self.blocks, self.vectors(conditions)):
            context, memory = block(context, vectors, angles)
            memories.append(memory)
        return memories

    def advance(
        self, x_BTCHW: Tensor, vectors: list[Vectors],
        *, place_BLD: Tensor | None = None, context: Tokens | None = None, memories: list[Memory] | None = None,
    ) -> Tensor:
        """The future video through all blocks, together with the context or reading the memories of it: the output."""
        future_BLD = self.future_patches(self._patches(x_BTCHW))
        if place_BLD is not None:
            future_BLD = future_BLD + place_BLD
        tokens, angles = {**(context or {}), FUTURE_VIDEO: future_BLD}, self._angles()
        for layer, block in enumerate(self.blocks):
            tokens, _ = block(tokens, vectors[layer], angles, memories[layer] if memories else None)
        y_BLD = self.final(normalise(tokens[FUTURE_VIDEO], *vectors[-1][FUTURE_VIDEO]))
        return self._latents(y_BLD).to(x_BTCHW.dtype)

    def _time_condition(self, times_BT: Tensor, pooled_BTD: Tensor | None) -> Tensor:
        condition_BTD = self.time(time_features(times_BT, self.config.width).to(self.final.weight.dtype))
        if self.state_condition is not None:
            condition_BTD = condition_BTD + self.config.state_gate * self.state_condition(pooled_BTD)
        return condition_BTD

    def _angles(self) -> list[Tensor]:
        """Rotary angles (L, P) of the four streams, each kind counted through from past to future."""
        width = self.config.width // self.config.num_heads
        video, actions = rope_angles(self.video_positions, width), rope_angles(self.action_positions, width)
        return [*video.tensor_split([self.past_tokens]), *actions.tensor_split([self.past_frames])]

    def _patches(self, x_BTCHW: Tensor) -> Tensor:
        """Squares of latent cells as tokens (B, L, C * p * p), in the type of the weights."""
        p = self.config.patch
        x_BTChpwp = x_BTCHW.to(self.final.weight.dtype).unflatten(-1, (-1, p)).unflatten(-3, (-1, p))
        return x_BTChpwp.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(1, 3)

    def _latents(self, y_BLP: Tensor) -> Tensor:
        """The inverse, for the future grids: tokens (B, L, C * p * p) as latents."""
        c, p = self.config, self.config.patch
        y_BThwCpp = y_BLP.unflatten(-1, (c.channels, p, p)).unflatten(1, (c.future_grids, c.grid[0] // p, c.grid[1] // p))
        return y_BThwCpp.permute(0, 1, 4, 2, 5, 3, 6).flatten(5).flatten(3, 4)
