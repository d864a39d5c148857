import math

import numpy as np
import pytest

from hwm.evaluate.intervals import Interval, few, interval, intervals, paired_difference, resamples, symmetric_interval
from hwm.evaluate.metrics import METRICS, OTHERS, shown


def test_mean_is_exact_and_the_interval_surrounds_it():
    values = np.random.default_rng(0).normal(3, 1, 50)
    found = interval(values)
    assert found.mean == pytest.approx(values.mean())
    assert found.low < found.mean < found.high
    half = (found.high - found.low) / 2
    assert half == pytest.approx(2.01 * values.std(ddof=1) / np.sqrt(50), rel=0.1)


def test_the_same_seed_repeats_and_columns_agree_with_single_calls():
    values = np.random.default_rng(1).normal(size=(20, 3))
    groups = np.arange(20) // 4
    assert intervals(values, groups=groups, seed=5) == intervals(values, groups=groups, seed=5)
    assert intervals(values, groups=groups, seed=5)[1] == interval(values[:, 1], groups=groups, seed=5)


def test_clips_of_one_segment_count_as_one():
    """Copies of a clip add no knowledge: the interval is that of the distinct clips."""
    values = np.random.default_rng(2).normal(size=16)
    copied, segments = np.repeat(values, 10), np.repeat(np.arange(16), 10)
    found, distinct = interval(copied, groups=segments), interval(values)
    assert (found.mean, found.low, found.high) == pytest.approx((distinct.mean, distinct.low, distinct.high))
    naive = interval(copied)
    assert naive.high - naive.low < 0.5 * (distinct.high - distinct.low)


@pytest.mark.parametrize("num_groups", [5, 8, 20])
def test_the_interval_covers_the_truth_as_often_as_it_says(num_groups):
    rng, hits, tries = np.random.default_rng(3), 0, 400
    groups = np.repeat(np.arange(num_groups), 3)
    for _ in range(tries):
        values = rng.normal(size=num_groups)[groups] + 0.3 * rng.normal(size=3 * num_groups)
        found = interval(values, groups=groups)
        hits += found.low <= 0 <= found.high
    assert 0.91 <= hits / tries <= 0.985


@pytest.mark.parametrize("num_groups", [1, 2, 4])
def test_fewer_than_five_recordings_have_no_interval_and_it_is_said(num_groups):
    groups = np.arange(12) % num_groups
    assert interval(np.arange(12.0), groups=groups) == Interval(5.5, None, None)
    assert symmetric_interval(5.5, [1, 2], num_groups=num_groups) == Interval(5.5, None, None)
    assert not paired_difference(np.ones(12), np.zeros(12), groups=groups).excludes_zero()
    assert few(num_groups) == f"no intervals: {num_groups} recording{'s' * (num_groups > 1)}, and an interval needs at least 5"
    assert interval(np.arange(12.0), groups=np.arange(12) % 5).low is not None and few(5) == ""


def test_an_interval_does_not_leave_the_range_of_what_is_measured():
    assert Interval(0.9, 0.7, 1.2).within(-1, 1) == Interval(0.9, 0.7, 1)
    assert Interval(2, -1, 5).within(0, math.inf) == Interval(2, 0, 5)
    assert Interval(0.9).within(0, 1) == Interval(0.9) and Interval(3, 1, 4).negative() == Interval(-3, -4, -1)
    assert [shown(name).limits for name in ("psnr", "pooled psnr", "ssim", "accuracy")] == [(0, 100), (0, 100), (-1, 1), (0, 1)]
    signed = {"ssim": -1, "rank correlation, pixels": -1, "rank correlation, clips": -1, "margin": -100}
    assert all(metric.limits[0] == signed.get(metric.name, 0) for metric in METRICS + OTHERS)


def test_scores_that_do_not_exist_are_equal():
    assert Interval(float("nan")) == Interval(np.float64("nan")) != Interval(0.0)


def test_weights_leave_out_what_does_not_exist():
    found = interval([1.0, np.nan, 3.0], weights=[1.0, 0.0, 3.0])
    assert found.mean == pytest.approx(2.5)


def test_paired_difference_cancels_what_both_share():
    rng = np.random.default_rng(4)
    difficulty = rng.normal(0, 10, 40)
    model, copy = difficulty + 0.5 + 0.1 * rng.normal(size=40), difficulty
    assert paired_difference(model, copy).excludes_zero()
    apart = interval(model), interval(copy)
    assert apart[0].low < apart[1].high


def test_no_difference_is_exactly_zero_and_not_excluded():
    values = np.random.default_rng(5).normal(size=10)
    assert paired_difference(values, values) == Interval(0.0, 0.0, 0.0)
    assert not paired_difference(values, values).excludes_zero()


def test_the_symmetric_interval_of_a_mean_is_students():
    values = np.random.default_rng(0).normal(3, 1, 20)
    draws = resamples(20, 0)
    found = symmetric_interval(values.mean(), draws @ values / 20 + 7, num_groups=20)  # a bias of the resamples cancels
    assert found.mean == values.mean() and found.high - found.mean == pytest.approx(found.mean - found.low)
    assert found.high - found.mean == pytest.approx(2.093 * values.std(ddof=1) / np.sqrt(20), rel=0.05)
    for none in (symmetric_interval(1.0, [], num_groups=20), symmetric_interval(1.0, [1, 2], num_groups=1)):
        assert none == Interval(1.0, None, None)
