"""Closed forms of the schedules, the average and AdamW's bookkeeping."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusing import refused
from tiny_training import build
from torch import nn

from hwm.config import TrainConfig
from hwm.training.optim import Ema, load_optimizer_tensors, lr_at, optimizer_of, optimizer_tensors, orthogonal, parameter_groups
from hwm.training.stored import Stored, write_whole

CPU = torch.device("cpu")


@pytest.mark.parametrize(("schedule", "steps", "warmup", "lr", "rates"), [
    ("linear", 10, 4, 8.0, [2, 4, 6, 8, 8, 8 * 5 / 6, 8 * 4 / 6, 4, 8 * 2 / 6, 8 / 6, 0]),
    ("cosine", 12, 2, 2.0, {0: 1, 1: 2, 2: 2, 4: 1 + math.cos(0.2 * math.pi), 7: 1, 12: 0, 99: 0}),
    ("constant", 5, 2, 3.0, [1.5, 3, 3, 3, 3, 3, 3])
])
def test_schedules_have_their_closed_forms(schedule, steps, warmup, lr, rates):
    train = TrainConfig(steps=steps, warmup_steps=warmup, lr=lr, schedule=schedule)
    rates = rates if isinstance(rates, dict) else dict(enumerate(rates))
    assert [lr_at(step, train) for step in rates] == pytest.approx(list(rates.values()))


@given(st.integers(1, 50), st.integers(0, 60), st.sampled_from(["linear", "cosine", "constant"]))
def test_every_update_has_a_rate_in_range_that_rises_then_falls(steps, warmup, schedule):
    train = TrainConfig(steps=steps, warmup_steps=warmup, lr=1.0, schedule=schedule)
    rates = [lr_at(s, train) for s in range(steps)]
    assert all(0 < r <= 1 for r in rates)
    top = min(warmup, steps)
    assert rates[:top] == sorted(rates[:top]) and rates[top:] == sorted(rates[top:], reverse=True)


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.positions = nn.Parameter(torch.randn(3, 4))
        self.conv = nn.Conv1d(4, 4, 3)
        self.norm = nn.LayerNorm(4)
        self.linear = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 7, bias=False)
        self.tied.weight = self.table.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)

    def forward(self):
        return (self.conv(self.table.weight.T).T.mean(0) * self.positions.sum(0) + self.linear(self.norm(self.positions))).sum()


def names(model, group):
    known = {id(p): n for n, p in model.named_parameters()}
    return {known[id(p)] for p in group["params"]}


def test_only_matrices_of_linear_and_convolution_layers_decay():
    model = Mixed()
    decayed, free = parameter_groups(model, 0.05)
    assert names(model, decayed) == {"conv.weight", "linear.weight"} and decayed["weight_decay"] == 0.05
    assert names(model, free) == {"table.weight", "positions", "conv.bias", "norm.weight", "norm.bias", "linear.bias"}
    assert free["weight_decay"] == 0


def test_a_model_may_choose_its_own_groups_but_must_not_lose_a_parameter():
    model = build()
    groups = parameter_groups(model, 0.05)
    assert not any("bias" in n or "norm" in n or "positions" in n for n in names(model, groups[0]))
    for kind in ("adamw", "muon"):
        groups = optimizer_of(model, TrainConfig(optimizer=kind), device=CPU).param_groups
        assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    model.parameter_groups = lambda weight_decay: [{"params": list(model.blocks.parameters()), "weight_decay": 0.0}]
    refused(r"must hold every trainable parameter once; lost: .*place_positions", optimizer_of, model, TrainConfig(), device=CPU)


@pytest.mark.parametrize("shape", [(5, 5), (4, 9), (30, 6)])
def test_a_momentum_made_orthogonal_turns_no_direction_and_levels_their_sizes(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
    sizes = torch.linspace(3.0, 0.3, len(sizes), dtype=torch.float64)
    inside = left.T @ orthogonal(left * sizes @ right) @ right.T
    levels = inside.diagonal()
    assert torch.allclose(inside, levels.diag(), atol=1e-12)
    assert 0.5 < levels.min() and levels.max() < 1.3


def test_muon_steps_as_far_as_adamw_would_in_matrices_of_layers_alone():
    """A first step: every entry by about the learning rate, less decay; of one direction it has the sign of the gradient."""
    torch.manual_seed(0)
    model, same = Mixed(), Mixed()
    same.load_state_dict(model.state_dict())
    train = TrainConfig(lr=0.01, weight_decay=0.1)
    for net, kind in ((model, "muon"), (same, "adamw")):
        optimizer = optimizer_of(net, dataclasses.replace(train, optimizer=kind), device=CPU)
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        net().backward()
        gradients = {name: net.get_parameter(name).grad.clone() for name in ("linear.weight", "conv.weight")}
        optimizer.step()
    ours, theirs = dict(model.named_parameters()), dict(same.named_parameters())
    assert {name for name in ours if not torch.equal(ours[name], theirs[name])} == gradients.keys()
    for name, gradient in gradients.items():
        step = (before[name] * (1 - 0.01 * 0.1) - ours[name]).flatten(1)
        expected = 0.2 * 0.01 * max(step.shape) ** 0.5 * orthogonal(gradient.flatten(1))
        assert torch.allclose(step, expected, atol=1e-7) and expected.abs().max() > 1e-4
    refused("needs whole matrices", TrainConfig, optimizer="muon", parallel="fsdp")


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_optimizer_state_goes_by_name_and_comes_back(tmp_path, kind):
    torch.manual_seed(0)
    train = TrainConfig(lr=0.1, optimizer=kind)
    one, two = Mixed(), Mixed()
    two.load_state_dict(one.state_dict())
    first, second = optimizer_of(one, train, device=CPU), optimizer_of(two, train, device=CPU)

    def stored(tensors):
        write_whole(tmp_path / "optimizer.safetensors", tensors)
        return Stored([tmp_path / "optimizer.safetensors"])

    def step(model, optimizer):
        model().backward()
        optimizer.step()
        optimizer.zero_grad()

    step(one, first)
    tensors = {k: v.clone() for k, v in optimizer_tensors(one, first).items()}
    assert {"exp_avg.positions", "exp_avg_sq.positions", "step.positions"} <= tensors.keys()
    assert not any("frozen" in name for name in tensors)
    for matrix in ("linear.weight", "conv.weight"):
        assert (f"momentum.{matrix}" in tensors) == (kind == "muon") != (f"exp_avg.{matrix}" in tensors)
    two.load_state_dict(one.state_dict())
    load_optimizer_tensors(two, second, stored(tensors), where=tmp_path / "o")
    step(one, first)
    step(two, second)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters()))
    assert tensors["step.positions"] == 1  # What was loaded is a copy.
    for entry, value in {"exp_avg.nothing": torch.zeros(1), "exp_avg.positions": torch.zeros(2)}.items():
        refused("belongs to no parameter", load_optimizer_tensors, two, second, stored({entry: value}), where=tmp_path / "o")


def test_average_of_the_weights():
    """With weights w_n = n: a_n = d a_(n-1) + (1 - d) n, whose solution is n - d / (1 - d) (1 - d^n) from a_0 = 0."""
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.zero_()
    ema, decay, updates = Ema(model, 0.5), 0.5, 40
    for n in range(1, updates + 1):
        model.weight.data.fill_(n)
        ema.update(model, 1_000_000)  # late in a run: the decay is the final one
    assert ema.average["weight"].item() == pytest.approx(updates - decay / (1 - decay) * (1 - decay**updates))


def test_average_forgets_the_start_early_on():
    """While d = (1 + n) / (10 + n), the share of the initial weights is 10! (n + 1)! / (n + 10)!."""
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1)
    ema = Ema(model, 0.999)
    model.weight.data.zero_()
    for n in range(1, 21):
        ema.update(model, n)
    assert ema.average["weight"].item() == pytest.approx(math.factorial(10) * math.factorial(21) / math.factorial(30), rel=1e-5)


def test_average_is_float32_and_leaves_the_trained_weights_bit_equal(tmp_path):
    model = nn.Linear(3, 3).to(torch.bfloat16)
    trained = {n: p.clone() for n, p in model.named_parameters()}
    ema = Ema(model, 0.9)
    assert all(t.dtype == torch.float32 for t in ema.average.values())
    ema.average["weight"].zero_()
    with pytest.raises(RuntimeError, match="inside"), ema.applied(model):
        assert not model.weight.any() and model.weight.dtype == torch.bfloat16
        raise RuntimeError("inside")
    assert all(torch.equal(p, trained[n]) for n, p in model.named_parameters())
    with pytest.raises(ValueError, match="another model"):
        write_whole(tmp_path / "ema.safetensors", {"weight": torch.zeros(2, 2)})
        ema.load(Stored([tmp_path / "ema.safetensors"]), where=tmp_path)
