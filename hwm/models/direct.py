"""Direct: a future frame, in one pass, from the last frames seen and the robot's states of then and now.

Nothing is encoded: patches of two seen frames pass through a transformer under the states, and what comes out is the last
seen frame, moved by a flow, plus a change.  The strong, cheap baseline beside which the score of every other family should
stand (ours; no document describes it).

One pass gives the mean of all futures.  With config.noised the same network also sees the future frame under noise in
training, and then carries noise to a sharp sample, of which the mean is the first step (flow matching of pixels by a network
that gives the picture itself: Li and He 2025, "Back to basics").
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hwm.contracts import Batch, Kind, Prediction, Sampling
from hwm.model_config import DirectConfig
from hwm.models.direct_blocks import DETAILS, Block, Mounting, Noised, Refine, moved, to_patches, to_pixels
from hwm.models.family import WorldModule
from hwm.nn import flow_matching as flow
from hwm.nn.parameters import decay_groups
from hwm.nn.skeleton import Bones
from hwm.nn.units import unchanged

RELATIVE_FLOOR = 1e-3
"""Added to the error of copying (of pixels in [0, 1]) before a frame's error is divided by it: stillness is not all."""
EDGE_FLOOR = 1e-6
"""Added to a squared gradient before its root, whose slope at 0 has no end."""
FLOW_SCALE = 0.25
"""Flow that an output of 1 means, in half sides of the picture."""
TRAVEL_SCALE = 1 / 30
"""Brings the sum of normalised velocities over the second or two of a step to the size of states; over a minute it is larger."""
WAVES = 4
"""Sines and cosines by which a horizon is told, and as many for its logarithm."""
FRAMES_AT_ONCE = 256
"""Predicted frames that go through the network together."""
HORIZONS = 128
"""Parts of the range of horizons, equally likely, that stand for all of them where each would take too long; above 64 frames."""
NOISE = 0.5
"""Standard deviation of the noise, of pixels in [0, 1]."""
LEAST_LEVEL = 0.2
"""Share of noise from which on errors are divided by its square, as those of a velocity would be; below by that of this."""


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
        features = (4 + len(config.lags)) * config.state_dim + len(config.velocity_rows) + 2 + 4 * WAVES
        hidden, C = config.map_hidden, config.map_channels
        self.register_buffer("shift_scale", unchanged(config.state_dim))
        self.patches = nn.Linear(2 * 3 * P * P, D)
        self.positions = nn.Parameter(torch.empty(places, D))
        self.states = nn.Sequential(nn.Linear(features, 2 * D), nn.SiLU(), nn.Linear(2 * D, D))
        self.state_map = nn.Sequential(
            *(nn.Linear(features, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()),
            *(nn.Linear(hidden, places * C), nn.Unflatten(-1, (places, C)), nn.Linear(C, D)),
        )
        self.told = features
        if config.silhouette_loss and not config.skeleton.bones:
            raise ValueError("model.silhouette_loss needs a robot whose bones are known: a [skeleton] in the data's robot.toml")
        self.skeleton = Bones(config.skeleton, size=config.grid, patch=P) if config.skeleton.bones else None
        self.bones = self.mounting = None
        if self.skeleton is not None:
            self.bones = nn.Sequential(nn.Linear(2 * self.skeleton.channels, D), nn.SiLU(), nn.Linear(D, D))
            self.mounting = Mounting(self.skeleton, config.mounting) if config.mounting else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.noised = Noised(config) if config.noised else None
        self.norm = nn.LayerNorm(D)
        shown = 2 * len(config.skeleton.bones) if config.mounting else 0
        self.refine = Refine(config.refine, silhouettes=shown) if config.refine else None
        self.out = nn.Linear(D, (3 + 2 * config.warp + DETAILS * bool(config.refine)) * P * P)
        nn.init.normal_(self.positions, std=0.02)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    @property
    def draws(self) -> bool:
        """Once it learned from noise."""
        return self.noised is not None

    def state_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Those of both state encoders and of the modulations."""
        encoders = ("states.", "state_map.")
        return [(n, p) for n, p in self.named_parameters() if n.startswith(encoders) or ".modulation." in n]

    def features(self, states_BFA: Tensor, now: Tensor, horizons: Tensor) -> Tensor:
        """What the states say of frames `now` + `horizons`, (..., B, E), both int64 (..., B).

        states_BFA: raw.  The normalised states of now and then, their change, the change over the context and over
        config.lags frames before the one to come, the way that the base goes between, and the horizon, at most the furthest of
        training, as waves of it and of its logarithm; then, of a robot with bones, where its joints are now and then before
        the camera, as the skeleton says.
        """
        raw_BFA, (shift_A, scale_A) = states_BFA, self.shift_scale.unbind()
        states_BFA = (states_BFA.to(shift_A.dtype) - shift_A) * scale_A
        clip = torch.arange(len(states_BFA), device=states_BFA.device)
        then, past = now + horizons, now - (self.context_grids - 1)
        current, future, before = states_BFA[clip, now], states_BFA[clip, then], states_BFA[clip, past]
        moving = list(self.config.velocity_rows)
        travelled_BFA = ((states_BFA + shift_A * scale_A)[..., moving]).cumsum(1) * TRAVEL_SCALE
        travel = travelled_BFA[clip, then] - travelled_BFA[clip, now]
        limit = self.config.horizon
        h = horizons[..., None].clamp(max=limit).to(current.dtype)
        far = torch.cat([h / limit, h.log() / math.log(1 + limit)], -1)
        waves = (math.pi * far[..., None] * torch.arange(1, 1 + WAVES, device=h.device)).flatten(-2)
        late = [future - states_BFA[clip, then - lag] for lag in self.config.lags]
        told = [current, future, future - current, current - before, *late, travel, far, waves.sin(), waves.cos()]
        if self.skeleton is not None:
            told += [self.skeleton.points(raw_BFA[clip, frame]).flatten(-2).to(current.dtype) for frame in (now, then)]
        return torch.cat(told, -1)

    def mounted(self, last_TBCHW: Tensor, features_TBE: Tensor) -> Tensor:
        """The same features with the joints before the camera as it is mounted, by what the last frame shows."""
        if self.mounting is None:
            return features_TBE
        told_TBE, joints_TBJ = features_TBE.tensor_split([self.told], -1)
        now_then = torch.stack(joints_TBJ.chunk(2, -1)).unflatten(-1, (-1, 3))
        now_then = self.mounting(last_TBCHW, now_then).to(told_TBE.dtype).flatten(-2)
        return torch.cat([told_TBE, *now_then], -1)

    def forward(
        self, last_TBCHW: Tensor, past_TBCHW: Tensor, features_TBE: Tensor, noised: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Frames in [0, 1] (but for what the change adds), (T, B, 3, H, W).

        last_TBCHW, past_TBCHW: the last and the first frame of the context, in [0, 1]; T of 1 serves all predicted frames.
        features_TBE: as `mounted` gives them.
        noised: of samples on their way the frames under noise, (T, B, 3, H, W), and its share (T, B); at 1 only noise is left.
        """
        seen_TBCHW = torch.cat([last_TBCHW, past_TBCHW], 2) - 0.5
        x_TBSD = self.patches(to_patches(seen_TBCHW, self.config.patch)) + self.positions
        features_TBE, joints_TBJ = features_TBE.tensor_split([self.told], -1)
        now_TBJ3, then_TBJ3 = (x.unflatten(-1, (-1, 3)) for x in joints_TBJ.chunk(2, -1))
        now_TBJ3 = now_TBJ3[: len(last_TBCHW)]
        if self.skeleton is not None:
            x_TBSD = x_TBSD + self.bones(_both(self.skeleton(now_TBJ3), self.skeleton(then_TBJ3), -1))
        states_TBD = self.states(features_TBE)
        x_TBSD = x_TBSD + states_TBD[:, :, None] + self.state_map(features_TBE)
        if self.noised is not None and noised is not None:
            tokens_TBSD, condition_TBD = self.noised(to_patches(noised[0] - 0.5, self.config.patch), noised[1])
            x_TBSD, states_TBD = x_TBSD + tokens_TBSD, states_TBD + condition_TBD
        for block in self.blocks:
            x_TBSD = block(x_TBSD, states_TBD)
        out_TBSD = self.out(self.norm(x_TBSD)).to(last_TBCHW.dtype)
        out_TBCHW = to_pixels(out_TBSD, self.config.patch, self.config.grid)
        change_TBCHW, flow_TBCHW, details_TBCHW = out_TBCHW.tensor_split([3, 3 + 2 * self.config.warp], 2)
        last_TBCHW = last_TBCHW.expand_as(change_TBCHW)
        moved_TBCHW = moved(last_TBCHW, FLOW_SCALE * flow_TBCHW) if self.config.warp else last_TBCHW
        whole_TBCHW = moved_TBCHW + change_TBCHW
        if self.refine is None:
            return whole_TBCHW
        noisy_TBCHW = torch.zeros_like(whole_TBCHW)
        if noised is not None:
            noisy_TBCHW = noisy_TBCHW + (noised[1] < 1)[..., None, None, None] * (noised[0] - whole_TBCHW)
        silhouettes = None
        if self.mounting is not None:
            silhouettes = _both(self.mounting.silhouettes(now_TBJ3), self.mounting.silhouettes(then_TBJ3), 2)
        parts = (whole_TBCHW - 0.5, moved_TBCHW - 0.5, noisy_TBCHW, details_TBCHW)
        return whole_TBCHW + self.refine(*parts, silhouettes_TBCHW=silhouettes).to(whole_TBCHW.dtype)

    def loss(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean over frames of their squared error divided by that of copying the last frame ("relative_mse"), both with
        config.body_loss as sums in which the pixels of the arms count more.

        With config.silhouette_loss also how badly the bones' silhouettes cover the arms, now and then, in nats ("silhouettes").
        With config.edge_loss also that of their gradient magnitudes ("relative_edges"); with config.noised a share of the
        frames is shown under noise, and their error divided by the square of what is left of it, at least LEAST_LEVEL
        ("denoising_mse").
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
        guess, truth, last, level_TB, joints_TBJ = self._frames(video_BFHWC, states_BFA, now_TB, horizons_TB, generator)
        weight, body_2TBHW = 1.0, None
        if self.config.reads_masks:
            assert batch.masks_BFHW is not None
            clip = torch.arange(B, device=video_BFHWC.device)
            body_2TBHW = torch.stack([batch.masks_BFHW[clip, frame] for frame in (now_TB, now_TB + horizons_TB)])
        if body_2TBHW is not None and self.config.body_loss:
            body_TBHW = body_2TBHW.any(0)
            weight = 1 + self.config.body_loss * body_TBHW[:, :, None].to(truth.dtype)
        error_TB = _relative(guess, truth, last, weight)[0]
        loss = error = error_TB.mean()
        terms = {"relative_mse": error}
        if share := self.config.noised:
            mean_TB = (level_TB == 1).to(error_TB)
            weight_TB = (1 - mean_TB) / level_TB.clamp(min=LEAST_LEVEL).square()
            means, sums = (((error_TB * w_TB).sum() / w_TB.sum().clamp(min=1)) for w_TB in (mean_TB, weight_TB))
            loss, terms = (1 - share) * means + share * sums, {"relative_mse": means, "denoising_mse": sums}
        if body_2TBHW is not None and self.config.silhouette_loss:
            assert self.mounting is not None
            joints = torch.stack(joints_TBJ.chunk(2, -1)).unflatten(-1, (-1, 3))
            terms["silhouettes"] = self.mounting.miss(joints, body_2TBHW)
            loss = loss + self.config.silhouette_loss * terms["silhouettes"]
        if self.config.edge_loss:
            terms["relative_edges"] = _relative(*(_edges(x) for x in (guess, truth, last)))[0].mean()
            loss = loss + self.config.edge_loss * terms["relative_edges"]
        return {"loss": loss} | terms

    def _frames(
        self, video_BFHWC: Tensor, states_BFA: Tensor, now_TB: Tensor, horizons_TB: Tensor,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        """The frames `now` + `horizons` as predicted and in truth, the last seen ones, the shares (T, B) of noise, and where the
        joints are now and then before the camera (T, B, 2 * 3 * joints).

        generator: of training, where a share starts from own frames and a share is shown under noise; 1 is not shown.
        """
        clip, past_TB = torch.arange(len(video_BFHWC), device=video_BFHWC.device), now_TB - (self.context_grids - 1)
        frames = (now_TB, past_TB, now_TB + horizons_TB)
        last_TBCHW, past_TBCHW, truth_TBCHW = (self._pictures(video_BFHWC[clip, frame]) for frame in frames)
        level_TB, noised = torch.ones_like(now_TB, dtype=last_TBCHW.dtype), None
        if generator is not None and self.config.own_context:
            chance_TB = torch.rand(now_TB.shape, generator=generator, device=generator.device).to(now_TB.device)
            own_TB = (chance_TB < self.config.own_context) & (past_TB > self.context_grids - 1)
            pictures = ((last_TBCHW, now_TB), (past_TBCHW, past_TB)) if own_TB.any() else ()  # none are refused by convolutions
            for seen_TBCHW, frame_TB in pictures:
                seen_TBCHW[own_TB] = self._own(video_BFHWC, states_BFA, own_TB.nonzero()[:, 1], frame_TB[own_TB])
        if generator is not None and self.config.noised:
            chance_2TB = torch.rand((2, *now_TB.shape), generator=generator, device=generator.device).to(level_TB)
            level_TB = torch.where(chance_2TB[0] < self.config.noised, chance_2TB[1], level_TB)
            noise_TBCHW = torch.randn(truth_TBCHW.shape, generator=generator, device=generator.device).to(truth_TBCHW)
            noised = torch.lerp(truth_TBCHW, 0.5 + NOISE * noise_TBCHW, level_TB[..., None, None, None]), level_TB
        features_TBE = self.mounted(last_TBCHW, self.features(states_BFA, now_TB, horizons_TB))
        guess_TBCHW = self(last_TBCHW, past_TBCHW, features_TBE, noised)
        return guess_TBCHW, truth_TBCHW, last_TBCHW, level_TB, features_TBE[..., self.told :]

    @torch.no_grad()
    def _own(self, video_BFHWC: Tensor, states_BFA: Tensor, clip_N: Tensor, frame_N: Tensor) -> Tensor:
        """Frames (N, C, H, W) of clips as they are predicted from the first context of each."""
        last_NCHW, past_NCHW = (self._pictures(video_BFHWC[clip_N, i]) for i in (self.context_grids - 1, 0))
        now_N = torch.full_like(frame_N, self.context_grids - 1)
        features_1NE = self.features(states_BFA[clip_N], now_N[None], (frame_N - now_N)[None])
        features_1NE = self.mounted(last_NCHW[None], features_1NE)
        return self(last_NCHW[None], past_NCHW[None], features_1NE)[0].clamp(0, 1).to(last_NCHW.dtype)

    @torch.no_grad()
    def first_loss(self, batch: Batch) -> float | None:
        """The relative error of copying, over all places and horizons in the proportions in which they are drawn.

        None with config.own_context, where it is not the last recorded frame that is copied, and where masks count.
        """
        if self.config.own_context or self.config.reads_masks:
            return None
        video_BFHWC = self._check_video(batch.video_BFHWC)
        video_BFCHW, furthest = self._pictures(video_BFHWC)[:, self.context_grids - 1 :], self._furthest(video_BFHWC.shape[1])
        total, before = 0.0, 0.0
        for horizon in sorted({math.ceil(furthest * (n / HORIZONS) ** 2) for n in range(1, 1 + HORIZONS)}):
            copy_BF = (video_BFCHW[:, horizon:] - video_BFCHW[:, :-horizon]).square().mean((2, 3, 4))
            share = math.sqrt(horizon / furthest)
            total += (share - before) * (copy_BF / (copy_BF + RELATIVE_FLOOR)).mean().item()
            before = share
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
        scores = _relative(*self._frames(video_BFHWC, batch.states_BFA, now_TB, horizons_TB)[:3])
        return dict(zip(("relative_mse", "pixel_mse", "pixel_mse_copy"), (score.mean(0) for score in scores)))

    @torch.no_grad()
    def predict(
        self, context_BFHWC: Tensor, states_BFA: Tensor, *, generator: torch.Generator | Sequence[torch.Generator] | None = None,
        num_samples: int = 1, sampling: Sampling | None = None, only: Sequence[int] | None = None,
    ) -> Prediction:  # fmt: skip
        """Predict as many frames after the context as there are state rows after its own: uint8 video_BKFHWC.

        context_BFHWC: uint8, the context's frames.  states_BFA: raw, one row a frame, from the first of the context.
        only: which of these frames, counted from 1; None: all.  None depends on another.
        sampling: its temperature scales the noise that becomes K samples, each with the same noise in all its frames; None
        takes config.temperature.  At 0, and from a model that never learned from noise, all samples are the mean of all futures,
        and generator, one or one for each clip and sample, is not read.
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
        wanted = torch.as_tensor(range(1, num_frames + 1) if only is None else only, device=device)
        horizons_TB = wanted[:, None].expand(-1, B)
        features_TBE = self.features(states_BFA, torch.full_like(horizons_TB, self.context_grids - 1), horizons_TB)
        features_TBE = self.mounted(last_BCHW[None], features_TBE)
        temperature, noise_BCHW, K = self.temperature if sampling is None else sampling.temperature, None, 1
        if temperature and self.noised is not None:
            K = num_samples
            noise_BCHW = flow.noise((B, K, *last_BCHW.shape[1:]), generator=generator or torch.Generator(device)).flatten(0, 1)
            noise_BCHW = temperature * NOISE * noise_BCHW.to(last_BCHW)
            last_BCHW, past_BCHW = (x.repeat_interleave(K, 0) for x in (last_BCHW, past_BCHW))
            features_TBE = features_TBE.repeat_interleave(K, 1)
        parts = features_TBE.split(max(1, FRAMES_AT_ONCE // len(last_BCHW)))
        video_TBCHW = torch.cat([self._futures(last_BCHW, past_BCHW, part, noise_BCHW) for part in parts])
        video_BFHWC = (video_TBCHW * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 0, 3, 4, 2)
        return Prediction(video_BKFHWC=video_BFHWC.unflatten(0, (B, K)).expand(-1, num_samples, -1, -1, -1, -1))

    def _futures(self, last_BCHW: Tensor, past_BCHW: Tensor, features_TBE: Tensor, noise_BCHW: Tensor | None) -> Tensor:
        """Frames (T, B, C, H, W): their means, or that to which config.steps steps carry the noise."""
        if noise_BCHW is None:
            return self(last_BCHW[None], past_BCHW[None], features_TBE)

        def velocity(x_TBCHW: Tensor, k: int, level: float) -> Tensor:
            level_TB = x_TBCHW.new_full(x_TBCHW.shape[:2], level)
            goal_TBCHW = self(last_BCHW[None], past_BCHW[None], features_TBE, (x_TBCHW, level_TB))
            return flow.velocity_to(goal_TBCHW, x_TBCHW, x_TBCHW.new_tensor(1 - level), sigma_min=0.0)

        start_TBCHW = (0.5 + noise_BCHW).expand(len(features_TBE), -1, -1, -1, -1)
        return flow.euler(velocity, start_TBCHW, flow.Steps(self.config.steps))

    def _pictures(self, video: Tensor) -> Tensor:
        """uint8 (..., H, W, 3) to (..., 3, H, W) in [0, 1]."""
        return video.movedim(-1, -3).to(self.shift_scale.dtype) / 255

    def _furthest(self, num_frames: int) -> int:
        return min(self.config.horizon, num_frames - self.context_grids)

    def _check_video(self, video_BFHWC: Tensor | None, *, num_frames: int = 0) -> Tensor:
        """The video, where it has the model's size and that many frames; 0: those of a context and more."""
        got = (0,) if video_BFHWC is None else tuple(video_BFHWC.shape[1:])
        right = got[0] == num_frames if num_frames else got[0] > self.context_grids
        if video_BFHWC is None or not right or got[1:] != (*self.config.grid, 3):
            frames = str(num_frames) if num_frames else f"more than {self.context_grids}"
            raise ValueError(f"the model works on {frames} frames of {(*self.config.grid, 3)} (H, W, C) here, got {got}")
        return video_BFHWC


def _both(now: Tensor, then: Tensor, dim: int) -> Tensor:
    """What is known of now, perhaps once for all predicted frames, beside what is known of each of them."""
    return torch.cat([now.expand_as(then), then], dim)


def _relative(
    guess_TBCHW: Tensor, truth_TBCHW: Tensor, last_TBCHW: Tensor, weight: Tensor | float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Relative error, squared error and that of copying, (T, B) each; weight: of the pixels, (T, B, 1, H, W)."""
    error_TB, copy_TB = ((weight * (y - truth_TBCHW).square()).mean((2, 3, 4)) for y in (guess_TBCHW, last_TBCHW))
    return error_TB / (copy_TB + RELATIVE_FLOOR), error_TB, copy_TB


def _edges(x_TBCHW: Tensor) -> Tensor:
    """Gradient magnitude of every channel, of the differences to the next pixel right and below, but for the last of each."""
    right, below = x_TBCHW[..., :-1, 1:] - x_TBCHW[..., :-1, :-1], x_TBCHW[..., 1:, :-1] - x_TBCHW[..., :-1, :-1]
    return (right.square() + below.square() + EDGE_FLOOR).sqrt()
