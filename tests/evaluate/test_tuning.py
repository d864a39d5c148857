import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusing import refused

from hwm.evaluate.metrics import PSNR_CAP, psnr
from hwm.evaluate.tuning import SIGMAS, Tuner, fit_saturation, largest_tolerance, set_apart
from hwm.predict.ensemble import gaussian_blur


def mse(psnr):
    return 255**2 / 10 ** (psnr / 10)


def test_it_extrapolates_the_papers_figures():
    fit = fit_saturation([1, 5], [mse(22.63), mse(24.52)])
    assert fit.psnr_at(1) == pytest.approx(22.63) and fit.psnr_at(5) == pytest.approx(24.52)
    assert round(fit.psnr_at(4), 1) == 24.4 and round(fit.psnr_at(8), 2) == 24.75
    assert round(fit.psnr_at(20), 1) == 25.0 and round(fit.psnr_limit, 1) == 25.2
    assert not fit.clipped


@given(floor=st.floats(1, 500), variance=st.floats(1, 500), sizes=st.sets(st.integers(1, 100), min_size=2, max_size=6))
@settings(max_examples=50, deadline=None)
def test_exact_curves_are_found_again(floor, variance, sizes):
    sizes = sorted(sizes)
    found_floor, found_variance = fit_saturation(sizes, [floor + variance / n for n in sizes])
    assert found_floor == pytest.approx(floor, rel=1e-6, abs=1e-6)
    assert found_variance == pytest.approx(variance, rel=1e-6, abs=1e-6)


def test_noisy_points_give_the_least_squares():
    sizes, errors = [1, 2, 5, 10], [310.0, 240.0, 225.0, 200.0]
    best = fit_saturation(sizes, errors)

    def squares(floor, variance):
        return sum((floor + variance / n - e) ** 2 for n, e in zip(sizes, errors))

    for change in (-1e-2, 1e-2):
        assert squares(*best) < squares(best.floor + change, best.variance)
        assert squares(*best) < squares(best.floor, best.variance + change)


def test_negative_fits_lie_on_the_border_and_say_so():
    rising = fit_saturation([1, 5], [100.0, 120.0])
    assert rising == (110.0, 0.0) and rising.clipped and rising.psnr_at(50) == rising.psnr_limit
    steep = fit_saturation([1, 2], [100.0, 10.0])
    assert steep.floor == 0 and steep.clipped and steep.psnr_limit == PSNR_CAP
    assert steep.variance == pytest.approx((100 + 5) / 1.25)


@pytest.mark.parametrize(("sizes", "errors", "message"), [
    ([5], [1.0], "two different"), ([5, 5], [1.0, 2.0], "two different"), ([0, 5], [1.0, 2.0], "1 or more"),
    ([1, 5], [1.0], "one error for each"), ([1, 5], [1.0, math.nan], "finite"), ([1, 5], [1.0, -1.0], "not negative")
])
def test_bad_points_are_refused(sizes, errors, message):
    refused(message, fit_saturation, sizes, errors)
    with pytest.raises(ValueError, match="at least 1"):
        fit_saturation([1, 2], [2.0, 1.0]).psnr_at(0)


def test_set_apart():
    tuning, left = set_apart(6, np.array([7, 7, 7, 8, 8, 9]), num_tuning=2)
    assert tuning.tolist() == [0, 1] and left.tolist() == [3, 4, 5]
    assert [part.tolist() for part in set_apart(4, None, num_tuning=2)] == [[0, 1], [2, 3]]
    refused("--tuning", set_apart, 6, np.array([7, 7, 7, 7, 7, 9]), num_tuning=2)


def test_the_blend_takes_the_largest_tolerance_of_little_cost():
    assert largest_tolerance([20.0, 20.1, 19.96, 19.94, 19.951], (0, 1, 2, 3, 4)) == 4
    assert largest_tolerance([20.0, 19.9], (0, 1)) == 0


def test_the_chosen_blur_is_the_one_of_best_psnr_and_the_smallest_of_equals():
    g = torch.Generator().manual_seed(5)
    truth = gaussian_blur(torch.randint(0, 256, (4, 32, 32, 3), generator=g).to(torch.uint8), sigma=2)
    noisy = (truth.int() + torch.randint(-60, 61, truth.shape, generator=g)).clamp(0, 255).to(torch.uint8)
    tuner = Tuner()
    for part in (slice(0, 3), slice(3, 4)):
        tuner.add(tuner.measure(noisy[part, None], truth[part], truth[part]))
    found = tuner.choose("here")
    scores = [psnr(gaussian_blur(noisy, sigma=sigma), truth).mean() for sigma in SIGMAS]
    assert found.sigma_sample == SIGMAS[int(np.argmax(scores))] and 0.5 < found.sigma_sample < 6
    assert found.sigma_copy == 0 and found.num_clips == 4
