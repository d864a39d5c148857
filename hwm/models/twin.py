"""Twin: the robot's own dynamics, from states and commands to the next states, with a spread.

World models take the states to come; whoever acts gives commands.  A twin stands between them: an ensemble of small networks,
trained through rollouts of their own, as state-space world models are (RWM, arXiv 2501.10100; SuperMimic, arXiv 2610.28480; the
network and its inputs are ours).  A command is a row like a state: what is asked for from one frame to the next.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwm.contracts import Batch, Kind
from hwm.model_config import TwinConfig
from hwm.models.family import WorldModule
from hwm.nn.parameters import decay_groups
from hwm.nn.units import unchanged

CHANGE = 0.1
"""Size, in standard deviations of a state, of the changes of a frame: they enter the networks divided by it."""


class Members(nn.Module):
    """A linear layer of every member of an ensemble: (M, B, inputs) to (M, B, outputs).  zero: the weights start as nothing."""

    def __init__(self, members: int, inputs: int, outputs: int, *, zero: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(members, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(members, outputs))
        if not zero:
            nn.init.normal_(self.weight, std=inputs**-0.5)

    def forward(self, x_MBD: Tensor) -> Tensor:
        return torch.baddbmm(self.bias[:, None], x_MBD, self.weight)


class Twin(WorldModule):
    """The model of the robot's dynamics.  M counts the members of its ensemble.

    A step adds to the last state a linear function of what is seen and the output of a perceptron.  Before training the
    robot stays where it is.
    """

    predicts: Kind = "motion"
    validation_key = "mse"
    shift_scale: Tensor
    parameter_groups = decay_groups

    def __init__(self, config: TwinConfig) -> None:
        super().__init__(config)
        M, D, A, inputs = config.members, config.width, config.state_dim, 2 * config.context_grids * config.state_dim
        self.register_buffer("shift_scale", unchanged(A))
        self.blocks = nn.ModuleList(Members(M, inputs if i == 0 else D, D) for i in range(config.num_layers))
        self.straight, self.out = Members(M, inputs, A, zero=True), Members(M, D, A, zero=True)

    def state_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """All that reads states at once."""
        return [(name, p) for name, p in self.named_parameters() if name.startswith(("blocks.0.", "straight."))]

    def normalised(self, rows: Tensor) -> Tensor:
        """Raw rows (..., A) in standard deviations of the states."""
        shift_A, scale_A = self.shift_scale.unbind()
        return (rows.to(shift_A.dtype) - shift_A) * scale_A

    def raw(self, rows: Tensor) -> Tensor:
        """The way back."""
        shift_A, scale_A = self.shift_scale.unbind()
        return rows / scale_A + shift_A

    def forward(self, states_MBFA: Tensor, commands_BFA: Tensor) -> Tensor:
        """The state after the last of `context_grids` frames, (M, B, A), all normalised.

        commands_BFA: of the same frames, the last one of now.
        """
        past_MBFA, now_MB1A = states_MBFA[:, :, :-1], states_MBFA[:, :, -1:]
        changes_MBFA = torch.cat([past_MBFA - now_MB1A, commands_BFA - now_MB1A], 2) / CHANGE
        x_MBD = torch.cat([now_MB1A, changes_MBFA], 2).flatten(2)
        h_MBD = x_MBD
        for block in self.blocks:
            h_MBD = F.silu(block(h_MBD))
        return now_MB1A[:, :, 0] + CHANGE * (self.straight(x_MBD) + self.out(h_MBD))

    def rollout(self, states_BFA: Tensor, commands_BFA: Tensor) -> Tensor:
        """Every member's own future of every command from the last state's on, normalised (M, B, N, A).

        states_BFA: raw, of `context_grids` frames.  commands_BFA: raw, from the first of these frames on.
        """
        motion = Motion(self)
        motion.reset(states_BFA, commands_BFA[:, : states_BFA.shape[1] - 1])
        steps = [motion.advance(command_BA) for command_BA in commands_BFA[:, states_BFA.shape[1] - 1 :].unbind(1)]
        return torch.stack(steps, 2) if steps else motion.states_MBFA[:, :, :0]

    def loss(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error of rollouts over all frames after the context, in standard deviations of the states ("mse").

        Every clip is learned from by half of the members, drawn anew each time, so that they stay apart.
        Raises ValueError for clips of other sizes.
        """
        error_MB = self._errors(*self._clip(batch)).mean((2, 3))
        order_MB = torch.rand(error_MB.shape, generator=generator, device=generator.device).argsort(0).to(error_MB.device)
        error = error_MB[order_MB < (len(error_MB) + 1) // 2].mean()
        return {"loss": error, "mse": error}

    @torch.no_grad()
    def first_loss(self, batch: Batch) -> float | None:
        """The error of a robot that stays where it is: the networks start as that."""
        states_BFA, _ = self._clip(batch)
        return self._moved(states_BFA).square().mean().item()

    @torch.no_grad()
    def validate(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Scores (B,) of rollouts: "mse" of the members' mean, "mse_last" of staying, "mse_command" of being where asked."""
        states_BFA, commands_BFA = self._clip(batch)
        truth_BFA, C = self.normalised(states_BFA[:, self.context_grids :]), self.context_grids
        guesses = {
            "mse": self.rollout(states_BFA[:, :C], commands_BFA[:, :-1]).mean(0),
            "mse_last": self.normalised(states_BFA[:, C - 1 : C]),
            "mse_command": self.normalised(commands_BFA[:, C - 1 : -1]),
        }
        return {name: (guess_BFA - truth_BFA).square().mean((1, 2)) for name, guess_BFA in guesses.items()}

    def _errors(self, states_BFA: Tensor, commands_BFA: Tensor) -> Tensor:
        """Squared error of every member, frame and dimension after the context, (M, B, N, A)."""
        found_MBFA = self.rollout(states_BFA[:, : self.context_grids], commands_BFA[:, :-1])
        return (found_MBFA - self.normalised(states_BFA[:, self.context_grids :])).square()

    def _moved(self, states_BFA: Tensor) -> Tensor:
        rows_BFA = self.normalised(states_BFA)
        return rows_BFA[:, self.context_grids :] - rows_BFA[:, self.context_grids - 1 : self.context_grids]

    def _clip(self, batch: Batch) -> tuple[Tensor, Tensor]:
        states_BFA, commands_BFA, A = batch.states_BFA, batch.commands_BFA, self.config.state_dim
        if commands_BFA is None or commands_BFA.shape != states_BFA.shape or states_BFA.shape[2] != A:
            raise ValueError(f"a twin learns from states and commands of {A} numbers a frame, got {tuple(states_BFA.shape[1:])}")
        if states_BFA.shape[1] <= self.context_grids:
            raise ValueError(f"a twin learns from more than {self.context_grids} frames, its context, got {states_BFA.shape[1]}")
        return states_BFA, commands_BFA


class Motion:
    """A robot's motion as a twin foresees it, step by step: `reset` with states, `step` with commands.

    Any number of robots (B) at once.  Every member goes its own way; what is told is their mean and their standard deviation.
    """

    states_MBFA: Tensor
    commands_BFA: Tensor

    def __init__(self, twin: Twin) -> None:
        self.twin = twin

    def reset(self, states_BFA: Tensor, commands_BFA: Tensor | None = None) -> Tensor:
        """Begin after the last of these states, raw (B, F, A), and return it.

        Of the frames the last `context_grids` count; where there are fewer, the robot had been standing.  commands_BFA: of all
        these frames but the last, whose command comes with the first step; None: the states, as of a robot that stays.
        Raises ValueError for other shapes.
        """
        C, A = self.twin.context_grids, self.twin.config.state_dim
        if states_BFA.ndim != 3 or not states_BFA.shape[1] or states_BFA.shape[2] != A:
            raise ValueError(f"states must be (robots, frames, {A}), a frame or more, got {tuple(states_BFA.shape)}")
        commands_BFA = states_BFA[:, :-1] if commands_BFA is None else commands_BFA
        if commands_BFA.shape != states_BFA[:, :-1].shape:
            shape = f"{tuple(commands_BFA.shape)}, not {tuple(states_BFA[:, :-1].shape)}"
            raise ValueError(f"commands are those of all states but the last, got {shape}")
        lacking = max(0, C - states_BFA.shape[1])
        still_BFA = states_BFA[:, :1].expand(-1, lacking, -1)
        rows_BFA = self.twin.normalised(torch.cat([still_BFA, states_BFA], 1)[:, -C:])
        self.states_MBFA = rows_BFA.expand(self.twin.config.members, -1, -1, -1)
        asked_BFA = torch.cat([still_BFA, commands_BFA], 1)
        self.commands_BFA = self.twin.normalised(asked_BFA[:, asked_BFA.shape[1] - (C - 1) :])
        return states_BFA[:, -1]

    @torch.no_grad()
    def step(self, command_BA: Tensor) -> tuple[Tensor, Tensor]:
        """The next states under a command, raw (B, A), and their spread over the members, in the states' units (B, A).

        Raises ValueError for a command of another shape.
        """
        wanted = (self.states_MBFA.shape[1], self.states_MBFA.shape[3])
        if tuple(command_BA.shape) != wanted:
            raise ValueError(f"a command must be {wanted}, robots and dimensions, got {tuple(command_BA.shape)}")
        next_MBA = self.advance(command_BA)
        return self.twin.raw(next_MBA.mean(0)), next_MBA.std(0, correction=0) / self.twin.shift_scale[1]

    def advance(self, command_BA: Tensor) -> Tensor:
        """The next states of every member, normalised (M, B, A), with gradients."""
        commands_BFA = torch.cat([self.commands_BFA, self.twin.normalised(command_BA)[:, None]], 1)
        next_MBA = self.twin(self.states_MBFA, commands_BFA)
        self.states_MBFA = torch.cat([self.states_MBFA[:, :, 1:], next_MBA[:, :, None]], 2)
        self.commands_BFA = commands_BFA[:, 1:]
        return next_MBA
