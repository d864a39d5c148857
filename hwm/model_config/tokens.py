"""The families over grids of tokens: ST-Transformer and Masked-HWM."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from hwm.contracts import Family, Kind
from hwm.model_config.parts import (
    MOST_STATES,
    Layers,
    Modulated,
    Part,
    Rows,
    Share,
    Sides,
    Steps,
    Streams,
    Temperature,
    Weight,
    Width,
)
from hwm.work.ranges import Range


@dataclass(frozen=True)
class Tokens(Family):
    """What the families over token grids have in common."""

    kind: ClassVar[Kind] = "tokens"

    vocab_size: Annotated[int, Range(2, 2**28)] = 64000
    factors: Annotated[tuple[int, ...], Range(2, 2**28)] = ()
    """Mixed radix of a factorised vocabulary, lowest digit first; empty: one table over all ids (the paper)."""
    grid: Sides = (32, 32)
    num_heads: Layers = 8
    width: Width = 512
    mlp_ratio: Annotated[int, Range(1, 256)] = 4
    state_dim: Annotated[int, Range(1, MOST_STATES)] = 25
    init_std: Annotated[float, Range(0, 100, above=True)] = 0.02
    """Standard deviation of the initial weights; a narrow model wants more than the published 0.02."""
    code_loss: Weight = 0.0
    """Weight of the squared error of the expected digits of a factorised vocabulary, as codes in [-1, 1] (ours)."""
    ordered_states: bool = False
    """The order of the state rows inside a grid counts (ours); in the documents' forms their mean loses it."""
    max_corruption: Share = 0.0
    """Largest rate at which input tokens become random ones in training (HWM paper; of ST-Transformer ours)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        product = math.prod(self.factors)
        if self.factors and product != self.vocab_size:
            raise ValueError(f"model.factors {self.factors} multiply to {product}, not vocab_size {self.vocab_size}")
        if self.code_loss and not self.factors:
            raise ValueError("model.code_loss needs model.factors: only the digits of a quantiser have an order")


@dataclass(frozen=True)
class STConfig(Modulated, Tokens):
    """ST-Transformer of the compression track (SYSTEMS.md section 1).  Defaults are the published model."""

    module: ClassVar[str] = "hwm.models.st_transformer:STTransformer"
    prediction_settings: ClassVar[tuple[str, ...]] = ("state_gate",)

    family: Literal["st"] = "st"
    clock: Literal["blocks", "frames"] = "blocks"
    """Frames of a grid.  blocks: 1, 8 and 8 of a block of 17.  frames: one, as in 1X's v1.1 release."""
    context_grids: Rows = 3
    future_grids: Rows = 3
    num_layers: Layers = 24
    attention: Literal["spatiotemporal", "full"] = "spatiotemporal"
    """full: places see all of the grids up to theirs, not their own alone; all else, weights included, is the same (ours)."""
    dropout: Part = 0.1
    qk_norm: bool = True
    qkv_bias: bool = True
    num_states: Rows = 64
    """State rows read, from the first context frame: the 34 frames of two blocks and look-ahead, of which `state_pooling`
    "frames" uses one row, through the convolution, and "adaptive" all."""
    state_hidden: Width = 2048
    state_offset: Annotated[int, Range(-10_000, 10_000)] = 0
    """Frames by which the state rows run ahead of the frames."""
    state_pooling: Literal["frames", "adaptive"] = "frames"
    state_alignment: Literal["target", "current", "past"] = "target"
    """The states that the step which predicts a grid sees: of that grid; of the one before it, with one row more by the
    convolution; or of none later than that one (v1.1's rule)."""
    state_injection: Literal["add", "modulate"] = "add"
    """add: the step's state vector is added to all its tokens (the paper).  modulate: it also scales and shifts every
    normalisation, from zero (ours; small models learn to use states sooner)."""
    loss_on: Literal["future", "all"] = "future"
    scheduled_sampling: Share = 0.0
    """Probability that an input token of the future is the model's own prediction instead of the truth."""
    own_grids: Annotated[int, Range(0, 10_000)] = 0
    """Above 0: that share of clips is fed that many future grids wholly predicted, one after the other (ours).  0: token by
    token, all predicted in one pass over the true ones."""

    @property
    def modulated(self) -> bool:
        """With state_injection "modulate"."""
        return self.state_injection == "modulate"


@dataclass(frozen=True)
class MaskedConfig(Streams, Tokens):
    """Masked-HWM (SYSTEMS.md section 2).  Defaults are the published base variant."""

    module: ClassVar[str] = "hwm.models.masked:MaskedHWM"
    prediction_settings: ClassVar[tuple[str, ...]] = ("steps", "temperature", "remask", "state_gate")
    gone: ClassVar[dict[str, object]] = {"place_context": False}

    family: Literal["masked"] = "masked"
    num_layers: Layers = 24
    visibility: Literal["causal", "full", "released"] = "full"
    """Which temporal slots see which (`masked_blocks.slot_visibility`).  full: all (paper section 2.4).  causal: none a later
    one, so that the past is computed once (ours)."""
    qk_norm: bool = False
    learned_positions: bool = True
    """Learned positions added to the tokens beside the rotary ones, as in the release."""
    dropout: Part = 0.4
    """Dropout of the feed-forward layers, as in the release."""
    max_corruption: Share = 0.2
    steps: Steps = 2
    """Refinement steps of a grid in prediction."""
    temperature: Temperature = 0.0
    """Temperature of prediction; 0 takes the most likely token."""
    remask: Literal["random", "confidence"] = "random"
    """Which tokens are predicted again in the next step: a random choice, or the least certain ones."""
