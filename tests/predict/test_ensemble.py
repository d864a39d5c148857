import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusing import refused

from hwm.predict.ensemble import blend, mean, medoid, medoid_index, spread


def draw(seed, *shape, levels=256):
    return torch.randint(0, levels, shape, generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


@given(seed=st.integers(0, 1000), members=st.integers(1, 7), video=st.booleans())
@settings(max_examples=30, deadline=None)
def test_mean_and_medoid_equal_their_definitions(seed, members, video):
    x = draw(seed, 3, members, *([2] if video else []), 5, 4, 3)
    doubles = x.numpy().astype(np.float64)
    assert np.array_equal(mean(x).numpy(), doubles.mean(1).round())
    distances = ((doubles[:, :, None] - doubles[:, None]) ** 2).reshape(3, members, members, -1).sum((2, 3))
    assert medoid_index(x).tolist() == distances.argmin(1).tolist()
    assert torch.equal(medoid(x), torch.stack([x[b, i] for b, i in enumerate(medoid_index(x))]))


def test_the_mean_rounds_once():
    # Rounding 100.5 of two pairs first would give 100 or 101 twice; the mean of all four is 100.75.
    x = torch.tensor([100, 101, 101, 101], dtype=torch.uint8).view(1, 4, 1, 1, 1).expand(1, 4, 6, 6, 3)
    assert mean(x).unique().tolist() == [101]


def test_equal_members_give_the_first():
    x = draw(0, 2, 1, 4, 4, 3).expand(2, 5, 4, 4, 3)
    assert medoid_index(x).tolist() == [0, 0]
    pair = draw(1, 1, 2, 4, 4, 3)  # two members are equally far from each other
    assert medoid_index(pair).tolist() == [0]


@given(seed=st.integers(0, 1000), members=st.integers(2, 7), video=st.booleans())
@settings(max_examples=30, deadline=None)
def test_spread_is_the_unbiased_deviation(seed, members, video):
    x = draw(seed, 2, members, *([2] if video else []), 5, 4, 3)
    expected = np.sqrt(x.numpy().astype(np.float64).var(1, ddof=1).mean(-1))
    assert spread(x).dtype == torch.float32
    np.testing.assert_allclose(spread(x).numpy(), expected, rtol=1e-6)


def test_spread_of_equal_members_is_zero_and_of_one_is_refused():
    x = draw(3, 2, 1, 4, 4, 3)
    assert spread(x.expand(2, 3, 4, 4, 3)).abs().max() == 0
    refused("at least 2", spread, x)


@given(seed=st.integers(0, 1000), members=st.integers(1, 6), levels=st.sampled_from([3, 256]), video=st.booleans())
@settings(max_examples=30, deadline=None)
def test_blend_lies_between_the_mean_and_the_medoid(seed, members, levels, video):
    x = draw(seed, 2, members, *([2] if video else []), 7, 6, 3, levels=levels)
    assert torch.equal(blend(x, tolerance=0), mean(x))
    assert torch.equal(blend(x, tolerance=float("inf")), medoid(x))
    ends = torch.stack([mean(x), medoid(x)])
    middle = blend(x, tolerance=5.0)
    assert bool((middle >= ends.amin(0)).all() and (middle <= ends.amax(0)).all())


def test_blend_takes_the_medoid_where_members_agree():
    x = draw(5, 1, 8, 20, 40, 3)
    x[:, :, :, :20] = x[:, :1, :, :20] // 2 + draw(6, 1, 8, 20, 20, 3, levels=4)  # a sharp picture, members within 3
    out = blend(x, tolerance=4.0)
    assert torch.equal(out[:, :, :18], medoid(x)[:, :, :18])
    away = (out.int() - mean(x).int()).abs()[:, :, 22:].double()
    assert away.mean() < 0.1 * (medoid(x).int() - mean(x).int()).abs()[:, :, 22:].double().mean()


@pytest.mark.parametrize("tolerance", [2.0, 6.0])
def test_blend_adds_no_more_error_than_tolerated(tolerance):
    """Truth and members from one distribution, whose deviation rises from 1 to 40 across the picture."""
    g = torch.Generator().manual_seed(7)
    deviation = torch.linspace(1, 40, 64)[:, None]
    x = 128 + torch.randn(40, 9, 64, 64, 3, generator=g) * deviation
    x = x.clamp(0, 255).round().to(torch.uint8)
    members, truth = x[:, 1:], x[:, 0].double()
    column = [((y.double() - truth) ** 2).mean((0, 1, 3)) for y in (blend(members, tolerance=tolerance), mean(members))]
    added = (column[0] - column[1]).view(8, 8).mean(1)
    assert bool((added < 1.15 * tolerance**2 + 1).all())
    # Far past the tolerance, the part that is taken adds just about what is tolerated.
    assert added[3:].mean().item() == pytest.approx(tolerance**2, rel=0.25)


def test_bad_members_are_refused():
    x = draw(0, 2, 3, 4, 4, 3)
    for wrong in (x.float(), x[0], x[:, :0]):
        refused("members of an ensemble", mean, wrong)
    for wrong in (-1.0, float("nan")):
        refused("tolerance", blend, x, tolerance=wrong)
