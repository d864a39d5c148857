"""What the parts of the library promise each other: batches, predictions, tokenizers, world models.

Shape letters used in names everywhere (`x_BTSD` has shape (B, T, S, D)):

    B batch      F pixel frames   T latent steps (token grids)   S tokens per step (H * W)
    H, W height and width (of a grid or a picture)   C channels   D width of the model   N heads   A state dimensions
    K samples    V vocabulary     L layers
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from hwm.safe_load.paths import shown
from hwm.work.ranges import check_ranges

if TYPE_CHECKING:  # the configurations, which import nothing slow, read `Kind` here
    from collections.abc import Iterable, Sequence
    from typing import Self

    import torch
    from torch import Tensor, nn

    from hwm.clock import Clock
    from hwm.robot import Embodiment

Kind = Literal["tokens", "latents", "video", "motion"]
"""What a model learns from and predicts, and what the tokenizer before it gives: ids, latents, or the frames themselves.

motion: states and commands, without pictures.
"""


Role = Literal["world model", "tokenizer", "reader", "twin"]
"""What a trained network is for: predicting, encoding for those that predict, reading off a frame what is true of it, or
foreseeing the robot's own motion."""


@dataclass(frozen=True)
class Batch:
    """Clips of one batch.  What a family does not use is None.

    states_BFA: float32, raw units, one row per frame (or more rows: look-ahead), first row = first frame.
    tokens_BTHW: int64 in [0, V).   video_BFHWC: uint8 RGB.   latents_BTCHW: float32.
    masks_BFHW: bool, which pixels of the video show the robot's arms.
    commands_BFA: float32, raw units, row k what is asked of the robot from frame k to the next.
    """

    states_BFA: Tensor
    tokens_BTHW: Tensor | None = None
    video_BFHWC: Tensor | None = None
    latents_BTCHW: Tensor | None = None
    masks_BFHW: Tensor | None = None
    commands_BFA: Tensor | None = None

    def __len__(self) -> int:
        return self.states_BFA.shape[0]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v.to(device, non_blocking=True) for k, v in moved.items() if v is not None})


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from its distribution.  temperature 0 is greedy (argmax).

    top_k 0 and top_p 1 switch those filters off.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"sampling needs temperature >= 0, top_k >= 0 and 0 < top_p <= 1, got {self}")


@dataclass(frozen=True)
class Prediction:
    """K samples of the future and, where the family has one, what its distribution says.

    tokens_BKTHW: int64, K sampled futures.  The fields below describe the distribution along sample 0:
    nll_BTHW: float32, -log p(target) in nats where targets were given.
    top_indices_BTHWK, top_values_BTHWK: the K most likely ids in descending order and their logits.
    entropy_BTHW: float32, nats.
    codes_BTHWC: float32, the expectation of the tokenizer's code vector under the predicted distribution.
    latents_BKTCHW: float32, K sampled futures of a family that predicts latents.
    unrest_BKTHW: float32, of a flow, in normalised latents: how far the data at which it points move from step to step.
    video_BKFHWC: uint8, K futures of a family that predicts frames.
    """

    tokens_BKTHW: Tensor | None = None
    nll_BTHW: Tensor | None = None
    top_indices_BTHWK: Tensor | None = None
    top_values_BTHWK: Tensor | None = None
    entropy_BTHW: Tensor | None = None
    codes_BTHWC: Tensor | None = None
    latents_BKTCHW: Tensor | None = None
    unrest_BKTHW: Tensor | None = None
    video_BKFHWC: Tensor | None = None


@runtime_checkable
class Tokenizer(Protocol):
    """Video to tokens and back.  Blocks of `clock.block` frames are encoded and decoded independently."""

    kind: Literal["tokens"]
    name: str
    clock: Clock
    spatial_stride: int
    vocab_size: int

    @property
    def codes_VC(self) -> Tensor:
        """Code vector of every id, float32 (V, C)."""

    def encode(self, video_BFHWC: Tensor) -> Tensor:
        """uint8 video of whole blocks -> int64 tokens_BTHW."""

    def decode(self, tokens_BTHW: Tensor) -> Tensor:
        """int64 tokens of whole blocks -> uint8 video_BFHWC."""

    def decode_codes(self, codes_BTHWC: Tensor) -> Tensor:
        """Code vectors, also between the code points, of whole blocks -> uint8 video_BFHWC."""

    def fingerprint(self) -> str:
        """Hash of everything that decides its output; stored with tokens, compared before use."""


@runtime_checkable
class LatentTokenizer(Protocol):
    """Video to continuous latents and back.  Blocks of `clock.block` frames are encoded and decoded independently.

    Causal: the latents of a block's first frames do not depend on its later frames.
    """

    kind: Literal["latents"]
    name: str
    clock: Clock
    spatial_stride: int
    channels: int

    def encode(self, video_BFHWC: Tensor) -> Tensor:
        """uint8 video of whole blocks -> float32 latents_BTCHW."""

    def decode(self, latents_BTCHW: Tensor) -> Tensor:
        """float32 latents of whole blocks -> uint8 video_BFHWC."""

    def fingerprint(self) -> str:
        """Hash of everything that decides its output; stored with latents, compared before use."""


class WorldModel(Protocol):
    """A model of the robot's camera: an nn.Module that also has these.

    predicts: what it is trained on and gives: ids of a Tokenizer, latents of a LatentTokenizer, or frames.
    validation_key: the score of `validate` that chooses the best checkpoint; lower is better.
    context_grids, future_grids: latent steps it sees and predicts.  num_states: state rows it reads, one per frame.
    frame_step: frames from one that it models to the next: 1, or 4 for clips of every fourth frame (`clock.subsample`).
    reach: 0 where a prediction has its own number of frames.  Above 0 one context gives any number of frames up to this
    many, as many as there are state rows after the context's.
    temperature: at which it samples by its own configuration; 0 where it has none or takes the likeliest.
    draws: whether anything can be left to chance, at a temperature above 0; else all samples are equal.
    dropout_rate: of its training; 0 where it has none.  keeps_dropout: whether predictions have it too.
    """

    predicts: Kind
    validation_key: str
    context_grids: int
    future_grids: int
    num_states: int
    frame_step: int
    reach: int

    keeps_dropout: bool

    @property
    def temperature(self) -> float: ...

    @property
    def draws(self) -> bool: ...

    @property
    def dropout_rate(self) -> float: ...

    @property
    def blocks(self) -> Iterable[nn.Module]:
        """The repeated parts of the network: what is compiled, recomputed or shared out over processes, each by itself."""

    @property
    def neutral_state_A(self) -> Tensor:
        """The raw state (A,) that the model's normalisation maps to zero: what zeroed states are."""

    def state_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Parameters, by name, that are there only to read the robot's states."""

    def idle_parameters(self) -> list[str]:
        """Names of parameters that by design may have no gradient, in the first steps or ever."""

    def loss(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Training loss under "loss" (a scalar to differentiate), then further named scalars to log, its main term first."""

    def first_loss(self, batch: Batch) -> float | None:
        """What the main term of `loss` should be before any training, in closed form; None where there is no such form.

        Of token models for random ids: real clips may cost less at once.
        """

    def validate(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Named scores (B,), one value per clip; both teacher-forced and autoregressive where that differs."""

    def predict(
        self, context: Tensor, states_BFA: Tensor,
        *, generator: torch.Generator | Sequence[torch.Generator], num_samples: int = 1,
        sampling: Sampling | None = None, **asked: Any,
    ) -> Prediction:
        """Predict K futures of what it `predicts` after the context, given the states of context and future frames.

        context: tokens_BTHW; latents_BTCHW in the tokenizer's own units; or uint8 video_BFHWC, of which as many frames are
        predicted as there are state rows after its own (a grid of context_grids and future_grids is a frame there).
        generator: one for all, or one for each clip and sample, B * K of them, clips first: samples then do not depend on
        the batch.
        sampling: None takes the model's own way (greedy, or its configured temperature); of latents its temperature scales
        the initial noise.
        asked, of token models: targets_BTHW, true future grids, fills nll_BTHW; teacher_forced: feed the targets instead of
        the samples; top_k_logits fills top_indices and top_values with that many; codes_VC fills codes_BTHWC.
        asked, of models of latents: unrest fills unrest_BKTHW.
        asked, of models with a reach: only, which of the frames, counted from 1; None: all.
        """


@dataclass(frozen=True)
class Family:
    """What every configuration knows of its family besides its values.

    module: where the model is, as "module:class".  needs: modules of the extra named like the family, if it has one.
    kind: what the model learns from.  role: as `Role`.
    prediction_settings: fields that say how a trained model predicts, and so may change after training.
    raw_states: hand closures and the like enter as they are, not normalised.
    gone: settings that were taken away again because they did not pay, each with the value at which it did nothing.
    """

    module: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    kind: ClassVar[Kind]
    role: ClassVar[Role] = "world model"
    prediction_settings: ClassVar[tuple[str, ...]] = ()
    raw_states: ClassVar[bool] = True
    gone: ClassVar[dict[str, object]] = {}

    family: str = ""

    def __post_init__(self) -> None:
        """Raise ValueError for a number outside its range, and for sizes that do not divide one another."""
        check_ranges(type(self), vars(self), prefix="model.")
        sizes: Any = self
        if hasattr(self, "mlp_ratio") and sizes.width % sizes.num_heads:
            raise ValueError(f"model.width {sizes.width} is not divisible by model.num_heads {sizes.num_heads}")
        if hasattr(self, "patch") and (sizes.grid[0] % sizes.patch or sizes.grid[1] % sizes.patch):
            raise ValueError(f"model.grid {sizes.grid} is not divisible by model.patch {sizes.patch}")

    @classmethod
    def completed(cls, table: dict[str, Any]) -> dict[str, Any]:
        """A stored configuration in today's words: where one from before says more or less, it is left as it was meant.

        Raises ValueError for what is no longer there.
        """
        for name, nothing in cls.gone.items():
            if name in table and table[name] != nothing:
                remedy = "it did not pay (docs/experiments.md); train the model anew without it"
                raise ValueError(f"model.{name} = {shown(repr(table[name]))}: taken away, for {remedy}")
        return {name: value for name, value in table.items() if name not in cls.gone}

    @property
    def reads_states(self) -> bool:
        """Whether it is told or learns the robot's states, whose statistics it then keeps."""
        return self.role in ("world model", "twin")

    @property
    def reads_masks(self) -> bool:
        """Whether it learns from which pixels show the robot's arms."""
        return False

    def for_robot(self, robot: Embodiment) -> Self:
        """The same for a robot of known skeleton or with other states than the usual; what is set otherwise stays as it is."""
        mine, usual = vars(self), vars(type(self)())
        if not self.reads_states or mine["state_dim"] not in (usual["state_dim"], robot.dim):
            return self
        own: dict[str, Any] = {"skeleton": robot.skeleton}
        if robot.dim != usual["state_dim"]:
            velocities = tuple(i for i, kind in enumerate(robot.kinds) if kind == "velocity")
            own |= {"state_dim": robot.dim, "state_plain": robot.raw, "velocity_rows": velocities}
        return replace(self, **{name: value for name, value in own.items() if name in mine and mine[name] == usual[name]})

    @property
    def solver_steps(self) -> int | None:
        """Passes of the network that a prediction takes, as configured; None where the family has no such number."""
        return getattr(self, "steps", None)

    def precision_rule(self, precision: str) -> None:
        """Raise ValueError where the model cannot be trained in train.precision."""

    def example(self, num_clips: int, *, generator: torch.Generator | None = None, image_size: int = 0) -> Batch:
        """Random clips of the model's shape: uniform ids or bytes, normal latents and states.

        image_size: side of frames in pixels where the configuration leaves it to the data; 0: 64.
        """
        import torch
        sizes: Any = self
        states = torch.randn(num_clips, sizes.num_states, sizes.state_dim, generator=generator)
        if self.kind == "motion":
            return Batch(states_BFA=states, commands_BFA=torch.randn(states.shape, generator=generator))
        shape = (num_clips, sizes.context_grids + sizes.future_grids)
        if self.kind == "tokens":
            tokens = torch.randint(sizes.vocab_size, (*shape, *sizes.grid), generator=generator)
            return Batch(states_BFA=states, tokens_BTHW=tokens)
        if self.kind == "video":
            video = torch.randint(256, (*shape, *sizes.grid, 3), generator=generator, dtype=torch.uint8)
            masks = torch.rand(video.shape[:-1], generator=generator) < 0.5 if self.reads_masks else None
            return Batch(states_BFA=states, video_BFHWC=video, masks_BFHW=masks)
        latents = torch.randn(*shape, sizes.channels, *sizes.grid, generator=generator)
        return Batch(states_BFA=states, latents_BTCHW=latents)
