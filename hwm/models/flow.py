"""Flow-HWM: carries noise to the latents of the future along a learned velocity, given past frames and actions.

Four token streams (past and future video, past and future actions) pass through blocks of joint or split attention
under modulation by the flow's time (`hwm.nn.flow_network`).  Source: HWM paper sections 2.3 and 2.4; sizes and what the
paper leaves open: SYSTEMS.md section 3 and reference D.2.  Ours are `context_sees="context"`, `output="data"`,
`place_context`, `state_modulation`, `time_per_grid` and `shortcut`, each an option of the same network.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hwm.clock import COSMOS, Clock
from hwm.contracts import Batch
from hwm.model_config import FlowConfig
from hwm.models.flow_blocks import Vectors
from hwm.models.flow_network import FlowNetwork
from hwm.models.latent_flow import LatentFlow, beside, squared_error
from hwm.nn import flow_matching as flow
from hwm.nn.dropout import dropout_from, without_dropout
from hwm.nn.parameters import decay_groups

PLAIN = flow.SHORTCUT_LEVELS
"""Level of the plain flow, which knows no step size."""


class FlowHWM(LatentFlow):
    """The world model over continuous latents of 17 frames.

    config: every size and option.  clock: which frames belong to the past and which to the future grids.
    A shortcut model takes steps of the size nearest to 1 / config.steps that it knows.  These have guidance built in by
    training; only its plain flow, from 128 steps on, is guided in prediction.
    Raises ValueError where model.num_states is not the number of frames of the grids.
    """

    config: FlowConfig
    parameter_groups = decay_groups

    def __init__(self, config: FlowConfig, *, clock: Clock = COSMOS) -> None:
        super().__init__(config)
        frames = clock.num_frames(config.context_grids + config.future_grids)
        if config.num_states != frames:
            grids = f"{config.context_grids} context and {config.future_grids} future grids"
            raise ValueError(f"model.num_states must be {frames}, the frames of {grids}, got {config.num_states}")
        self.network = FlowNetwork(config, clock=clock)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks."""
        return self.network.blocks

    def state_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Those of the action encoder."""
        return list(self.network.actions.named_parameters("network.actions"))

    def _first_output(self) -> float:
        width, values = self.config.width, self.config.channels * self.config.patch**2
        return 2 * width / (width + values)  # of Xavier's initial weights on normalised activations

    def loss(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Flow-matching loss on the future latents ("flow_mse"); all randomness from `generator`.

        The error is that of the velocity or, where the network gives the data, of the data.
        Clips lose context and actions together with probability config.condition_dropout: both become zero, their mean.
        With config.shortcut, that share of the batch learns to take two steps in one ("shortcut_mse", Frans et al.
        2024), and the loss weighs both terms by their shares.  A guided model forms the targets from its smallest steps
        with guidance, as that paper does, so that all larger steps have it built in.
        Raises ValueError for clips of another shape, or shortcuts in batches of one clip.
        """
        past_BTCHW, data_BTCHW, states_BFA = self._clips(batch)
        B, share, sigma_min = len(data_BTCHW), self.config.shortcut, self.config.sigma_min
        if share and B < 2:
            raise ValueError("model.shortcut needs batches of at least 2 clips: some for the flow, some for shortcuts")
        num_short = min(max(round(share * B), 1), B - 1) if share else 0

        def drawn(sample: Callable[..., Tensor], *shape: int) -> Tensor:
            return sample(shape, generator=generator, device=generator.device).to(data_BTCHW)

        kept_B = (drawn(torch.rand, B) >= self.config.condition_dropout).to(data_BTCHW)
        past_BTCHW, states_BFA = past_BTCHW * kept_B.view(-1, 1, 1, 1, 1), states_BFA * kept_B.view(-1, 1, 1)
        noise_BTCHW = drawn(torch.randn, *data_BTCHW.shape)
        num_times = self.future_grids if self.config.time_per_grid else 1
        kind, mean = self.config.time_sampling, self.config.time_mean
        times_BT = flow.sample_times((B, num_times), kind, generator=generator, mean=mean).to(data_BTCHW)
        levels_B = torch.full((B,), PLAIN, device=data_BTCHW.device)
        if num_short:
            levels_n, times_nT = flow.sample_shortcuts((num_short, num_times), generator=generator)
            levels_B[:num_short], times_BT[:num_short] = levels_n.to(levels_B), times_nT.to(times_BT)
        x_BTCHW = flow.interpolate(noise_BTCHW, data_BTCHW, beside(times_BT), sigma_min=sigma_min)
        target_BTCHW = flow.target_velocity(noise_BTCHW, data_BTCHW, sigma_min=sigma_min)
        if num_short:
            inputs = (y[:num_short] for y in (x_BTCHW, past_BTCHW, states_BFA, times_BT, levels_B))
            target_BTCHW = torch.cat([self._shortcut_target(*inputs), target_BTCHW[num_short:]])
        with dropout_from(generator, device=data_BTCHW.device, active=self.training and self.config.dropout > 0):
            velocity_BTCHW = self._velocity(x_BTCHW, past_BTCHW, states_BFA, times_BT, levels_B)
        error_B = self._flow_error(velocity_BTCHW, target_BTCHW, times_BT)
        flow_mse = error_B[num_short:].mean()
        if not num_short:
            return {"loss": flow_mse, "flow_mse": flow_mse}
        shortcut_mse = error_B[:num_short].mean()
        loss = (1 - share) * flow_mse + share * shortcut_mse
        return {"loss": loss, "flow_mse": flow_mse, "shortcut_mse": shortcut_mse}

    def _velocity(self, x_BTCHW: Tensor, past_BTCHW: Tensor, states_BFA: Tensor, times_BT: Tensor, levels_B: Tensor) -> Tensor:
        output_BTCHW = self.network(x_BTCHW, past_BTCHW, states_BFA, times_BT=times_BT, levels_B=levels_B)
        return self._as_velocity(output_BTCHW, x_BTCHW, times_BT)

    def _as_velocity(self, output_BTCHW: Tensor, x_BTCHW: Tensor, times_BT: Tensor) -> Tensor:
        """The velocity that the network's output means at the point x."""
        if self.config.output == "velocity":
            return output_BTCHW
        return flow.velocity_to(output_BTCHW, x_BTCHW, beside(times_BT), sigma_min=self.config.sigma_min)

    def _flow_error(self, velocity_BTCHW: Tensor, target_BTCHW: Tensor, times_BT: Tensor) -> Tensor:
        """Squared error (B,) of the velocity or, where the network gives the data, of the data.

        The velocity's would see late times alone there, at which it follows from the data by a division by little.
        """
        if self.config.output == "velocity":
            return squared_error(velocity_BTCHW, target_BTCHW)
        left = flow.noise_left(beside(times_BT), sigma_min=self.config.sigma_min)
        return squared_error(velocity_BTCHW * left, target_BTCHW * left)

    @torch.no_grad()
    def _shortcut_target(
        self, x_BTCHW: Tensor, past_BTCHW: Tensor, states_BFA: Tensor, times_BT: Tensor, levels_B: Tensor
    ) -> Tensor:
        """What a step of 2 ** -level has to be: two steps of half the size by the model itself.

        Halves of 1/128 are the plain flow, guided; their unconditional twins run in the same pass.
        """
        half_B, scale = levels_B + 1, self.config.guidance
        guided = (half_B == PLAIN).nonzero().squeeze(1) if scale != 1 else half_B[:0]
        past, states = (torch.cat([y, torch.zeros_like(y[guided])]) for y in (past_BTCHW, states_BFA))

        def with_guided(y: Tensor) -> Tensor:
            return torch.cat([y, y[guided]])

        def velocity(x: Tensor, time: Tensor) -> Tensor:
            times = with_guided(time[:, :, 0, 0, 0])
            v = self._velocity(with_guided(x), past, states, times, with_guided(half_B))
            v, unconditional = v.tensor_split([len(x)])
            return v.index_copy(0, guided, flow.guide(v[guided], unconditional, scale))

        size_B = 0.5 ** half_B.to(x_BTCHW.dtype)
        with without_dropout(self):
            return flow.shortcut_target(velocity, x_BTCHW, beside(times_BT), beside(size_B[:, None]))

    def _error_at(self, time: Tensor, noise_BTCHW: Tensor, data_BTCHW: Tensor, past_BTCHW: Tensor, states: Tensor) -> Tensor:
        sigma_min, times_BT = self.config.sigma_min, time.expand(len(data_BTCHW), 1)
        levels_B = torch.full((len(data_BTCHW),), PLAIN, device=data_BTCHW.device)
        x_BTCHW = flow.interpolate(noise_BTCHW, data_BTCHW, time, sigma_min=sigma_min)
        v_BTCHW = self._velocity(x_BTCHW, past_BTCHW, states, times_BT, levels_B)
        target_BTCHW = flow.target_velocity(noise_BTCHW, data_BTCHW, sigma_min=sigma_min)
        return self._flow_error(v_BTCHW, target_BTCHW, times_BT)

    def _mean(self, past_BTCHW: Tensor, states: Tensor, *, guidance: float) -> Tensor:
        """One step of the plain flow from the centre: E[data] - (1 - sigma_min) noise is the velocity at time 0."""
        start = past_BTCHW.new_zeros(len(past_BTCHW), 1, self.future_grids, *past_BTCHW.shape[2:])
        return self._solve(past_BTCHW, states, start, num_steps=1, guidance=guidance, plain=True)[:, 0]

    def _sample(self, past_BTCHW: Tensor, states: Tensor, noise_BKTCHW: Tensor, watch: flow.Watch | None = None) -> Tensor:
        steps, guidance = self.config.steps, self.config.guidance
        return self._solve(past_BTCHW, states, noise_BKTCHW, num_steps=steps, guidance=guidance, watch=watch)

    def _solve(
        self, past_BTCHW: Tensor, states_BFA: Tensor, noise_BKTCHW: Tensor,
        *, num_steps: int, guidance: float, plain: bool = False, watch: flow.Watch | None = None,
    ) -> Tensor:
        """Solve the flow from `noise` for K samples of each clip; everything normalised.  plain: without shortcuts.

        What does not change from step to step is made once: the tokens of the context and, where the context sees only
        itself, its keys and values; the modulation of all steps, where no actions enter it.  Conditional and
        unconditional velocity are one pass; the context without condition is one more clip for all.
        """
        network, (B, K) = self.network, noise_BKTCHW.shape[:2]
        level = flow.shortcut_level(num_steps) if self.config.shortcut and not plain else PLAIN
        guided = guidance != 1 and level == PLAIN
        if guided:
            past_BTCHW, states_BFA = (torch.cat([y, torch.zeros_like(y[:1])]) for y in (past_BTCHW, states_BFA))

        def rows(y: Tensor) -> Tensor:
            """Of every clip a row for each sample, then as many without condition."""
            samples = y[:B].repeat_interleave(K, 0)
            return torch.cat([samples, y[B:].expand(B * K, *y.shape[1:])]) if guided else samples

        tokens = network.embed(past_BTCHW, states_BFA)
        pooled_BTD, place_BLD = network.pool_actions(tokens), network.place(past_BTCHW)
        if place_BLD is not None:
            place_BLD = rows(place_BLD)
        context = memories = None
        if self.config.context_sees == "all":
            context = {stream: rows(x_BLD) for stream, x_BLD in tokens.items()}
        else:
            memories = [(rows(keys), rows(values)) for keys, values in network.remember(tokens, pooled_BTD)]
        times_n1 = torch.arange(num_steps + 1, device=noise_BKTCHW.device)[:, None] / num_steps
        level_1 = torch.full((1,), level, device=noise_BKTCHW.device)
        table = network.vectors(network.conditions(times_n1, level_1, None)) if pooled_BTD is None else None

        def vectors_at(k: int) -> list[Vectors]:
            if table is not None:
                return _each(table, lambda v: v[k : k + 1])
            return _each(network.vectors(network.conditions(times_n1[k : k + 1], level_1, pooled_BTD)), rows)

        def velocity(x_RTCHW: Tensor, k: int, _: float) -> Tensor:
            x = torch.cat([x_RTCHW, x_RTCHW]) if guided else x_RTCHW
            output = network.advance(x, vectors_at(k), place_BLD=place_BLD, context=context, memories=memories)
            v = self._as_velocity(output, x, times_n1[k : k + 1])
            if not guided:
                return v
            conditional, unconditional = v.chunk(2)
            return flow.guide(conditional, unconditional, guidance)

        solve = flow.SOLVERS["euler" if plain else self.config.solver]
        data_RTCHW = solve(flow.watched(velocity, watch), noise_BKTCHW.flatten(0, 1), flow.Steps(num_steps))
        return data_RTCHW.unflatten(0, (B, K))


def _each(vectors: list[Vectors], change: Callable[[Tensor], Tensor]) -> list[Vectors]:
    return [{stream: tuple(map(change, parts)) for stream, parts in layer.items()} for layer in vectors]
