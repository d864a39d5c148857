import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from refusing import refused
from scipy.ndimage import gaussian_filter
from skimage.exposure import match_histograms as skimage_match

from hwm.predict.ensemble import gaussian_blur, match_histograms, resize


def draw(seed, *shape, levels=256):
    return torch.randint(0, levels, shape, generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


@given(seed=st.integers(0, 1000), height=st.integers(1, 30), width=st.integers(1, 30), sigma=st.floats(0.2, 6))
@settings(max_examples=40, deadline=None)
def test_blur_equals_scipy(seed, height, width, sigma):
    x = draw(seed, 2, height, width, 3)
    expected = gaussian_filter(x.numpy().astype(np.float64), (0, sigma, sigma, 0))
    found = gaussian_blur(x, sigma=sigma)
    assert found.dtype == torch.uint8 and np.abs(found.numpy() - expected).max() <= 0.5 + 1e-3


def test_blur_keeps_flat_pictures_and_zero_is_the_identity():
    flat, x = torch.full((1, 8, 9, 3), 201, dtype=torch.uint8), draw(0, 2, 3, 8, 9, 3)
    assert torch.equal(gaussian_blur(flat, sigma=2.5), flat)
    assert torch.equal(gaussian_blur(x, sigma=0), x)
    assert torch.equal(gaussian_blur(x, sigma=1.5)[1, 2], gaussian_blur(x[1, 2], sigma=1.5))
    for sigma in (-1, float("nan"), float("inf")):
        refused("sigma", gaussian_blur, x, sigma=sigma)


@given(seed=st.integers(0, 1000), levels=st.sampled_from([1, 2, 5, 40, 256]), wanted=st.sampled_from([1, 2, 7, 60, 256]))
@settings(max_examples=60, deadline=None)
def test_histograms_match_as_in_scikit_image(seed, levels, wanted):
    x, reference = draw(seed, 2, 9, 7, 3, levels=levels), draw(seed + 1, 2, 6, 11, 3, levels=wanted) // 2 + 60
    expected = [skimage_match(a.numpy().astype(float), r.numpy().astype(float), channel_axis=-1) for a, r in zip(x, reference)]
    assert np.abs(match_histograms(x, reference).numpy() - np.stack(expected)).max() <= 0.5 + 1e-3


def test_matching_undoes_a_change_of_colour():
    x = draw(2, 2, 16, 16, 3)
    assert torch.equal(match_histograms(x, x), x)
    assert torch.equal(match_histograms(x // 2 + 40, x // 2), x // 2)
    refused("one reference", match_histograms, x, x[:1])


@pytest.mark.parametrize(("height", "width"), [(32, 48), (7, 9), (20, 5), (64, 64)])
def test_resize_equals_pillow(height, width):
    x = draw(3, 2, 16, 24, 3)
    # In floats: pictures of bytes Pillow also rounds and clips between its passes along the two axes.
    bands = [Image.fromarray(band) for band in x.movedim(-1, 1).flatten(0, 1).float().numpy()]
    expected = np.stack([np.asarray(band.resize((width, height), Image.Resampling.BICUBIC)) for band in bands])
    found = resize(x, height=height, width=width)
    assert found.dtype == torch.uint8 and found.shape == (2, height, width, 3)
    assert np.abs(found.movedim(-1, 1).flatten(0, 1).numpy() - expected.clip(0, 255)).max() <= 0.5 + 1e-3


def test_resize_keeps_its_own_size_and_leading_axes():
    x = draw(4, 2, 3, 8, 6, 3)
    assert torch.equal(resize(x, height=8, width=6), x)
    assert resize(x, height=16, width=12).shape == (2, 3, 16, 12, 3)
    refused("at least 1x1", resize, x, height=0, width=4)


def test_only_uint8_pictures_are_blurred():
    refused("uint8", gaussian_blur, torch.zeros(1, 8, 8, 3), sigma=1)
