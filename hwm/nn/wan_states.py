"""Robot states as one modulation a latent frame: the state conditioning of the sampling track.

Source: Revontuli report section 2.1 "Video-State Conditioning": states at the frames of the clip, sinusoidal features
of angles and velocities, an MLP to 256, a two-layer convolution over time down to the latents' rate, an MLP to the
modulation of AdaLN-Zero.  What it leaves open is settled in reference wan 2.4.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOWEST_FREQUENCY = 0.5
"""Of the sinusoids, in radians a standard deviation; each next one is twice as high (ours, none is printed)."""
CHANGE_SCALE = 2.0
"""Brings changes to the size of states: over the second or two of a clip a state changes by half its spread (ours)."""


class FrameStateEncoder(nn.Module):
    """States of the frames of a clip to one vector (B, T, width_out) a latent frame; zero before any training.

    Latent 0 is frame 0 and latent k frames 4k-3 to 4k, so the first state is repeated and two convolutions of kernel
    and stride 2 see just the frames of one latent.

    rows: states given per frame (stacked states count as one row of several).  plain: dimensions without sinusoids.
    changes_from: frame from which the change of every state is given beside it; None gives the states alone.
    Always float32, whatever the transformer is.
    """

    waving: Tensor
    octaves: Tensor

    def __init__(
        self,
        *,
        state_dim: int,
        rows: int,
        plain: tuple[int, ...],
        frequencies: int,
        hidden: int,
        width_out: int,
        changes_from: int | None = None,
    ) -> None:
        super().__init__()
        if any(not 0 <= i < state_dim for i in plain):
            raise ValueError(f"model.state_plain {plain} names dimensions outside 0..{state_dim - 1}")
        self.rows, self.changes_from = rows, changes_from
        waving = [i for i in range(state_dim) if i not in plain]
        self.register_buffer("waving", torch.tensor(waving), persistent=False)
        octaves = LOWEST_FREQUENCY * 2.0 ** torch.arange(frequencies)
        self.register_buffer("octaves", octaves, persistent=False)
        features = rows * (state_dim + 2 * frequencies * len(waving)) + (state_dim if changes_from is not None else 0)
        self.mlp = nn.Sequential(nn.Linear(features, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.compress = nn.ModuleList(nn.Conv1d(hidden, hidden, 2, stride=2) for _ in range(2))
        self.null = nn.Parameter(0.02 * torch.randn(hidden))
        self.out = nn.Linear(hidden, width_out)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, states_BFRA: Tensor, drop_B: Tensor | None = None) -> Tensor:
        """Normalised states of F = 1 + 4n frames, R rows each -> (B, 1 + n, width_out).

        drop_B: True where the clip's states are replaced by the learned null state.
        """
        device_type = states_BFRA.device.type
        with torch.autocast(device_type, enabled=False):
            h_BFD = self.mlp(self._features(states_BFRA.float()))
            h_BDF = torch.cat([h_BFD[:, :1].expand(-1, 3, -1), h_BFD], 1).transpose(1, 2)
            for layer in self.compress:
                h_BDF = layer(F.silu(h_BDF))
            h_BTD = h_BDF.transpose(1, 2)
            # Always evaluated, so that every parameter takes part in every step.
            drop_B = states_BFRA.new_zeros(len(states_BFRA), dtype=torch.bool) if drop_B is None else drop_B
            h_BTD = torch.where(drop_B[:, None, None], self.null, h_BTD)
            return self.out(F.silu(h_BTD))

    def _features(self, states_BFRA: Tensor) -> Tensor:
        angle = states_BFRA[..., self.waving, None] * self.octaves
        parts = [states_BFRA.flatten(2), angle.sin().flatten(2), angle.cos().flatten(2)]
        if self.changes_from is not None:
            now_BFA = states_BFRA[:, :, -1]
            parts.append(CHANGE_SCALE * (now_BFA - now_BFA[:, self.changes_from : self.changes_from + 1]))
        return torch.cat(parts, 2)
