"""Flow matching against closed forms."""

import math

import pytest
import torch
from seeds import gen

from hwm.nn import flow_matching as flow

SIGMA = 0.1


# The path


@pytest.mark.parametrize("sigma_min", [0.0, 1e-4, 0.3])
def test_path_ends_in_noise_and_data_and_its_derivative_is_the_target(sigma_min):
    noise, data = torch.randn(2, 5, 3, dtype=torch.float64, generator=gen()).unbind()
    ends = [flow.interpolate(noise, data, torch.tensor(t), sigma_min=sigma_min) for t in (0.0, 1.0)]
    torch.testing.assert_close(ends[0], noise)
    torch.testing.assert_close(ends[1], data + sigma_min * noise)
    for t in (0.0, 0.3, 1.0):
        time = torch.full((), t, dtype=torch.float64)
        _, derivative = torch.func.jvp(
            lambda time: flow.interpolate(noise, data, time, sigma_min=sigma_min), (time,), (torch.ones_like(time),)
        )
        torch.testing.assert_close(derivative, flow.target_velocity(noise, data, sigma_min=sigma_min))


def test_times_are_those_of_their_distribution():
    uniform = flow.sample_times((20_000,), "uniform", generator=gen())
    logit = flow.sample_times((20_000,), "logit_normal", generator=gen()).logit()
    assert abs(uniform.mean() - 0.5) < 0.01 and abs(uniform.var() - 1 / 12) < 0.002
    assert abs(logit.mean()) < 0.03 and abs(logit.std() - 1) < 0.03
    assert flow.stratified_times(4).tolist() == [0.125, 0.375, 0.625, 0.875]


def test_time_features_are_cosines_and_sines_of_geometric_frequencies():
    features = flow.time_features(torch.tensor([[0.25], [0.0]]), 6)
    angles = [250 * 10_000 ** (-i / 3) for i in range(3)]
    expected = torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
    assert features.shape == (2, 1, 6)
    torch.testing.assert_close(features[0, 0], expected, atol=1e-4, rtol=0)
    assert features[1, 0].tolist() == [1, 1, 1, 0, 0, 0]


# Solvers


def solve(velocity, x, num_steps, solver="euler", shift=None):
    if solver == "unipc":
        pytest.importorskip("diffusers")
    return flow.SOLVERS[solver](velocity, x, flow.Steps(num_steps, shift))


@pytest.mark.parametrize("solver", flow.SOLVERS)
@pytest.mark.parametrize("shift", [None, 1.0, 5.0])
@pytest.mark.parametrize("num_steps", [1, 3, 8])
def test_solvers_are_exact_for_a_straight_flow(solver, shift, num_steps):
    """On equal and on shifted steps; they ask at points of the straight path, at the noise levels that they name."""
    noise, data = torch.randn(2, 3, 7, generator=gen()).unbind()

    def velocity(x, k, level):
        torch.testing.assert_close(x, (1 - level) * data + level * noise, atol=1e-4, rtol=0)
        assert abs(level - flow.Steps(num_steps, shift).levels[k].item()) < 2e-6
        return data - noise

    torch.testing.assert_close(solve(velocity, noise, num_steps, solver, shift), data, atol=1e-4, rtol=0)


def test_levels_are_shifted_once():
    """diffusers' own Euler grid ends ..., 0.233, 0.024, 0 for 20 steps (reference wan 9.1); Wan's ends ..., 0.357, 0.208, 0."""
    assert flow.Steps(20, 5.0).levels[-3:].tolist() == pytest.approx([0.357, 0.208, 0.0], abs=2e-3)
    torch.testing.assert_close(flow.Steps(4, 1.0).levels, flow.Steps(4).levels)


def test_two_solutions_do_not_share_a_state():
    """UniPC remembers earlier velocities: a second solution must not see the first one's."""
    noise = torch.randn(2, 4, generator=gen())

    def first():
        return solve(lambda x, k, level: -x * level, noise, 5, "unipc", 3.0)

    alone = first()
    solve(lambda x, k, level: x, 5 * noise, 7, "unipc", 3.0)
    assert torch.equal(first(), alone)


@pytest.mark.parametrize("solver, order", [("euler", 1), ("heun", 2)])
def test_halving_the_step_divides_the_error_by_two_to_the_order(solver, order):
    """dx/dt = x cos(3 t) from 1 ends in exp(sin(3) / 3)."""

    def error(n):
        end = solve(lambda x, k, level: x * math.cos(3 * k / n), torch.ones((), dtype=torch.float64), n, solver)
        return abs(end.item() - math.exp(math.sin(3) / 3))

    for n in (64, 128):
        assert abs(error(n) / error(2 * n) / 2**order - 1) < 0.1


def test_solvers_ask_only_for_times_of_the_grid():
    asked = []
    solve(lambda x, k, level: asked.append(k) or x, torch.zeros(1), 3, "heun")
    assert asked == [0, 1, 1, 2, 2, 3]


def test_guidance_is_a_line_through_both_velocities():
    conditional, unconditional = torch.randn(2, 9, generator=gen()).unbind()
    torch.testing.assert_close(flow.guide(conditional, unconditional, 0.0), unconditional)
    torch.testing.assert_close(flow.guide(conditional, unconditional, 1.0), conditional)
    torch.testing.assert_close(flow.guide(conditional, unconditional, 3.0), 3 * conditional - 2 * unconditional)


# Shortcuts


def test_levels_are_the_nearest_powers_of_two():
    asked = {1: 0, 2: 1, 4: 2, 8: 3, 16: 4, 50: 6, 64: 6, 96: 7, 128: 7, 1000: 7}
    assert {n: flow.shortcut_level(n) for n in asked} == asked


def test_shortcuts_start_at_multiples_of_themselves_and_end_by_one():
    levels, times = flow.sample_shortcuts((4000, 2), generator=gen())
    size = 0.5 ** levels.float()[:, None]
    assert torch.equal(times / size, (times / size).round())
    assert times.min() == 0 and ((times + size) <= 1).all()
    assert levels.bincount().tolist() == pytest.approx([4000 / 7] * 7, rel=0.15)
    assert set(times[levels == 2].flatten().tolist()) == {0, 0.25, 0.5, 0.75}


def test_on_straight_flows_two_half_steps_are_one():
    x, v = torch.randn(2, 4, 3, dtype=torch.float64, generator=gen()).unbind()
    torch.testing.assert_close(flow.shortcut_target(lambda x, t: v, x, torch.tensor(0.25), torch.tensor(0.125)), v)


def test_shortcut_target_leads_where_two_steps_lead():
    """For dx/dt = x the exact mean velocity of a step h is x (e^h - 1) / h."""
    x, half = torch.randn(6, dtype=torch.float64, generator=gen()), torch.tensor(0.125, dtype=torch.float64)
    mean = flow.shortcut_target(lambda x, t: x * half.expm1() / half, x, torch.tensor(0.5), half)
    torch.testing.assert_close(x + 2 * half * mean, x * (2 * half).exp())
    seen = []
    flow.shortcut_target(lambda x, t: seen.append(t.item()) or x, x, torch.tensor(0.5), half)
    assert seen == [0.5, 0.625]


# A linear-Gaussian toy: data from N(mean, covariance), where the best velocity is known


MEAN = torch.tensor([0.7, -0.4])
ROOT = torch.tensor([[0.8, 0.0], [0.5, 0.3]])
COVARIANCE = ROOT @ ROOT.t()


def best_velocity(x, t):
    """E[data - (1 - sigma) noise | x_t = x], with x_t Gaussian."""
    left, eye = 1 - (1 - SIGMA) * t, torch.eye(2)
    joint = t * COVARIANCE - (1 - SIGMA) * left * eye
    spread = t * t * COVARIANCE + left * left * eye
    return MEAN + (x - t * MEAN) @ torch.linalg.solve(spread, joint)


def assert_moments_of_the_data(samples):
    """The path ends in data + sigma noise."""
    torch.testing.assert_close(samples.mean(0), MEAN, atol=0.03, rtol=0)
    torch.testing.assert_close(samples.t().cov(), COVARIANCE + SIGMA**2 * torch.eye(2), atol=0.04, rtol=0)


@pytest.mark.parametrize("solver, num_steps", [("euler", 200), ("heun", 20)])
def test_the_best_velocity_carries_noise_to_the_data(solver, num_steps):
    x = torch.randn(20_000, 2, generator=gen())
    assert_moments_of_the_data(solve(lambda x, k, level: best_velocity(x, k / num_steps), x, num_steps, solver))


def test_the_velocity_to_the_data_is_the_target_velocity_on_its_path() -> None:
    generator = torch.Generator().manual_seed(3)
    noise, data = torch.randn(2, 5, 4, generator=generator).double()
    for time in (0.0, 0.3, 0.9):
        x = flow.interpolate(noise, data, torch.tensor(time).double(), sigma_min=0.01)
        velocity = flow.velocity_to(data, x, torch.tensor(time).double(), sigma_min=0.01)
        torch.testing.assert_close(velocity, flow.target_velocity(noise, data, sigma_min=0.01))
    assert flow.velocity_to(data, x, torch.tensor(1.0).double(), sigma_min=0.0).isfinite().all()
