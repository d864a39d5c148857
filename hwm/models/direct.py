"""Direct: a future frame, in one pass, from the last frames seen and the robot's states of then and now.

Nothing is drawn and nothing encoded: patches of two seen frames pass through a transformer under the states, and what
comes out is the last seen frame, moved by a flow, plus a change.  The strong, cheap baseline beside which the score of
every other family should stand (ours; no document describes it).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwm.contracts import Batch, Kind, Prediction, Sampling
from hwm.model_config import DirectConfig
from hwm.models.family import WorldModule
from hwm.nn.attention import SpatialAttention
from hwm.nn.modulation import Modulation
from hwm.nn.parameters import decay_groups

RELATIVE_FLOOR = 1e-3
"""Added to the error of copying (of pixels in [0, 1]) before a frame's error is divided by it: stillness is not all."""
EDGE_FLOOR = 1e-6
"""Added to a squared gradient before its root, whose slope at 0 has no end."""
FLOW_SCALE = 0.25
"""Flow that an output of 1 means, in half sides of the picture."""
TRAVEL_SCALE = 1 / 30
"""Brings the sum of normalised velocities over up to 60 frames to the size of states."""
WAVES = 4
"""Sines and cosines by which a horizon is told, and as many for its logarithm."""
FRAMES_AT_ONCE = 256
"""Predicted frames that go through the network together."""


class Block(nn.Module):
    """Pre-LN attention among the patches of a frame and pre-LN MLP, both modulated by the states."""

    def __init__(self, config: DirectConfig) -> None:
        super().__init__()
        D, hidden = config.width, config.mlp_ratio * config.width
        heads: dict[str, Any] = {"num_heads": config.num_heads, "qk_norm": False, "qkv_bias": True, "dropout": 0.0}
        self.attention_norm, self.attention = nn.LayerNorm(D), SpatialAttention(D, **heads)
        self.mlp_norm, self.mlp = nn.LayerNorm(D), nn.Sequential(nn.Linear(D, hidden), nn.GELU(), nn.Linear(hidden, D))
        self.modulation = Modulation(D, 2, gate=config.state_gate, start=config.state_start)

    def forward(self, x_TBSD: Tensor, states_TBD: Tensor) -> Tensor:
        attention, mlp = self.modulation(states_TBD)
        x_TBSD = x_TBSD + self.attention(attention(self.attention_norm(x_TBSD)))
        return x_TBSD + self.mlp(mlp(self.mlp_norm(x_TBSD)))


class Direct(WorldModule):
    """The world model over frames as they are.

    T counts predicted frames here: each knows its own horizon, and none depends on another.  Of the context the first
    and the last frame are read.  Before training the prediction is the last frame, copied.
    """

    predicts: Kind = "video"
    validation_key = "relative_mse"
    shift_scale: Tensor
    parameter_groups = decay_groups

    def __init__(self, config: DirectConfig) -> None:
        super().__init__(config)
        self.reach = config.reach
        D, P, places = config.width, config.patch, config.places
        features = 4 * config.state_dim + len(config.velocity_rows) + 2 + 4 * WAVES
        hidden, C = config.map_hidden, config.map_channels
        self.register_buffer("shift_scale", torch.stack([torch.zeros(config.state_dim), torch.ones(config.state_dim)]))
        self.patches = nn.Linear(2 * 3 * P * P, D)
        self.positions = nn.Parameter(torch.empty(places, D))
        self.states = nn.Sequential(nn.Linear(features, 2 * D), nn.SiLU(), nn.Linear(2 * D, D))
        self.state_map = nn.Sequential(
            *(nn.Linear(features, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()),
            *(nn.Linear(hidden, places * C), nn.Unflatten(-1, (places, C)), nn.Linear(C, D)),
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(D)
        self.out = nn.Linear(D, (5 if config.warp else 3) * P * P)
        nn.init.normal_(self.positions, std=0.02)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def state_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Those of both state encoders and of the modulations."""
        encoders = ("states.", "state_map.")
        return [(n, p) for n, p in self.named_parameters() if n.startswith(encoders) or ".modulation." in n]

    def features(self, states_BFA: Tensor, now: Tensor, horizons: Tensor) -> Tensor:
        """What the states say of frames `now` + `horizons`, (..., B, E), both int64 (..., B).

        states_BFA: raw.  The normalised states of now and then, their change, the change over the context, the way that
        the base goes between, and the horizon as waves of it and of its logarithm.
        """
        shift_A, scale_A = self.shift_scale.unbind()
        states_BFA = (states_BFA.to(shift_A.dtype) - shift_A) * scale_A
        clip = torch.arange(len(states_BFA), device=states_BFA.device)
        then, past = now + horizons, now - (self.context_grids - 1)
        current, future, before = states_BFA[clip, now], states_BFA[clip, then], states_BFA[clip, past]
        moving = list(self.config.velocity_rows)
        travelled_BFA = ((states_BFA + shift_A * scale_A)[..., moving]).cumsum(1) * TRAVEL_SCALE
        travel = travelled_BFA[clip, then] - travelled_BFA[clip, now]
        h = horizons[..., None].to(current.dtype)
        far = torch.cat([h / self.reach, h.log() / math.log(1 + self.reach)], -1)
        waves = (math.pi * far[..., None] * torch.arange(1, 1 + WAVES, device=h.device)).flatten(-2)
        return torch.cat([current, future, future - current, current - before, travel, far, waves.sin(), waves.cos()], -1)

    def forward(self, last_TBCHW: Tensor, past_TBCHW: Tensor, features_TBE: Tensor) -> Tensor:
        """Frames in [0, 1] (but for what the change adds), (T, B, 3, H, W).

        last_TBCHW, past_TBCHW: the last and the first frame of the context, in [0, 1]; T of 1 serves all predicted frames.
        """
        seen_TBCHW = torch.cat([last_TBCHW, past_TBCHW], 2) - 0.5
        x_TBSD = self.patches(_to_patches(seen_TBCHW, self.config.patch)) + self.positions
        states_TBD = self.states(features_TBE)
        x_TBSD = x_TBSD + states_TBD[:, :, None] + self.state_map(features_TBE)
        for block in self.blocks:
            x_TBSD = block(x_TBSD, states_TBD)
        out_TBSD = self.out(self.norm(x_TBSD)).to(last_TBCHW.dtype)
        out_TBCHW = _to_pixels(out_TBSD, self.config.patch, self.config.grid)
        change_TBCHW, flow_TBCHW = out_TBCHW.tensor_split([3], 2)
        last_TBCHW = last_TBCHW.expand_as(change_TBCHW)
        return (moved(last_TBCHW, FLOW_SCALE * flow_TBCHW) if self.config.warp else last_TBCHW) + change_TBCHW

    def loss(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean over frames of their squared error divided by that of copying the last frame ("relative_mse").

        With config.edge_loss also that of their gradient magnitudes ("relative_edges").
        Of every clip config.pairs frames are predicted, each from a place of its own: horizons, up to what the
        clip holds, drawn as the square of a uniform number, then any place from which that is inside the clip.
        Raises ValueError for clips of another shape or too short for one prediction.
        """
        video_BFHWC, states_BFA = self._check_video(batch.video_BFHWC), batch.states_BFA
        B, num_frames = video_BFHWC.shape[:2]
        furthest = self._furthest(num_frames)
        chance_2TB = torch.rand((2, self.config.pairs, B), generator=generator, device=generator.device).to(states_BFA.device)
        horizons_TB = (furthest * chance_2TB[0].square()).ceil().clamp(1, furthest).long()
        places_TB = num_frames - horizons_TB - (self.context_grids - 1)
        now_TB = self.context_grids - 1 + (chance_2TB[1] * places_TB).long().minimum(places_TB - 1)
        guess, truth, last = self._frames(video_BFHWC, states_BFA, now_TB, horizons_TB)
        error = _relative(guess, truth, last)[0].mean()
        if not self.config.edge_loss:
            return {"loss": error, "relative_mse": error}
        edges = _relative(*(_edges(x) for x in (guess, truth, last)))[0].mean()
        return {"loss": error + self.config.edge_loss * edges, "relative_mse": error, "relative_edges": edges}

    def _frames(
        self, video_BFHWC: Tensor, states_BFA: Tensor, now_TB: Tensor, horizons_TB: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The frames `now` + `horizons` as predicted and in truth, and the last seen ones, (T, B, C, H, W) each."""
        clip = torch.arange(len(video_BFHWC), device=video_BFHWC.device)
        frames = (now_TB, now_TB - (self.context_grids - 1), now_TB + horizons_TB)
        last_TBCHW, past_TBCHW, truth_TBCHW = (self._pictures(video_BFHWC[clip, frame]) for frame in frames)
        return self(last_TBCHW, past_TBCHW, self.features(states_BFA, now_TB, horizons_TB)), truth_TBCHW, last_TBCHW

    @torch.no_grad()
    def first_loss(self, batch: Batch) -> float | None:
        """The relative error of copying, over all places and horizons in the proportions in which they are drawn."""
        video_BFHWC = self._check_video(batch.video_BFHWC)
        video_BFCHW, furthest = self._pictures(video_BFHWC)[:, self.context_grids - 1 :], self._furthest(video_BFHWC.shape[1])
        total = 0.0
        for horizon in range(1, furthest + 1):
            copy_BF = (video_BFCHW[:, horizon:] - video_BFCHW[:, :-horizon]).square().mean((2, 3, 4))
            share = math.sqrt(horizon / furthest) - math.sqrt((horizon - 1) / furthest)
            total += share * (copy_BF / (copy_BF + RELATIVE_FLOOR)).mean().item()
        return total

    @torch.no_grad()
    def validate(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Scores (B,) of four frames, evenly spaced to the clip's last within reach, from its first context.

        relative_mse: as in `loss`.  pixel_mse, pixel_mse_copy: squared error of pixels in [0, 1], and that of copying.
        """
        video_BFHWC = self._check_video(batch.video_BFHWC)
        furthest = self._furthest(video_BFHWC.shape[1])
        quarters_T = torch.tensor([max(1, furthest * quarter // 4) for quarter in (1, 2, 3, 4)], device=video_BFHWC.device)
        horizons_TB = quarters_T[:, None].expand(-1, len(video_BFHWC))
        now_TB = torch.full_like(horizons_TB, self.context_grids - 1)
        scores = _relative(*self._frames(video_BFHWC, batch.states_BFA, now_TB, horizons_TB))
        return dict(zip(("relative_mse", "pixel_mse", "pixel_mse_copy"), (score.mean(0) for score in scores)))

    @torch.no_grad()
    def predict(
        self, context_BFHWC: Tensor, states_BFA: Tensor,
        *, generator: Any = None, num_samples: int = 1, sampling: Sampling | None = None, last: int = 0,
    ) -> Prediction:
        """Predict as many frames after the context as there are state rows after its own: uint8 video_BKFHWC.

        context_BFHWC: uint8, the context's frames.  states_BFA: raw, one row a frame, from the first of the context.
        last: only so many of these frames, the last ones; 0: all.  None depends on another.
        Nothing is drawn: generator and sampling are not read and all samples are equal.
        Raises ValueError for a context of another shape, or rows for no frame or for more than config.reach.
        """
        context_BFHWC = self._check_video(context_BFHWC, num_frames=self.context_grids)
        num_frames = states_BFA.shape[1] - self.context_grids
        if not 1 <= num_frames <= self.reach or states_BFA.shape[2] != self.config.state_dim:
            raise ValueError(
                f"from {self.context_grids} frames the model predicts 1 to {self.reach} more, by a state row of width "
                f"{self.config.state_dim} for each, those of the context included; got {tuple(states_BFA.shape[1:])}"
            )
        B, device = len(context_BFHWC), context_BFHWC.device
        last_BCHW, past_BCHW = (self._pictures(context_BFHWC[:, i]) for i in (-1, 0))
        first = num_frames - last + 1 if last else 1
        horizons_TB = torch.arange(first, num_frames + 1, device=device)[:, None].expand(-1, B)
        features_TBE = self.features(states_BFA, torch.full_like(horizons_TB, self.context_grids - 1), horizons_TB)
        parts = features_TBE.split(max(1, FRAMES_AT_ONCE // B))
        video_TBCHW = torch.cat([self(last_BCHW[None], past_BCHW[None], part) for part in parts])
        video_BFHWC = (video_TBCHW * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 0, 3, 4, 2)
        return Prediction(video_BKFHWC=video_BFHWC[:, None].expand(-1, num_samples, -1, -1, -1, -1))

    def _pictures(self, video: Tensor) -> Tensor:
        """uint8 (..., H, W, 3) to (..., 3, H, W) in [0, 1]."""
        return video.movedim(-1, -3).to(self.shift_scale.dtype) / 255

    def _furthest(self, num_frames: int) -> int:
        return min(self.reach, num_frames - self.context_grids)

    def _check_video(self, video_BFHWC: Tensor | None, *, num_frames: int = 0) -> Tensor:
        """The video, where it has the model's size and that many frames; 0: those of a context and more."""
        got = (0,) if video_BFHWC is None else tuple(video_BFHWC.shape[1:])
        right = got[0] == num_frames if num_frames else got[0] > self.context_grids
        if video_BFHWC is None or not right or got[1:] != (*self.config.grid, 3):
            frames = str(num_frames) if num_frames else f"more than {self.context_grids}"
            raise ValueError(f"the model works on {frames} frames of {(*self.config.grid, 3)} (H, W, C) here, got {got}")
        return video_BFHWC


def _relative(guess_TBCHW: Tensor, truth_TBCHW: Tensor, last_TBCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Relative error, squared error and that of copying, (T, B) each."""
    error_TB, copy_TB = ((y - truth_TBCHW).square().mean((2, 3, 4)) for y in (guess_TBCHW, last_TBCHW))
    return error_TB / (copy_TB + RELATIVE_FLOOR), error_TB, copy_TB


def _edges(x_TBCHW: Tensor) -> Tensor:
    """Gradient magnitude of every channel, of the differences to the next pixel right and below, but for the last of each."""
    right, below = x_TBCHW[..., :-1, 1:] - x_TBCHW[..., :-1, :-1], x_TBCHW[..., 1:, :-1] - x_TBCHW[..., :-1, :-1]
    return (right.square() + below.square() + EDGE_FLOOR).sqrt()


def _to_patches(video_TBCHW: Tensor, patch: int) -> Tensor:
    """The values of every square of side `patch`, (T, B, S, C * patch * patch)."""
    return F.unfold(video_TBCHW.flatten(0, 1), patch, stride=patch).transpose(1, 2).unflatten(0, video_TBCHW.shape[:2])


def _to_pixels(x_TBSD: Tensor, patch: int, size: tuple[int, int]) -> Tensor:
    """Back from squares to a picture, (T, B, C, H, W)."""
    return F.fold(x_TBSD.flatten(0, 1).transpose(1, 2), size, patch, stride=patch).unflatten(0, x_TBSD.shape[:2])


def moved(frames_TBCHW: Tensor, flow_TBCHW: Tensor) -> Tensor:
    """Every pixel taken from where the flow points, between pixels linearly; beyond the border from the border.

    flow_TBCHW: from the pixel itself, to the right and down, in half sides of the picture.
    """
    H, W = frames_TBCHW.shape[-2:]
    down, right = (torch.linspace(-1, 1, n, device=flow_TBCHW.device, dtype=flow_TBCHW.dtype) for n in (H, W))
    here_HW2 = torch.stack(torch.meshgrid(right, down, indexing="xy"), -1)
    places_NHW2 = here_HW2 + flow_TBCHW.flatten(0, 1).movedim(1, -1)
    found = F.grid_sample(frames_TBCHW.flatten(0, 1), places_NHW2, align_corners=True, padding_mode="border")
    return found.unflatten(0, frames_TBCHW.shape[:2])
