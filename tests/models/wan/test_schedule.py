"""Noise levels as in Wan's own code, and a solver that is exact where it has to be."""

import pytest
import torch

pytest.importorskip("diffusers")

from hwm.models.wan.transformer import scheduler, solve
from hwm.nn.flow_matching import shift_noise


@pytest.mark.parametrize("solver", ["euler", "unipc"])
@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_levels_are_shifted_once(solver, shift):
    """diffusers' own Euler grid ends ..., 0.233, 0.024, 0 for 20 steps (reference wan 9.1); Wan's ends ..., 0.357, 0.208, 0."""
    made = scheduler(solver, num_steps=20, shift=shift, device=torch.device("cpu"))
    wanted = shift_noise(torch.linspace(1, 0, 21), shift)
    assert torch.allclose(made.sigmas.float(), wanted, atol=2e-3)
    if shift == 5.0:
        assert made.sigmas[-3:].tolist() == pytest.approx([0.357, 0.208, 0.0], abs=2e-3)


@pytest.mark.parametrize("solver", ["euler", "unipc"])
def test_a_straight_flow_is_solved_exactly(solver):
    torch.manual_seed(0)
    data, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    levels = []

    def velocity(x, sigma):
        levels.append(sigma)
        assert torch.allclose(x, (1 - sigma) * data + sigma * noise, atol=1e-4)
        return noise - data

    for steps in (1, 4):
        assert torch.allclose(solve(velocity, noise, num_steps=steps, solver=solver, shift=5.0), data, atol=1e-4)
    assert len(levels) == 5


def test_two_solutions_do_not_share_a_state():
    """UniPC remembers earlier velocities: a second solution must not see the first one's."""
    torch.manual_seed(0)
    noise = torch.randn(2, 4)

    def first():
        return solve(lambda x, s: x * s, noise, num_steps=5, solver="unipc", shift=3.0)

    alone = first()
    solve(lambda x, s: -x, 5 * noise, num_steps=7, solver="unipc", shift=3.0)
    assert torch.equal(first(), alone)
