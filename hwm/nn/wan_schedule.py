"""Solving Wan's flow with a scheduler of diffusers on noise levels that we give it.

Left to itself diffusers' Euler scheduler shifts its levels twice at the low end (reference wan 9.1), so the levels of
Wan's own code, evenly spaced before the shift, are passed explicitly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

TIMESTEPS = 1000
"""Wan's timestep is this times the noise level."""


def scheduler(solver: Literal["euler", "unipc"], *, num_steps: int, shift: float, device: torch.device) -> Any:
    """A scheduler of `num_steps` steps; its state belongs to one solution, so make one for each."""
    from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

    levels = np.linspace(1, 0, num_steps + 1)[:-1]
    if solver == "euler":
        made = FlowMatchEulerDiscreteScheduler(num_train_timesteps=TIMESTEPS, shift=shift)
        made.set_timesteps(sigmas=levels.tolist(), device=device)
        return made
    made = UniPCMultistepScheduler(
        num_train_timesteps=TIMESTEPS, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )
    made.set_timesteps(sigmas=levels, device=device)
    return made


def solve(
    velocity: Callable[[Tensor, float], Tensor],
    x: Tensor,
    *,
    num_steps: int,
    solver: Literal["euler", "unipc"],
    shift: float,
) -> Tensor:
    """Carry noise x to data; velocity(x, sigma) is noise - data at noise level sigma.  x and velocity are float32."""
    steps = scheduler(solver, num_steps=num_steps, shift=shift, device=x.device)
    for step, sigma in zip(steps.timesteps, steps.sigmas.tolist()):
        x = steps.step(velocity(x, sigma).float(), step, x, return_dict=False)[0]
    return x
