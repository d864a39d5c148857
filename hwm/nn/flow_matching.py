"""Flow matching as pure functions: the path from noise to data, its velocity, training times, solvers, guidance.

Time runs from 0 (noise) to 1 (data).  Sources: HWM paper section 2.3 (equations 1 to 3) after Lipman et al. 2023; guidance
after Ho and Salimans 2022; steps of any size after Frans et al. 2024, "One step diffusion via shortcut models".
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

SHORTCUT_LEVELS = 7
"""Sizes of shortcut steps: 2 ** -level for levels 0 to 6.  Level 7, steps of 1/128 and below, is the plain flow."""


def interpolate(noise: Tensor, data: Tensor, time: Tensor, *, sigma_min: float) -> Tensor:
    """Point of the path at `time` in [0, 1]: t data + (1 - (1 - sigma_min) t) noise (HWM paper equation 1)."""
    return time * data + (1 - (1 - sigma_min) * time) * noise


def target_velocity(noise: Tensor, data: Tensor, *, sigma_min: float) -> Tensor:
    """Derivative of the path by time, the same at all times: data - (1 - sigma_min) noise (HWM paper equation 2)."""
    return data - (1 - sigma_min) * noise


LAST_SPAN = 0.05
"""Smallest share of noise that a velocity is divided by."""


def velocity_to(data: Tensor, x: Tensor, time: Tensor, *, sigma_min: float) -> Tensor:
    """Velocity at the point x of the path that ends in `data`: what a network that gives the data implies (ours).

    On the path it is the target velocity.  Near time 1, where the noise left cannot be told from x, it is bounded.
    """
    return (data - (1 - sigma_min) * x) / noise_left(time, sigma_min=sigma_min)


def noise_left(time: Tensor, *, sigma_min: float) -> Tensor:
    """Share of noise in the path at `time`, bounded from below: an error of the data is this times one of the velocity."""
    return (1 - (1 - sigma_min) * time).clamp(min=LAST_SPAN)


def noise(shape: tuple[int, ...], *, generator: torch.Generator | Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise (B, K, ...) of K samples of B clips, float32, from one generator or from one for each, B * K."""
    if isinstance(generator, torch.Generator):
        return torch.randn(shape, generator=generator, device=generator.device)
    if len(generator) != shape[0] * shape[1]:
        raise ValueError(f"{shape[0]} clips of {shape[1]} samples need as many generators, got {len(generator)}")
    return torch.stack([torch.randn(shape[2:], generator=g, device=g.device) for g in generator]).view(shape)


def sample_times(
    shape: tuple[int, ...], distribution: Literal["uniform", "logit_normal"], *, generator: torch.Generator, mean: float = 0.0
) -> Tensor:
    """Training times in (0, 1), float32, on the generator's device.

    logit_normal: sigmoid of N(mean, 1); mean 0 favours the middle (the release; reference D.2), below it noisy times.
    """
    if distribution == "uniform":
        return torch.rand(shape, generator=generator, device=generator.device)
    return (mean + torch.randn(shape, generator=generator, device=generator.device)).sigmoid()


def shift_noise(sigma: Tensor, shift: float) -> Tensor:
    """Noise levels in [0, 1] moved towards noise: shift sigma / (1 + (shift - 1) sigma) (Wan; Esser et al. 2024)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def stratified_times(num: int) -> Tensor:
    """The middles of `num` equal parts of [0, 1], float32."""
    return (torch.arange(num) + 0.5) / num


@dataclass(frozen=True)
class Steps:
    """The way from noise to data in `num` steps.

    shift: None for equal steps of time; else equal steps of the noise level moved by `shift_noise`, as Wan takes them.
    """

    num: int
    shift: float | None = None

    @cached_property
    def levels(self) -> Tensor:
        """Noise left before every step and after the last one, from 1 to 0, float32 (num + 1,)."""
        even = torch.from_numpy(np.linspace(1, 0, self.num + 1).astype(np.float32))
        return even if self.shift is None else shift_noise(even, self.shift)

    def advance(self, x: Tensor, velocity: Tensor, k: int) -> Tensor:
        """x one step further, step k, along a velocity."""
        if self.shift is None:
            return x + velocity / self.num
        return x + (self.levels[k] - self.levels[k + 1]).item() * velocity


Velocity = Callable[[Tensor, int, float], Tensor]
"""(x, k, level) to dx/dt at x before step k, where `level` of the noise is left."""


class Watch:
    """How far the data at which a velocity points move from one evaluation to the next; 0 where a straight line is followed.

    moved: mean over the evaluations of the squared change, of the shape of x; None before the second one.  It is the flow
    instability of MMBench2 (Hansen and Wang 2026), kept place by place.
    """

    def __init__(self) -> None:
        self.moved: Tensor | None = None
        self._last: Tensor | None = None
        self._count = 0

    def look(self, x: Tensor, level: float, velocity: Tensor) -> None:
        """Take in the velocity at x, where `level` of the noise is left."""
        goal = x + level * velocity
        if self._last is not None:
            change = (goal - self._last).square()
            self.moved = change if self.moved is None else self.moved + (change - self.moved) / (self._count + 1)
            self._count += 1
        self._last = goal


def watched(velocity: Velocity, watch: Watch | None) -> Velocity:
    """The same velocity, at which a watch looks."""
    if watch is None:
        return velocity

    def looked_at(x: Tensor, k: int, level: float) -> Tensor:
        found = velocity(x, k, level)
        watch.look(x, level, found)
        return found

    return looked_at


def euler(velocity: Velocity, x: Tensor, steps: Steps) -> Tensor:
    """One evaluation a step, error of first order (HWM paper)."""
    for k, level in enumerate(steps.levels.tolist()[:-1]):
        x = steps.advance(x, velocity(x, k, level), k)
    return x


def heun(velocity: Velocity, x: Tensor, steps: Steps) -> Tensor:
    """The mean of the velocities at both ends of an Euler step: two evaluations a step, error of second order (ours)."""
    levels = steps.levels.tolist()
    for k in range(steps.num):
        here = velocity(x, k, levels[k])
        there = velocity(steps.advance(x, here, k), k + 1, levels[k + 1])
        x = steps.advance(x, (here + there) / 2, k)
    return x


def unipc(velocity: Velocity, x: Tensor, steps: Steps) -> Tensor:
    """UniPC of diffusers (extra `wan`): one evaluation a step, and the last ones remembered; x is float32 (Wan's own).

    It starts a millionth below level 1, where its logarithms are finite.
    """
    try:
        from diffusers import UniPCMultistepScheduler
    except ImportError as error:
        raise ValueError(f"unipc needs diffusers ({error}): pip install 'humanoid-world-models[wan]'") from None

    # Its state belongs to one solution, so one is made for each.
    kind = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": steps.shift or 1.0}
    scheduler = UniPCMultistepScheduler(num_train_timesteps=1000, **kind)
    scheduler.set_timesteps(sigmas=np.linspace(1, 0, steps.num + 1)[:-1], device=x.device)
    for k, (step, level) in enumerate(zip(scheduler.timesteps, scheduler.sigmas.tolist())):
        x = scheduler.step(-velocity(x, k, level).float(), step, x, return_dict=False)[0]
    return x


SOLVERS: dict[str, Callable[[Velocity, Tensor, Steps], Tensor]] = {"euler": euler, "heun": heun, "unipc": unipc}
"""By the name that model.solver gives: each carries x from noise to data along a velocity."""


def guide(conditional: Tensor, unconditional: Tensor, scale: float | Tensor) -> Tensor:
    """Classifier-free guidance: from the unconditional velocity `scale` times the way to the conditional one.

    1 is the conditional velocity, 0 the unconditional one.
    """
    return unconditional + scale * (conditional - unconditional)


def shortcut_level(num_steps: int) -> int:
    """Level of the step size nearest to 1 / num_steps, in powers of two; SHORTCUT_LEVELS from 128 steps on."""
    return min(round(math.log2(num_steps)), SHORTCUT_LEVELS)


def sample_shortcuts(shape: tuple[int, ...], *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Levels (shape[0],) int64 of double steps to learn, and their starting times (shape), float32.

    Level l is a step of 2 ** -l, uniform over 0 to 6; it starts at a multiple of itself.
    """
    levels = torch.randint(SHORTCUT_LEVELS, shape[:1], generator=generator, device=generator.device)
    size = (0.5 ** levels.float()).view(-1, *[1] * (len(shape) - 1))
    chance = torch.rand(shape, generator=generator, device=generator.device)
    return levels, (chance / size).floor() * size


def shortcut_target(velocity: Callable[[Tensor, Tensor], Tensor], x: Tensor, time: Tensor, half: Tensor) -> Tensor:
    """Mean velocity of two steps of size `half` from `time`: what one step of twice the size has to be.

    velocity(x, time): mean velocity of a step of size `half`.  time and half broadcast against x.
    """
    first = velocity(x, time)
    return (first + velocity(x + half * first, time + half)) / 2


def time_features(time: Tensor, width: int) -> Tensor:
    """Cosines and sines of 1000 time at `width` / 2 geometric frequencies from 1 to 1e-4, float32 (..., width).

    As for the steps of DDPM; the factor and the frequencies are those of the release (reference D.2).
    """
    half = width // 2
    frequency = torch.exp(-math.log(10_000) / half * torch.arange(half, device=time.device, dtype=torch.float32))
    angle = 1000 * time.float()[..., None] * frequency
    return torch.cat([angle.cos(), angle.sin()], -1)
