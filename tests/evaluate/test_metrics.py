import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusing import refused
from scipy.ndimage import gaussian_filter
from scipy.signal import convolve2d
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from hwm.evaluate.metrics import (
    METRICS,
    MOVING,
    PSNR_CAP,
    ROUNDING_ENERGY,
    colour_drift,
    gmsd,
    moving,
    moving_error,
    psnr,
    sharpness,
    ssim,
)
from hwm.evaluate.scenes import View


def pictures(seed, *shape, noise=30):
    g = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, 256, shape, generator=g, dtype=torch.uint8)
    return (truth.int() + torch.randint(-noise, noise + 1, shape, generator=g)).clamp(0, 255).to(torch.uint8), truth


@given(seed=st.integers(0, 1000), height=st.integers(7, 40), width=st.integers(7, 40))
@settings(max_examples=25, deadline=None)
def test_psnr_and_ssim_equal_scikit_image(seed, height, width):
    pred, truth = pictures(seed, 2, height, width, 3)
    for i in range(2):
        a, b = pred[i].numpy(), truth[i].numpy()
        assert psnr(pred, truth)[i].item() == pytest.approx(peak_signal_noise_ratio(b, a, data_range=255), abs=1e-9)
        assert ssim(pred, truth)[i].item() == pytest.approx(structural_similarity(b, a, channel_axis=-1), abs=1e-6)


def test_ssim_is_exact_on_flat_and_extreme_pictures():
    black, stripes = torch.zeros(1, 16, 16, 3, dtype=torch.uint8), torch.zeros(1, 16, 16, 3, dtype=torch.uint8)
    stripes[:, ::2] = 255
    for a, b in [(black, stripes), (stripes, 255 - stripes), (black, 255 - black), (stripes, stripes)]:
        expected = structural_similarity(a[0].numpy(), b[0].numpy(), channel_axis=-1)
        assert ssim(a, b).item() == pytest.approx(expected, abs=1e-6)


def test_psnr_closed_forms():
    truth = torch.full((3, 8, 8, 3), 100, dtype=torch.uint8)
    pred = truth + torch.tensor([0, 1, 255 - 100], dtype=torch.uint8).view(3, 1, 1, 1)
    assert psnr(pred, truth).tolist() == pytest.approx([PSNR_CAP, 20 * math.log10(255), 20 * math.log10(255 / 155)])
    # Pooling averages the errors 1 and 155^2 before the logarithm.
    metric = METRICS[0]
    pooled = metric.score(metric.of(pred[1:], truth[1:]).mean()).item()
    assert metric.pooled == "pooled psnr" and pooled == pytest.approx(10 * math.log10(255**2 / ((1 + 155**2) / 2)))


def test_colour_drift_is_that_of_mean_colours():
    truth = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    pred = truth.clone()
    pred[0, :2, :, 0], pred[1, ..., 1] = 6, 3  # half of the pixels, one of three channels
    assert colour_drift(pred, truth).tolist() == pytest.approx([math.sqrt(3), math.sqrt(3)])


def test_leading_axes_are_kept():
    pred, truth = pictures(1, 2, 5, 8, 9, 3)
    assert psnr(pred, truth).shape == ssim(pred, truth).shape == gmsd(pred, truth).shape == sharpness(pred, truth).shape == (2, 5)
    assert torch.equal(ssim(pred, truth)[1, 3], ssim(pred[1, 3], truth[1, 3]))
    assert gmsd(pred, truth)[1, 3].item() == pytest.approx(gmsd(pred[1, 3], truth[1, 3]).item())


def test_the_psnr_of_what_moves_looks_at_the_pixels_that_changed_and_at_no_other():
    """A square of 4x4 pixels moves by its own size: 32 of 64 pixels change, of which a half-way guess is 50 levels off."""
    seen = torch.full((2, 8, 8, 3), 100, dtype=torch.uint8)
    seen[:, :4, :4] = 200
    truth = seen.flip(2)[:, None]  # of the second clip nothing moves
    truth[1] = seen[1]
    still, guess = seen[:, None], torch.full_like(truth, 100)
    guess[:, :, :4] = 150
    views = View(seen[:, None], truth)
    assert moving(truth, seen).sum((2, 3)).tolist() == [[32], [0]]
    error = moving_error(guess, views)
    assert error[0].item() == 50**2 and math.isnan(error[1])
    guess[:, :, 4:] = 7  # where nothing moves nothing counts
    assert moving_error(guess, views)[0].item() == 50**2 and moving_error(still, views)[0].item() == 100**2
    metric = next(m for m in METRICS if m.name == "moving psnr")
    assert metric.score(metric.measure(guess, views))[0].item() == pytest.approx(20 * math.log10(255 / 50))


@pytest.mark.parametrize("levels", [(MOVING, False), (MOVING + 1, True)])
def test_a_pixel_moves_above_the_threshold_that_the_legend_tells(levels):
    change, moves = levels
    seen = torch.full((1, 2, 2, 3), 60, dtype=torch.uint8)
    assert bool(moving(seen[:, None] + int(change), seen).all()) == bool(moving(seen[:, None] - int(change), seen).any()) == moves
    legend = next(m.about for m in METRICS if m.name == "moving psnr")
    assert f"more than {MOVING:g} of 255" in legend and f"{20 * math.log10(255 / MOVING):.1f} dB" in legend


@pytest.mark.parametrize(("pred", "truth", "message"), [
    (torch.zeros(8, 8, 3), torch.zeros(8, 8, 3), "uint8"),
    (torch.zeros(8, 8, 3, dtype=torch.uint8), torch.zeros(8, 9, 3, dtype=torch.uint8), "must both be"),
    (torch.zeros(6, 8, 3, dtype=torch.uint8), torch.zeros(6, 8, 3, dtype=torch.uint8), "at least 7x7")
])
def test_wrong_pictures_are_refused(pred, truth, message):
    refused(message, ssim, pred, truth)
    refused(message.replace("7x7", "4x4"), gmsd if message != "must both be" else sharpness, pred[:3], truth[:3])


def blurred(pictures_BHWC, sigma):
    smooth = [gaussian_filter(p.astype(float), (sigma, sigma, 0)) for p in pictures_BHWC.numpy()]
    return torch.from_numpy(np.stack(smooth).round().astype(np.uint8))


def reference_gmsd(a, b):
    """Written from the authors' Matlab: conv2 with zeros outside; "same" of an even kernel starts one further in."""
    prewitt = np.array([[1, 0, -1]] * 3) / 3
    maps = []
    for x in (a, b):
        grey = x.astype(np.float64) @ [0.299, 0.587, 0.114]
        small = convolve2d(grey, np.full((2, 2), 0.25))[1:, 1:][::2, ::2]
        maps.append(np.hypot(convolve2d(small, prewitt, "same"), convolve2d(small, prewitt.T, "same")))
    similarity = (2 * maps[0] * maps[1] + 170) / (maps[0] ** 2 + maps[1] ** 2 + 170)
    return similarity.std(ddof=1)


@given(seed=st.integers(0, 1000), height=st.integers(4, 40), width=st.integers(4, 40), noise=st.integers(0, 90))
@settings(max_examples=30, deadline=None)
def test_gmsd_equals_an_independent_reference(seed, height, width, noise):
    pred, truth = pictures(seed, 2, height, width, 3, noise=noise)
    found = gmsd(pred, truth)
    assert found.dtype == torch.float64 and found.shape == (2,)
    for i in range(2):
        assert found[i].item() == pytest.approx(reference_gmsd(pred[i].numpy(), truth[i].numpy()), abs=1e-6)


def test_gmsd_is_zero_for_the_same_and_rises_with_blur():
    truth = blurred(pictures(1, 3, 32, 32, 3)[1], 1.0)
    assert gmsd(truth, truth).tolist() == [0, 0, 0]
    scores = [gmsd(blurred(truth, s), truth) for s in (0.5, 1.0, 2.0)]
    assert bool((scores[0] < scores[1]).all() and (scores[1] < scores[2]).all())


def test_sharpness_of_a_ramp_is_the_ratio_of_its_squared_slopes():
    across = torch.arange(16).view(1, 1, 16, 1).expand(1, 16, 16, 3)
    steep, gentle = (6 * across).to(torch.uint8), (3 * across).to(torch.uint8)
    assert sharpness(steep, steep).item() == 1
    assert sharpness(gentle, steep).item() == pytest.approx((9 + ROUNDING_ENERGY) / (36 + ROUNDING_ENERGY))
    assert sharpness(gentle.transpose(1, 2), steep).item() == pytest.approx(sharpness(gentle, steep).item())


def test_sharpness_falls_with_blur_and_flat_pictures_are_finite():
    truth = pictures(2, 2, 24, 24, 3)[1]
    scores = [sharpness(blurred(truth, s), truth) for s in (0.0, 0.5, 1.0, 2.0)]
    assert all(bool((a > b).all()) for a, b in pairwise(scores))
    flat = torch.full_like(truth, 77)
    assert bool((sharpness(flat, truth) < 1e-3).all())
    assert sharpness(flat, flat).tolist() == [1, 1] and gmsd(flat, flat).tolist() == [0, 0]
    assert bool(sharpness(truth, flat).isfinite().all())


def test_sharpness_where_only_that_counts():
    """The left half at half its contrast, but for the column where both halves meet, and the right as it is: a quarter and 1."""
    truth = torch.zeros(1, 8, 16, 3, dtype=torch.uint8)
    truth[:, ::2] = 200
    pred, left, right = truth.clone(), *torch.zeros(2, 1, 8, 16, dtype=torch.bool)
    pred[:, :, :8], left[:, :, :7], right[:, :, 8:] = truth[:, :, :8] // 2, True, True
    assert sharpness(pred, truth, left).item() == pytest.approx(0.25, abs=1e-4)
    assert sharpness(pred, truth, right).item() == 1
    assert torch.equal(sharpness(pred, truth, torch.ones_like(left)), sharpness(pred, truth))
