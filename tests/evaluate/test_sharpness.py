from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusing import refused
from scipy.ndimage import gaussian_filter
from scipy.signal import convolve2d

from hwm.evaluate.metrics import ROUNDING_ENERGY, gmsd, sharpness


def pictures(seed, *shape, noise=30):
    g = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, 256, shape, generator=g, dtype=torch.uint8)
    return (truth.int() + torch.randint(-noise, noise + 1, shape, generator=g)).clamp(0, 255).to(torch.uint8), truth


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


def test_leading_axes_are_kept():
    pred, truth = pictures(4, 2, 5, 8, 9, 3)
    assert gmsd(pred, truth).shape == sharpness(pred, truth).shape == (2, 5)
    assert gmsd(pred, truth)[1, 3].item() == pytest.approx(gmsd(pred[1, 3], truth[1, 3]).item())


def test_wrong_pictures_are_refused():
    truth = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    refused("uint8", gmsd, truth.float(), truth)
    refused("at least 4x4", gmsd, truth[:, :3], truth[:, :3])
    refused("both be", sharpness, truth, truth[:, 1:])
