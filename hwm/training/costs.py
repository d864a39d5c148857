"""What training needs, counted and not run: bytes of weights, of their training state and of activations, and FLOP.

A step runs on fake tensors, which have shapes and types over the meta device and no numbers: nothing is loaded,
computed or allocated, so a model of 5 B parameters is counted on a laptop.  The activations are the tensors that the
CPU's kernels keep for the backward pass; CUDA's keep nearly the same (the mask of dropout is smaller there).  Not
counted: workspace, fragmentation, what lives for a moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode  # where torch documents it
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from hwm.contracts import Batch
from hwm.training.device import autocast

CPU = torch.device("cpu")


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

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        index = args[1] if len(args) > 1 and isinstance(args[1], Tensor) else None
        if func is Tensor.__int__:
            return 0
        if func is Tensor.__getitem__ and index is not None and index.dtype == torch.bool:
            return args[0].flatten(0, index.ndim - 1)
        if func is Tensor.__setitem__ and index is not None and not index.ndim:
            return None
        return func(*args, **(kwargs or {}))
