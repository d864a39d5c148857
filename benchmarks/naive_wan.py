"""The plain way to condition Wan on states and to sample an ensemble: what benchmarks/wan.py compares with.

diffusers' own class with a hook that spreads the modulation over all tokens, one member after another, states encoded at
every step, guidance as two calls, the context part of what is solved and put back after every step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanTransformer3DModel
from torch import Tensor, nn

from hwm.contracts import Batch
from hwm.models.wan.model import WanWorldModel
from hwm.nn.flow_matching import sample_times, shift_noise


def scheduler(solver: str, *, num_steps: int, shift: float) -> Any:
    """diffusers' scheduler on the levels of Wan's own code, evenly spaced before the shift.

    Left to itself its Euler scheduler shifts them twice at the low end (reference wan 9.1).
    """
    levels = np.linspace(1, 0, num_steps + 1)[:-1]
    if solver == "euler":
        made = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
        made.set_timesteps(sigmas=levels.tolist())
        return made
    made = UniPCMultistepScheduler(
        num_train_timesteps=1000, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )
    made.set_timesteps(sigmas=levels)
    return made


class NaiveWan(nn.Module):
    """A plain twin of a WanWorldModel from scratch without options of ours, with the same weights."""

    def __init__(self, ours: WanWorldModel) -> None:
        super().__init__()
        self.config, self.states, self.rows = ours.config, ours.states, ours._rows
        self.text_1RD = ours.text_1RD
        self.transformer = WanTransformer3DModel.from_config(dict(ours.transformer.config))
        self.transformer.load_state_dict(ours.transformer.state_dict())
        self.transformer.condition_embedder.register_forward_hook(self._add_modulation)
        self.modulation_BTM: Tensor | None = None

    def _add_modulation(self, module: nn.Module, inputs: object, output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        embedding, time_BSM, text, image = output
        assert self.modulation_BTM is not None
        tokens = time_BSM.shape[1] // self.modulation_BTM.shape[1]
        return embedding, time_BSM + self.modulation_BTM.repeat_interleave(tokens, 1), text, image

    def velocity(self, x_BTCHW: Tensor, sigma_B: Tensor, states_BFRA: Tensor, drop_B: Tensor | None) -> Tensor:
        """Of all latents; the context's means nothing."""
        config = self.config
        self.modulation_BTM = self.states(states_BFRA, drop_B)
        T = x_BTCHW.shape[1]
        noisy_T = (torch.arange(T) >= config.context_grids).float()
        tokens = config.grid[0] * config.grid[1] // config.patch**2
        timestep_BS = (1000 * sigma_B[:, None] * noisy_T).repeat_interleave(tokens, 1)
        text = self.text_1RD.expand(len(x_BTCHW), -1, -1)
        return self.transformer(x_BTCHW.transpose(1, 2), timestep_BS, text, return_dict=False)[0].transpose(1, 2)

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """The flow-matching loss on the future, drawn as ours draws."""
        assert batch.latents_BTCHW is not None
        z, past, B = batch.latents_BTCHW, self.config.context_grids, len(batch.latents_BTCHW)
        drop_B = torch.rand(B, generator=generator) < self.config.condition_dropout
        sigma_B = shift_noise(sample_times((B,), self.config.time_sampling, generator=generator), self.config.shift)
        noise = torch.randn(z[:, past:].shape, generator=generator)
        s = sigma_B.view(-1, 1, 1, 1, 1)
        x = torch.cat([z[:, :past], (1 - s) * z[:, past:] + s * noise], 1)
        velocity = self.velocity(x, sigma_B, self.rows(batch.states_BFA), drop_B)
        return F.mse_loss(velocity[:, past:], noise - z[:, past:])

    @torch.no_grad()
    def ensemble(self, batch: Batch, noise_KTCHW: Tensor) -> Tensor:
        """One future of the batch's only clip for each noise: latents (K, T, C, H, W)."""
        assert batch.latents_BTCHW is not None
        past, states = self.config.context_grids, self.rows(batch.states_BFA)
        context, dropped, futures = batch.latents_BTCHW[:, :past], torch.ones(1, dtype=torch.bool), []
        for noise_TCHW in noise_KTCHW:
            steps = scheduler(self.config.solver, num_steps=self.config.steps, shift=self.config.shift)
            x = torch.cat([context, noise_TCHW[None]], 1)
            for step, sigma in zip(steps.timesteps, steps.sigmas):
                velocity = self.velocity(x, sigma[None], states, None)
                if self.config.guidance != 1:
                    null = self.velocity(x, sigma[None], states, dropped)
                    velocity = null + self.config.guidance * (velocity - null)
                x = steps.step(velocity, step, x, return_dict=False)[0]
                x[:, :past] = context
            futures.append(x[0, past:])
        return torch.stack(futures)
