"""How a model computes on one process or many: whole copies (DDP), shares (FSDP2), compiled or recomputed blocks.

Whatever is chosen, the loop calls `loss` and finds in every parameter the gradient of the whole step's loss.
The model stays what it is: names in checkpoints, methods and configuration do not change.
"""

import functools
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint as recomputed

from hwm.config import TrainConfig
from hwm.contracts import Batch
from hwm.training.processes import Processes

METHODS = ("loss", "validate", "predict", "encode", "decode")
"""Methods through which a model is used beside forward: FSDP gathers its weights for them."""
BLOCK_METHODS = ("vectors",)
"""The same for blocks (Flow's modulation)."""


class Parallel:
    """A model made ready for the processes, in place; it must lie on its device already.

    Raises ValueError if blocks shall be compiled without a C++ compiler.
    """

    def __init__(self, model: Any, train: TrainConfig, processes: Processes, device: torch.device) -> None:
        self.model, self.world = model, processes.world
        blocks = list(model.blocks)
        if train.compile:
            _expect_compiler(device)
            for block in blocks:
                block.forward = _while_learning(torch.compile(block.forward), block.forward)
        if train.recompute and not getattr(model.config, "checkpointing", False):  # Wan may bring its own
            recompute_blocks(model)
        self._ddp: DistributedDataParallel | None = None
        self._shared = self.world > 1 and train.parallel == "fsdp"
        if self._shared:
            _shard(model, blocks, self.world, device)
        elif self.world > 1:
            # Idle weights exist (Masked-HWM's last block; reference counts include them).  Looking for them every step
            # also keeps the order of summation the same after a restart, which rebuilt buckets would change.
            places = [torch.cuda.current_device()] if device.type == "cuda" else None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of broadcast_buffers, whose successor older versions lack
                self._ddp = DistributedDataParallel(
                    _Loss(model), device_ids=places, find_unused_parameters=True, broadcast_buffers=False,
                    gradient_as_bucket_view=True,
                )

    def loss(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """The model's loss."""
        if self._ddp is not None:
            return self._ddp(batch, generator)
        return self.model.loss(batch, generator=generator)

    @contextmanager
    def micro_step(self, *, last: bool) -> Iterator[None]:
        """One forward and backward pass; only after the last of a step gradients are summed over processes."""
        quiet: AbstractContextManager[Any] = nullcontext()
        if self._ddp is not None and not last:
            quiet = self._ddp.no_sync()
        elif self._shared:
            self.model.set_requires_gradient_sync(last)
        with quiet:
            yield


def recompute_blocks(model: Any) -> None:
    """From now on the blocks keep only their inputs for the backward pass."""
    for block in model.blocks:
        block.forward = _while_learning(_recomputing(block.forward), block.forward)


def _recomputing(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward` of which the inputs alone are kept, also tensors in lists and dicts (torch sees only bare arguments)."""

    def run(*args: Any, **kwargs: Any) -> Any:
        leaves, structure = tree_flatten((args, kwargs))

        def again(*leaves: Any) -> Any:
            args, kwargs = tree_unflatten(leaves, structure)
            return forward(*args, **kwargs)

        return recomputed(again, *leaves, use_reentrant=False)

    return run


class _Loss(nn.Module):
    """The loss as a forward pass: DDP hooks into no other method."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        return self.model.loss(batch, generator=generator)


def _while_learning(forward: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """`forward` where gradients are wanted; prediction keeps nothing anyway, and its many shapes would all be compiled."""

    @functools.wraps(plain)
    def chosen(*args: Any, **kwargs: Any) -> Any:
        return (forward if torch.is_grad_enabled() else plain)(*args, **kwargs)

    return chosen


def _shard(model: nn.Module, blocks: list[nn.Module], world: int, device: torch.device) -> None:
    from torch.distributed.device_mesh import init_device_mesh  # here, as it takes a second
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
    mesh = init_device_mesh(device.type, (world,))
    for block in blocks:
        fully_shard(block, mesh=mesh)
        for name in BLOCK_METHODS:
            if hasattr(block, name):
                register_fsdp_forward_method(block, name)
    # The root too is given up after every pass: validation swaps averaged weights in, and copies must not outlive it.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for name in METHODS:
        if hasattr(model, name):
            register_fsdp_forward_method(model, name)


def _expect_compiler(device: torch.device) -> None:
    if device.type == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        raise ValueError("train.compile on a CPU needs a C++ compiler (g++ or clang++): install one, or set train.compile=false")
