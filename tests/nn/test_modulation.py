"""Modulation by a condition."""

import torch

from hwm.nn.modulation import Modulation


def test_it_starts_as_the_identity_and_learns_from_there():
    modulation, x = Modulation(6, 3), torch.randn(4, 2, 5, 6)
    condition = torch.randn(4, 2, 6)
    for modulate in modulation(condition):
        assert torch.equal(modulate(x), x)
    modulation(condition)[1](x).square().sum().backward()
    assert modulation.linear.weight.grad.abs().sum() > 0


def test_scale_and_shift_are_those_of_the_step_and_fewer_steps_are_the_newest():
    modulation, x = Modulation(6, 2), torch.randn(4, 2, 5, 6)
    torch.nn.init.normal_(modulation.linear.weight)
    condition = torch.randn(4, 2, 6)
    scale, shift = modulation.linear(torch.nn.functional.silu(condition)).chunk(4, -1)[2:]
    expected = x * (1 + scale[:, :, None]) + shift[:, :, None]
    assert torch.allclose(modulation(condition)[1](x), expected)
    assert torch.allclose(modulation(condition)[1](x[-2:]), expected[-2:])
