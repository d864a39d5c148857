"""What a recipe needs, reckoned before anything is loaded: memory by micro-batch, FLOP a step, hours on a card.

All of it is our arithmetic and no measurement: a fifth is added to what is counted, for workspace and fragmentation,
and cards are taken to reach 40 % of their peak.  Method: hwm/training/costs.py.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from hwm.config import FlowConfig, FSQConfig, RunConfig, WanConfig
from hwm.contracts import Batch
from hwm.runs import build_model
from hwm.training.costs import StateCosts, StepCosts, count_state, count_step
from hwm.training.parallel import recompute_blocks

GB = 1e9
WORKSPACE = 1.2
UTILISATION = 0.4
PEAKS = {"H100/H200": 989e12, "A100": 312e12, "RTX 4090": 165e12}
"""Dense bfloat16 products with float32 sums a second, by the makers' data sheets."""
CARDS = (24, 48, 80, 141)
"""Memory of usual cards in GB."""
MICRO_BATCHES = (1, 4, 8, 16, 32)
VIDEO_SIDE = 64
"""Of the frames that tokenizers are trained on where the configuration leaves it to the data."""


@dataclass(frozen=True)
class RecipeCosts:
    """The costs of one configuration.

    plain: of a step that keeps all activations.  checkpointed: of one that recomputes them block by block, where it was
    counted (tokenizers have no stack of blocks).
    """

    config: RunConfig
    state: StateCosts
    plain: StepCosts
    checkpointed: StepCosts | None

    @property
    def step(self) -> StepCosts:
        """As the recipe trains."""
        recomputes = self.config.train.recompute or getattr(self.config.model, "checkpointing", False)
        return self.checkpointed if self.checkpointed and recomputes else self.plain

    def memory(self, clips: int, step: StepCosts | None = None) -> float:
        """Bytes of training with micro-batches of that many clips, workspace included."""
        step = step or self.step
        return WORKSPACE * (self.state.total + step.fixed_bytes + clips * step.clip_bytes)

    def largest(self, card: float, step: StepCosts | None = None) -> int:
        """Clips of the largest micro-batch that fits in `card` bytes; 0 if none does."""
        step = step or self.step
        return max(0, int((card - self.memory(0, step)) // (WORKSPACE * step.clip_bytes)))

    @property
    def clips(self) -> int:
        """Clips of a step in one process."""
        return self.config.train.batch_size * self.config.train.accumulate

    @property
    def step_flop(self) -> int:
        return self.clips * self.step.clip_flop

    @property
    def in_bfloat16(self) -> bool:
        """Whether its large products run in bfloat16, which the peaks are of."""
        return "bfloat16" in (self.config.train.precision, getattr(self.config.model, "dtype", ""))

    def hours(self, peak: float) -> float:
        """Of the whole recipe on one card of that peak."""
        return self.config.train.steps * self.step_flop / (UTILISATION * peak) / 3600

    def as_dict(self) -> dict[str, Any]:
        """All numbers by name, bytes and FLOP."""
        return {
            "state": asdict(self.state),
            "activations_kept": asdict(self.plain),
            "recomputed": asdict(self.checkpointed) if self.checkpointed else None,
            "micro_batch": self.config.train.batch_size,
            "memory_bytes": round(self.memory(self.config.train.batch_size)),
            "step_flop": self.step_flop,
            "hours": {card: self.hours(peak) for card, peak in PEAKS.items()} if self.in_bfloat16 else None,
        }


def recipe_costs(config: RunConfig, *, both: bool = True) -> RecipeCosts:
    """Count a configuration.  both: also the way of keeping activations that it does not take, where there are two.

    Raises ValueError for a Wan model where the extra `wan` is not installed.
    """
    state, recomputes = state_costs(config), config.train.recompute or getattr(config.model, "checkpointing", False)
    if isinstance(config.model, WanConfig):
        config_kept = replace(config, model=replace(config.model, checkpointing=False))
    else:
        config_kept = config
    plain, layers = _step(config_kept), getattr(config.model, "num_layers", 0)
    if not layers or not (both or recomputes):
        return RecipeCosts(config, state, plain, None)
    kept = _step(config_kept, recompute=True)
    # In the backward pass one block at a time has its activations again.
    again = (plain.clip_bytes - kept.clip_bytes) // layers
    return RecipeCosts(config, state, plain, replace(kept, clip_bytes=kept.clip_bytes + again))


def state_costs(config: RunConfig) -> StateCosts:
    """Parameters and the memory that does not depend on the batch; far quicker than all costs."""
    return count_state(_on_meta(config), ema=config.train.ema > 0)


def _on_meta(config: RunConfig) -> Any:
    with torch.device("meta"):
        return build_model(config)


def _step(config: RunConfig, *, recompute: bool = False) -> StepCosts:
    """Costs of a step.  The blocks of a stack are alike, so two short ones tell of a long one."""
    layers = getattr(config.model, "num_layers", 0)
    few = getattr(config.model, "unshared_blocks", 0) + 1
    if layers <= few + 1:
        return _whole_step(config, recompute)
    model: Any = config.model
    less, more = (_whole_step(replace(config, model=replace(model, num_layers=n)), recompute) for n in (few, few + 1))
    return more.combine(less, lambda b, a: a + (layers - few) * (b - a))


def _whole_step(config: RunConfig, recompute: bool = False) -> StepCosts:
    model: Any = config.model
    if hasattr(model, "dropout"):
        # On a CPU attention with dropout is not fused and keeps far more; on a GPU a mask costs a byte an element.
        config = replace(config, model=replace(model, dropout=0.0))
    built = _on_meta(config)
    if recompute:
        recompute_blocks(built)
    return count_step(built, lambda clips: _clips(config, clips), precision=config.train.precision)


def _clips(config: RunConfig, clips: int) -> Batch:
    """Clips as the model wants them, without content."""
    model = config.model
    if isinstance(model, FSQConfig):
        side = config.data.image_size or VIDEO_SIDE
        video = torch.zeros(clips, model.block, side, side, 3, dtype=torch.uint8)
        return Batch(states_BFA=torch.zeros(clips, model.block, 1), video_BFHWC=video)
    states = torch.zeros(clips, model.num_states, model.state_dim)
    grids = model.context_grids + model.future_grids
    if isinstance(model, FlowConfig | WanConfig):
        return Batch(states_BFA=states, latents_BTCHW=torch.zeros(clips, grids, model.channels, *model.grid))
    return Batch(states_BFA=states, tokens_BTHW=torch.zeros(clips, grids, *model.grid, dtype=torch.int64))
