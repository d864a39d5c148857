"""Robot states as one vector per token grid."""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwm.clock import Clock
from hwm.nn.units import unchanged


def state_pooling(
    clock: Clock, num_grids: int, *, num_states: int, offset: int = 0, pooling: Literal["frames", "adaptive"] = "frames"
) -> np.ndarray:
    """Weights (G, F) float32 by which F state rows are averaged into one vector per grid; every row sums to 1.

    Row r is the state of frame r - offset.  "frames": a grid takes the rows of the frames that it covers; rows past
    the last grid (look-ahead) belong to none.  "adaptive": the rows are shared out evenly, all of them used, as
    adaptive average pooling does.  A grid without any row gets weights of zero.
    The documents leave the pooling open; "frames" mirrors Humanoid World Models (reference F, row 4).
    """
    frame_F = np.arange(num_states) - offset
    if pooling == "frames":
        spans = [clock.span(grid) for grid in range(num_grids)]
    else:
        num_frames = num_states - offset
        spans = [(g * num_frames // num_grids, -(-(g + 1) * num_frames // num_grids)) for g in range(num_grids)]
    inside_GF = np.array([(frame_F >= first) & (frame_F < end) for first, end in spans])
    return (inside_GF / np.maximum(inside_GF.sum(1, keepdims=True), 1)).astype(np.float32)


class StateRows(nn.Module):
    """Rows of robot states, normalised as (state - shift) * scale, and the weights (G, F) by which they make a vector a grid."""

    shift_scale: Tensor
    pooling_GF: Tensor

    def __init__(self, pooling_GF: np.ndarray, *, state_dim: int) -> None:
        super().__init__()
        self.num_states, self.state_dim = pooling_GF.shape[1], state_dim
        self.register_buffer("shift_scale", unchanged(state_dim))
        self.register_buffer("pooling_GF", torch.from_numpy(pooling_GF), persistent=False)

    def normalised(self, states_BFA: Tensor) -> Tensor:
        """The first `num_states` of the raw rows, normalised, (B, F, A); rows past them are not read.

        Raises ValueError for fewer rows or another state width.
        """
        if states_BFA.shape[1] < self.num_states or states_BFA.shape[2] != self.state_dim:
            raise ValueError(
                f"the model reads {self.num_states} state rows of width {self.state_dim} a clip, got "
                f"{tuple(states_BFA.shape[1:])}; repeat the last row, or train with a smaller model.num_states"
            )
        shift_A, scale_A = self.shift_scale.unbind()
        return (states_BFA[:, : self.num_states].to(shift_A.dtype) - shift_A) * scale_A

    def pool(self, x_BFD: Tensor) -> Tensor:
        """Rows to grids, (B, G, D)."""
        return self.pooling_GF.to(x_BFD.dtype) @ x_BFD


class StateEncoder(StateRows):
    """MLP, convolution over the rows (kernel 3), learned positions, then the mean over the rows of each grid.

    pooling_GF: weights of `state_pooling`.  Of rows past the last grid the first still reaches it, through the convolution.
    causal: the convolution reaches over a row and the two before it, not over both neighbours (ours).
    ordered: the position of a row enters before the MLP's last layers, not after (ours).  Else the order of a grid's rows
    is all but lost: what follows the MLP is linear, and the mean of the rows.
    Source: Revontuli report section 3.1 "State Conditioning"; hidden width 4 D and pooling: reference F.2 and F row 4.
    """

    def __init__(
        self, pooling_GF: np.ndarray, *, state_dim: int, hidden: int, width: int, ordered: bool = False, causal: bool = False
    ) -> None:
        super().__init__(pooling_GF, state_dim=state_dim)
        self.ordered, self.causal = ordered, causal
        self.mlp = nn.Sequential(nn.Linear(state_dim, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.conv = nn.Conv1d(width, width, kernel_size=3, padding=1)
        self.positions = nn.Parameter(torch.empty(self.num_states, hidden if ordered else width))

    def forward(self, states_BFA: Tensor) -> Tensor:
        """Raw states -> (B, G, D).  Raises ValueError as `normalised` does."""
        first, *rest = self.mlp
        x_BFD = first(self.normalised(states_BFA))
        x_BFD = x_BFD + self.positions if self.ordered else x_BFD
        for layer in rest:
            x_BFD = layer(x_BFD)
        x_BDF = x_BFD.transpose(1, 2)
        x_BFD = (self.conv(F.pad(x_BDF, (1, 0)))[..., :-1] if self.causal else self.conv(x_BDF)).transpose(1, 2)
        return self.pool(x_BFD if self.ordered else x_BFD + self.positions)


CHANGE_SCALE = 7.0
"""Brings changes to the size of states: over 8 frames a state changes by about a seventh of its spread."""


def with_changes(states_BFA: Tensor, *, row: int) -> Tensor:
    """Normalised states beside their scaled change from state `row`, (B, F, 2 A) (ours)."""
    return torch.cat([states_BFA, CHANGE_SCALE * (states_BFA - states_BFA[:, row : row + 1])], -1)


class ActionEncoder(StateRows):
    """Every state row through a linear layer, an MLP and LayerNorm, plus its position; then the mean of each grid.

    positions: learned, of the frames.  ordered: they enter behind the first layer, where the MLP can tell a row by its
    place (ours), else behind the norm (the release), where the mean over a grid's rows loses their order.
    changes_from: row from which the change of every state is given beside it; None gives the states alone.
    Source: reference D.1, action encoder of Masked-HWM.
    """

    def __init__(
        self, pooling_GF: np.ndarray,
        *, state_dim: int, width: int, mlp_ratio: int, changes_from: int | None = None, ordered: bool = False,
    ) -> None:
        super().__init__(pooling_GF, state_dim=state_dim)
        self.changes_from, self.ordered = changes_from, ordered
        hidden = mlp_ratio * width
        self.mlp = nn.Sequential(
            *(nn.Linear(state_dim if changes_from is None else 2 * state_dim, width), nn.GELU()),
            *(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)),
        )
        self.norm = nn.LayerNorm(width)
        self.positions = nn.Parameter(torch.zeros(self.num_states, width))

    def forward(self, states_BFA: Tensor) -> Tensor:
        """Raw states -> one action token a grid, (B, G, D).  Raises ValueError as `normalised` does."""
        states_BFA = self.normalised(states_BFA)
        if self.changes_from is not None:
            states_BFA = with_changes(states_BFA, row=self.changes_from)
        first, *rest = self.mlp
        x_BFD = first(states_BFA)
        x_BFD = x_BFD + self.positions if self.ordered else x_BFD
        for layer in rest:
            x_BFD = layer(x_BFD)
        x_BFD = self.norm(x_BFD)
        return self.pool(x_BFD if self.ordered else x_BFD + self.positions)
