"""The optimiser: which weights decay, the learning rate of every step, AdamW and Muon, and their state by name."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hwm.config import TrainConfig
from hwm.training.stored import Stored

MOMENTUM = 0.95
"""Of Muon: share of the last step's momentum that stays."""
_MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def lr_at(step: int, train: TrainConfig) -> float:
    """Learning rate of update `step`, counted from 0.

    It rises linearly over `warmup_steps` updates to `lr`, then falls to 0 at `steps` ("linear", "cosine") or stays.
    A run that was prolonged does so again from `since` on, over at most a fifth of what it was prolonged by.
    """
    step, steps, warmup = step - train.since, train.steps - train.since, train.warmup_steps
    warmup = min(warmup, steps // 5) if train.since else warmup
    if step < warmup:
        return train.lr * (step + 1) / warmup
    if train.schedule == "constant":
        return train.lr
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return train.lr * (1 - done if train.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done)))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: those that decay and those that do not.

    A model that knows better says so with a method of this name.  Otherwise the rule of the compression track
    (Revontuli report; SYSTEMS.md section 1): the matrices of linear and convolution layers decay; biases, norms,
    embeddings and positions do not.  A matrix that is also an embedding table (tied) does not.
    """
    own = getattr(model, "parameter_groups", None)
    if own is not None:
        return own(weight_decay)
    tables = {id(m.weight) for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}
    matrices = {id(m.weight) for m in model.modules() if isinstance(m, _MATRICES)} - tables
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if id(p) in matrices], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in matrices], "weight_decay": 0.0},
    ]


def optimizer_of(model: nn.Module, train: TrainConfig, *, device: torch.device) -> torch.optim.AdamW:
    """AdamW over the model's groups, fused where the device has it.

    With train.optimizer "muon" the matrices of linear layers and of convolutions go by `Muon`.
    Raises ValueError if a trainable parameter is in no group or in two.
    """
    groups = parameter_groups(model, train.weight_decay)
    grouped = [id(p) for group in groups for p in group["params"]]
    trainable = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    if len(grouped) != len(set(grouped)) or set(grouped) != set(trainable):
        lost = [name for key, name in trainable.items() if key not in grouped]
        raise ValueError(f"{type(model).__name__}.parameter_groups must hold every trainable parameter once; lost: {lost}")
    common: dict[str, Any] = {"lr": train.lr, "betas": train.betas, "fused": device.type in ("cpu", "cuda", "mps")}
    if train.optimizer == "adamw":
        return torch.optim.AdamW([g for g in groups if g["params"]], **common)
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    matrices = {id(m.weight) for m in model.modules() if isinstance(m, _MATRICES)} - tables
    split = [
        group | {"muon": muon, "params": [p for p in group["params"] if (id(p) in matrices) == muon]}
        for group in groups
        for muon in (False, True)
    ]
    dtype = torch.bfloat16 if train.precision == "bfloat16" else torch.float32
    return Muon([g for g in split if g["params"]], dtype=dtype, **common)


class Muon(torch.optim.AdamW):
    """AdamW, but for groups of matrices that are marked "muon": these go by their momentum, made orthogonal (Jordan et al. 2024).

    Every direction that a matrix has seen is stepped into alike, also those of small gradients; a convolution is a matrix
    of its outputs by all that each of them sees.  Steps are scaled by 0.2 sqrt(longer side), so that they are of AdamW's
    size and take its learning rate and decay (Liu et al. 2025, arXiv 2502.16982).  dtype: of the products of matrices that
    make the momentum orthogonal.
    """

    def __init__(self, groups: list[dict[str, Any]], *, dtype: torch.dtype, **common: Any) -> None:
        super().__init__(groups, **common)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update.  The matrices' gradients are used up."""
        for group in self.param_groups:
            for weight in group["params"] if group["muon"] else ():
                if weight.grad is None:
                    continue
                if "momentum" not in self.state[weight]:  # new, or so far AdamW's
                    self.state[weight] = {"momentum": torch.zeros_like(weight)}
                state = self.state[weight]
                momentum = state["momentum"].lerp_(weight.grad, 1 - MOMENTUM)
                ahead = weight.grad.lerp(momentum, MOMENTUM).flatten(1)
                towards = orthogonal(ahead.to(self.dtype)).to(weight.dtype)
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(towards.view(weight.shape), alpha=-0.2 * group["lr"] * max(towards.shape) ** 0.5)
                weight.grad = None
        super().step()


def orthogonal(matrix: Tensor) -> Tensor:
    """The matrix with singular values brought near 1, to between 0.7 and 1.2, by five steps of a Newton-Schulz iteration."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state flattened to "exp_avg.<parameter name>" and so on: no pickle, no order of parameters."""
    return {
        f"{key}.{name}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, stored: Stored, *, where: Path) -> None:
    """Put back what `optimizer_tensors` gave; raises ValueError, naming `where`, for what the model does not have."""
    parameters, targets = dict(model.named_parameters()), {}
    for entry, size in stored.sizes("optimizer").items():
        key, _, name = entry.partition(".")
        parameter = parameters.get(name)
        if parameter is None or (size.ndim and size.shape != parameter.shape) or not size.is_floating_point():
            found = f"{size.dtype} {tuple(size.shape)}"
            raise ValueError(f"{where}: optimizer state {entry!r}, {found}, belongs to no parameter of this model")
        # In the parameter's own memory format: the fused kernel walks both in the order of their memory.
        like = parameter if size.ndim else torch.empty((), device=parameter.device)
        targets[entry] = torch.empty_like(like, dtype=size.dtype, requires_grad=False)
        optimizer.state[parameter][key] = targets[entry]
    stored.read_into("optimizer", targets)


class Ema:
    """A smoother model for validation and prediction: the float32 average of every trainable parameter.

    After each update average += (1 - d) * (weight - average).

    decay: the final d.  Early on d is (1 + n) / (10 + n) after n updates, where that is smaller, so that the random
    initial weights are forgotten in short runs (our choice; with a fixed d they would linger for 1 / (1 - d) steps).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average = {n: p.detach().float().clone() for n, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module, num_updates: int) -> None:
        """Take in the weights after update number `num_updates`, counted from 1."""
        decay = min(self.decay, (1 + num_updates) / (10 + num_updates))
        for name, parameter in model.named_parameters():
            if name in self.average:
                self.average[name].lerp_(parameter.float(), 1 - decay)

    def load(self, stored: Stored, *, where: Path) -> None:
        """Put back a stored average; raises ValueError, naming `where`, if it belongs to another model."""
        if {n: t.shape for n, t in stored.sizes("ema").items()} != {n: t.shape for n, t in self.average.items()}:
            raise ValueError(f"{where}: the average of the weights belongs to another model")
        stored.read_into("ema", self.average)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Run the block with the averaged weights in the model; the trained ones come back bit for bit."""
        parameters = {n: p for n, p in model.named_parameters() if n in self.average}
        trained = {n: p.detach().clone() for n, p in parameters.items()}

        @torch.no_grad()
        def put(values: dict[str, Tensor]) -> None:
            for name, parameter in parameters.items():
                parameter.copy_(values[name])

        put(self.average)
        try:
            yield
        finally:
            put(trained)
