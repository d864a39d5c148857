"""What a recipe needs, reckoned before anything is loaded: memory by micro-batch, FLOP a step, hours on a card.

A step runs on fake tensors, which have shapes and types over the meta device and no numbers: nothing is loaded, computed
or allocated, so a model of 5 B parameters is counted on a laptop.  The activations are the tensors that the CPU's
kernels keep for the backward pass; CUDA's keep nearly the same (the mask of dropout is smaller there).  Not counted is
what lives for a moment: a fifth is added, for workspace and fragmentation, and cards are taken to reach 40 % of their peak.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode  # where torch documents it
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from hwm.config import RunConfig
from hwm.contracts import Batch
from hwm.models.build import build_model
from hwm.training.device import autocast
from hwm.training.parallel import recompute_blocks

CPU = torch.device("cpu")
GB = 1e9
WORKSPACE = 1.2
UTILISATION = 0.4
PEAKS = {"H100/H200": 989e12, "A100": 312e12, "RTX 4090": 165e12}
"""Dense bfloat16 products with float32 sums a second, by the makers' data sheets."""
CARDS = (24, 48, 80, 141)
"""Memory of usual cards in GB."""
MICRO_BATCHES = (1, 4, 8, 16, 32)


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
        return not {"bfloat16", "auto"}.isdisjoint((self.config.train.precision, getattr(self.config.model, "dtype", "")))

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
    model: Any = config.model
    config_kept = replace(config, model=replace(model, checkpointing=False)) if getattr(model, "checkpointing", False) else config
    plain, layers = _step(config_kept), getattr(config.model, "num_layers", 0)
    if not layers or not (both or recomputes):
        return RecipeCosts(config, state, plain, None)
    kept = _step(config_kept, recompute=True)
    # In the backward pass one block at a time has its activations again.
    again = (plain.clip_bytes - kept.clip_bytes) // layers
    return RecipeCosts(config, state, plain, replace(kept, clip_bytes=kept.clip_bytes + again))


def attention_pairs(config: RunConfig) -> int:
    """Pairs of places that are held against each other in one layer and head, for the training loss of one clip.

    Counted while models of two layers and of one run on fake tensors, for the last layer may do less; pairs that a causal mask
    hides inside a call count too.  config: of a family whose layers are alike.
    """
    model: Any = config.model
    one, two = (_pairs(replace(config, model=replace(model, num_layers=n, dropout=0.0))) for n in (1, 2))
    return two - one


def _pairs(config: RunConfig) -> int:
    model: Any = config.model
    built, counter = _on_meta(config), FlopCounterMode(display=False, custom_mapping=_ATTENTION)
    with FakeTensorMode(allow_non_fake_inputs=True), _AnyContent():
        built.to_empty(device=CPU).train()
        with counter, torch.no_grad():
            built.loss(model.example(1, image_size=config.data.image_size), generator=torch.Generator())
    products = ("attention", "bmm")  # fused, and over the few grids of a place as products of batches; layers are plain products
    flop = sum(n for name, n in counter.get_flop_counts()["Global"].items() if any(word in str(name) for word in products))
    return round(flop / (4 * model.width))  # a pair takes a product of rows for its score and one for its value, over all heads


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
    size = config.data.image_size
    precision = "float32" if config.train.precision == "float32" else "bfloat16"
    return count_step(built, lambda clips: model.example(clips, image_size=size), precision=precision)


@dataclass(frozen=True)
class StateCosts:
    """What is there whatever the batch; bytes, but for the two numbers of parameters."""

    parameters: int
    trainable_parameters: int
    frozen_weights: int
    trained_weights: int
    gradients: int
    moments: int
    """Of AdamW, two a weight."""
    average: int
    """The moving average of the weights, float32."""

    @property
    def total(self) -> int:
        return self.frozen_weights + self.trained_weights + self.gradients + self.moments + self.average


@dataclass(frozen=True)
class StepCosts:
    """What a batch adds: bytes kept for the backward pass once and for every clip, and FLOP of a clip's step."""

    fixed_bytes: int
    """Whatever the batch, such as copies of the weights in bfloat16."""
    clip_bytes: int
    clip_flop: int

    def combine(self, other: StepCosts, function: Callable[[int, int], int]) -> StepCosts:
        """`function` of every number of this one and of `other`."""
        mine, theirs = vars(self), vars(other)
        return StepCosts(**{name: function(mine[name], theirs[name]) for name in mine})


def count_state(model: nn.Module, *, ema: bool) -> StateCosts:
    """Memory of a model, on any device, and of AdamW for what of it is trained.  ema: whether an average is kept."""
    trained = [p for p in model.parameters() if p.requires_grad]
    frozen = [p for p in model.parameters() if not p.requires_grad]
    return StateCosts(
        parameters=sum(p.numel() for p in (*trained, *frozen)),
        trainable_parameters=sum(p.numel() for p in trained),
        frozen_weights=_bytes((*frozen, *model.buffers())),
        trained_weights=_bytes(trained),
        gradients=_bytes(trained),
        moments=2 * _bytes(trained),
        average=4 * sum(p.numel() for p in trained) if ema else 0,
    )


def count_step(model: Any, batch: Callable[[int], Batch], *, precision: str) -> StepCosts:
    """Costs of the forward and backward pass of a loss.

    model: freshly built on the meta device (nn.Module and contracts.WorldModel); it becomes a model of fake tensors.
    batch: makes clips, given their number.  precision: of TrainConfig.
    What depends on the content of a batch is taken at its largest: masks hide every token.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), _AnyContent():
        model.to_empty(device=CPU).train()
        (one, one_flop), (two, two_flop) = (_measured_step(model, batch(clips), precision) for clips in (1, 2))
    return StepCosts(fixed_bytes=2 * one - two, clip_bytes=two - one, clip_flop=two_flop - one_flop)


def _measured_step(model: Any, batch: Batch, precision: str) -> tuple[int, int]:
    """Bytes kept for the backward pass of a batch, and FLOP of its forward and backward pass."""
    given = [value for value in vars(batch).values() if value is not None]
    known = {_storage(tensor) for tensor in (*model.parameters(), *model.buffers(), *given)}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in known:
            kept[_storage(tensor)] = tensor  # by storage: views of one tensor are kept once
        return tensor

    counter = FlopCounterMode(display=False, custom_mapping=_ATTENTION)
    with counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(CPU, precision):
            loss = model.loss(batch, generator=torch.Generator())["loss"]
        loss.backward()
    model.zero_grad()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()), counter.get_total_flops()


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


_aten = torch.ops.aten
_ATTENTION: dict[Any, Any] = {
    _aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *rest, **named: sdpa_flop_count(q, k, v),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda gradient, q, k, v, *rest, **named: sdpa_backward_flop_count(gradient, q, k, v)
    ),
}
"""torch counts fused attention on CUDA only; on a CPU it is the same arithmetic."""


class _AnyContent(TorchFunctionMode):
    """Answers for tensors without numbers: a number is 0, a mask of booleans chooses every row."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        index = args[1] if len(args) > 1 and isinstance(args[1], Tensor) else None
        if func is Tensor.__int__:
            return 0
        if func is Tensor.__getitem__ and index is not None and index.dtype == torch.bool:
            return args[0].flatten(0, index.ndim - 1)
        if func is Tensor.__setitem__ and index is not None and not index.ndim:
            return None
        return func(*args, **(kwargs or {}))
