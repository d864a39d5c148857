import numpy as np
import pytest
import torch
import torch.nn.functional as F
from refusing import refused

from hwm.clock import COSMOS
from hwm.nn.states import ActionEncoder, StateEncoder, state_pooling
from hwm.nn.units import fill
from hwm.robot import EVE, normalisation


def test_frames_pooling_takes_the_frames_of_each_grid():
    weights = state_pooling(COSMOS, 6, num_states=64)
    groups = [(0, 1), (1, 9), (9, 17), (17, 18), (18, 26), (26, 34)]
    expected = np.zeros((6, 64), np.float32)
    for grid, (first, end) in enumerate(groups):
        expected[grid, first:end] = 1 / (end - first)
    np.testing.assert_array_equal(weights, expected)


@pytest.mark.parametrize("offset", [-2, 1, 5])
def test_offset_shifts_the_rows(offset):
    plain, shifted = (state_pooling(COSMOS, 6, num_states=64, offset=o) for o in (0, offset))
    for grid in range(1, 6):
        rows, moved = np.flatnonzero(plain[grid]), np.flatnonzero(shifted[grid])
        np.testing.assert_array_equal(moved, [r + offset for r in rows if r + offset >= 0])


@pytest.mark.parametrize("num_states", [6, 34, 64])
def test_adaptive_pooling_is_adaptive_average_pooling(num_states):
    x = torch.randn(2, 3, num_states)
    weights = torch.from_numpy(state_pooling(COSMOS, 6, num_states=num_states, pooling="adaptive"))
    torch.testing.assert_close(x @ weights.t(), F.adaptive_avg_pool1d(x, 6))


def test_rows_sum_to_one_or_are_empty():
    weights = state_pooling(COSMOS, 6, num_states=20)
    np.testing.assert_allclose(weights.sum(1), [1, 1, 1, 1, 1, 0], rtol=1e-6)


def encoder(num_states=34, width=8):
    torch.manual_seed(0)
    module = StateEncoder(state_pooling(COSMOS, 6, num_states=num_states), state_dim=25, hidden=12, width=width)
    torch.nn.init.normal_(module.positions)
    return module


def test_equals_the_written_out_form():
    module, states = encoder(), torch.randn(2, 40, 25)
    fill(module.shift_scale, normalisation(np.array(EVE.mean), np.array(EVE.std)), "state statistics")
    shift, scale = normalisation(np.array(EVE.mean), np.array(EVE.std))
    x = (states[:, :34] - torch.tensor(shift)) * torch.tensor(scale)
    first, second = module.mlp[0], module.mlp[2]
    x = F.linear(F.gelu(F.linear(x, first.weight, first.bias)), second.weight, second.bias)
    padded = F.pad(x, (0, 0, 1, 1))
    rows = sum(padded[:, i : i + 34] @ module.conv.weight[:, :, i].t() for i in range(3)) + module.conv.bias
    rows = rows + module.positions
    expected = torch.stack([rows[:, a:b].mean(1) for a, b in (COSMOS.span(g) for g in range(6))], 1)
    torch.testing.assert_close(module(states), expected)


def test_look_ahead_rows_reach_the_last_grid_through_the_convolution_only():
    module, states = encoder(num_states=64), torch.randn(1, 64, 25)
    base = module(states)
    for row, reaches in ((34, True), (35, False), (63, False)):
        changed = states.clone()
        changed[:, row] += 1
        assert ((module(changed) != base).any(2)[0].nonzero().flatten().tolist() == [5]) == reaches


def test_wrong_shapes_are_refused():
    module = encoder()
    refused("34 state rows of width 25", module, torch.zeros(1, 33, 25))
    refused("34 state rows of width 25", module, torch.zeros(1, 34, 24))
    refused(r"shape \(2, 25\)", fill, module.shift_scale, torch.zeros(25), "state statistics")


def test_action_tokens_equal_the_written_out_form():
    torch.manual_seed(0)
    pooling = state_pooling(COSMOS, 3, num_states=17)
    module, states = ActionEncoder(pooling, state_dim=25, width=8, mlp_ratio=4), torch.randn(2, 20, 25)
    assert (module.positions == 0).all()
    torch.nn.init.normal_(module.positions)
    fill(module.shift_scale, normalisation(np.array(EVE.mean), np.array(EVE.std)), "state statistics")
    shift, scale = normalisation(np.array(EVE.mean), np.array(EVE.std))
    x = (states[:, :17] - torch.tensor(shift)) * torch.tensor(scale)
    for layer in module.mlp[::2]:
        x = F.linear(x, layer.weight, layer.bias)
        x = x if layer is module.mlp[4] else F.gelu(x)
    x = F.layer_norm(x, (8,), module.norm.weight, module.norm.bias) + module.positions
    expected = torch.stack([x[:, 0], x[:, 1:9].mean(1), x[:, 9:17].mean(1)], 1)
    torch.testing.assert_close(module(states), expected)
    assert [tuple(layer.weight.shape) for layer in module.mlp[::2]] == [(8, 25), (32, 8), (8, 32)]
    refused("17 state rows of width 25", module, states[:, :16])


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("kind", [StateEncoder, ActionEncoder])
def test_the_order_of_rows_inside_a_grid_counts_where_asked(kind, ordered):
    torch.manual_seed(0)
    sizes = {"hidden": 12} if kind is StateEncoder else {"mlp_ratio": 4}
    module = kind(state_pooling(COSMOS, 3, num_states=17), state_dim=25, width=8, ordered=ordered, **sizes)
    torch.nn.init.normal_(module.positions)
    states = torch.randn(1, 17, 25)
    swapped = states[:, [0, 1, 2, 3, 5, 4, 6, 7, 8, *range(9, 17)]]  # two rows well inside the second grid
    change = (module(states) - module(swapped)).abs().amax(2)[0]
    assert (change[1] > 1e-3) == ordered and change[0] < 1e-6 and change[2] < 1e-6
