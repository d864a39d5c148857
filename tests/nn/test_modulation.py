"""Modulation by a condition."""

import torch

from hwm.nn.modulation import AdaLNZero, Modulation, normalise


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


def test_vectors_start_at_zero_and_normalise_then_leaves_the_layer_norm():
    vectors, x = AdaLNZero(6, 3)(torch.randn(2, 1, 6)), torch.randn(2, 5, 6)
    assert [v.shape for v in vectors] == [(2, 1, 6)] * 3 and all((v == 0).all() for v in vectors)
    torch.testing.assert_close(normalise(x, *vectors[:2]), torch.nn.functional.layer_norm(x, (6,)))


def test_every_run_of_tokens_has_its_own_vectors():
    x, (shift, scale) = torch.randn(2, 6, 4), torch.randn(2, 2, 3, 4)
    got = normalise(x, shift, scale)
    for run in range(3):
        tokens = slice(2 * run, 2 * run + 2)
        expected = torch.nn.functional.layer_norm(x[:, tokens], (4,)) * (1 + scale[:, run, None]) + shift[:, run, None]
        torch.testing.assert_close(got[:, tokens], expected)
