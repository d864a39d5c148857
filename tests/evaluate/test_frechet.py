import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusing import refused

from hwm.evaluate.perceptual import Moments, frechet_distance


def features(seed, count, width, *, rank=None):
    """Correlated features with a mean, of lower rank where asked."""
    g = torch.Generator().manual_seed(seed)
    rank = width if rank is None else rank
    mixing = torch.randn(rank, width, generator=g, dtype=torch.float64)
    return torch.randn(count, rank, generator=g, dtype=torch.float64) @ mixing + torch.randn(width, generator=g)


def moments(mean, covariance, count=1000):
    """Moments with exactly this mean and unbiased covariance."""
    mean, covariance = torch.as_tensor(mean, dtype=torch.float64), torch.as_tensor(covariance, dtype=torch.float64)
    return Moments(count, count * mean, (count - 1) * covariance + count * torch.outer(mean, mean))


def by_scipy(a, b):
    """The textbook formula with scipy's general matrix root."""
    mean_a, mean_b = a.mean(0).numpy(), b.mean(0).numpy()
    S_a, S_b = np.cov(a.numpy(), rowvar=False), np.cov(b.numpy(), rowvar=False)
    root = scipy.linalg.sqrtm(S_a @ S_b).real
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(S_a + S_b - 2 * root))


def test_moments_are_mean_and_unbiased_covariance_and_add_up():
    x = features(0, 50, 7)
    whole = Moments.of(x.float())
    parts = Moments.of(x[:1].float()) + Moments.of(x[1:20].float()) + Moments.of(x[20:].float())
    for m in (whole, parts):
        assert m.count == 50 and m.sum_D.dtype == m.outer_DD.dtype == torch.float64
        assert torch.allclose(m.mean_D, x.mean(0), atol=1e-6)
        assert torch.allclose(m.covariance_DD, torch.from_numpy(np.cov(x.numpy(), rowvar=False)), atol=1e-4)


@given(means=st.tuples(st.floats(-5, 5), st.floats(-5, 5)), deviations=st.tuples(st.floats(0, 5), st.floats(0, 5)))
@settings(deadline=None)
def test_one_dimension_closed_form(means, deviations):
    a, b = (moments([m], [[s**2]]) for m, s in zip(means, deviations))
    expected = (means[0] - means[1]) ** 2 + (deviations[0] - deviations[1]) ** 2
    # A variance of 0 is known to the rounding of the squared mean only, its root to the root of that.
    assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-6)


@given(seed=st.integers(0, 1000), width=st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_equals_scipy(seed, width):
    a, b = features(seed, 40, width), features(seed + 1, 60, width)
    if width == 1:
        expected = float((a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2)
    else:
        expected = by_scipy(a, b)
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_zero_for_equal_features_also_fewer_than_dimensions():
    for x in (features(3, 100, 20), features(4, 5, 40), features(5, 100, 40, rank=3), torch.ones(4, 6)):
        assert 0 <= frechet_distance(Moments.of(x), Moments.of(x)) < 1e-6


def test_lower_rank_loses_no_digits():
    # Covariances of rank 1 along one axis, scales 1 and 3, in 200 dimensions: (3 - 1)^2.
    axis = features(6, 1, 200)[0]
    axis /= axis.norm()
    S = torch.outer(axis, axis)
    assert frechet_distance(moments(torch.zeros(200), S), moments(torch.zeros(200), 9 * S)) == pytest.approx(4, abs=1e-6)


def test_refusals():
    two, one = Moments.of(torch.zeros(2, 3)), Moments.of(torch.zeros(1, 3))
    for pair in ((one, two), (two, one)):
        refused("at least 2 features, got 1", frechet_distance, *pair)
    refused("different width, 3 and 4", frechet_distance, two, Moments.of(torch.zeros(2, 4)))
    refused(r"\(N, D\), got \(2, 3, 4\)", Moments.of, torch.zeros(2, 3, 4))
    refused("not finite", Moments.of, torch.tensor([[1.0, math.nan]]))
