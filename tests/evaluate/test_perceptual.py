import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusing import refused

from hwm.evaluate.perceptual import (
    MOST_RESAMPLED_FEATURES,
    NUM_RESAMPLES,
    Moments,
    PerceptualScorer,
    TokenizerFeatures,
    frechet_distance,
)
from hwm.evaluate.protocols import HWM, SAMPLED_LATENTS, STILL_LATENTS, Scoring
from hwm.evaluate.scenes import View
from hwm.evaluate.scores import ALL, RECONSTRUCTION
from hwm.evaluate.scoring import evaluate


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


# Distances of a scoring


class MeanColour:
    """Mean red and green of every future frame, from 0 to 1; `width` pads with copies of the red."""

    def __init__(self, name="TFD", width=2):
        self.name, self.width = name, width

    def __call__(self, past_BFHWC, future_BFHWC):
        assert (past_BFHWC.shape[1], future_BFHWC.shape[1]) == (9, 8)
        colour = future_BFHWC.float().mean((2, 3))[..., :2] / 255
        return torch.cat([colour, colour[..., :1].expand(-1, -1, self.width - 2)], -1)


class Drawn:
    """Given features, in turn."""

    name = "TFD"

    def __init__(self, features):
        self._features = iter(features)

    def __call__(self, past_BFHWC, future_BFHWC):
        return next(self._features)


PLACE = {"reference": RECONSTRUCTION, "span": ALL}


def mean_difference(a, b):
    return (a.float() - b.float()).abs().mean((2, 3, 4))


def clips(num, shift, seed):
    g = torch.Generator().manual_seed(seed)
    level = torch.randint(40, 180, (num, 1, 1, 1, 3), generator=g)
    return (level + shift + torch.randint(0, 20, (num, 8, 4, 4, 3), generator=g)).to(torch.uint8)


def scored(features, *, lpips=None, num=40, segments=None, parts=4):
    """Rows `near` and `far` from a truth, scored in parts."""
    scorer = PerceptualScorer(features, lpips, segments=segments, num_clips=num)
    truth, past = clips(num, 0, 0), torch.zeros(num, 9, 4, 4, 3, dtype=torch.uint8)
    rows = {"near": clips(num, 4, 0), "far": clips(num, 40, 1)}
    for start in range(0, num, num // parts):
        part = slice(start, start + num // parts)
        these = {name: frames[part] for name, frames in rows.items()}
        scorer.add(scorer.measure(these, View(past[part], truth[part]), first_clip=start))
    return scorer, rows, truth


def test_distances_are_those_of_all_clips_at_once():
    scorer, rows, truth = scored([MeanColour()], segments=np.arange(40) // 4)
    scores, differences = scorer.summary("near", **PLACE, seed=0)
    moments = {}
    for name, frames in {**rows, "truth": truth}.items():
        moments[name] = Moments.of(MeanColour()(frames[:, :1].expand(-1, 9, -1, -1, -1), frames).flatten(0, 1))
    by_name = {score.row: score for score in scores}
    for name in rows:
        value = by_name[name].value
        assert value.mean == pytest.approx(frechet_distance(moments[name], moments["truth"]), rel=1e-9)
        assert 0 <= value.low < value.mean < value.high
    (change,) = differences
    assert (change.first, change.second, change.metric, change.span) == ("near", "far", "TFD", ALL)
    assert change.value.mean == pytest.approx(by_name["near"].value.mean - by_name["far"].value.mean)
    assert change.value.high < 0 and change.share_higher is None


def test_intervals_are_of_segments_and_repeat_with_the_seed():
    def interval(seed, segments):
        return scored([MeanColour()], segments=segments)[0].summary("near", **PLACE, seed=seed)[0][1].value

    assert interval(0, None) == interval(0, None) != interval(1, None)
    by_clip, by_segment = interval(0, None), interval(0, np.arange(40) // 5)
    assert by_clip.mean == pytest.approx(by_segment.mean)
    assert by_segment.high - by_segment.low != pytest.approx(by_clip.high - by_clip.low, rel=0.01)
    alone = scored([MeanColour()], segments=np.zeros(40))[0].summary("near", **PLACE, seed=0)[0][0]
    assert alone.value.low is None and alone.note == "no intervals: 1 recording, and an interval needs at least 5"


def test_the_interval_holds_the_true_distance_about_as_often_as_it_says():
    shift, held = 0.3, 0
    for seed in range(60):
        g = torch.Generator().manual_seed(seed)
        a, b = torch.randn(2, 60, 1, 2, generator=g, dtype=torch.float64)
        scorer = PerceptualScorer([Drawn([a, b + shift])], None, segments=None, num_clips=60)
        frames = torch.zeros(60, 1, 1, 1, 3, dtype=torch.uint8)
        scorer.add(scorer.measure({"row": frames}, View(frames, frames), first_clip=0))
        value = scorer.summary("row", **PLACE, seed=seed)[0][0].value
        held += value.low <= 2 * shift**2 <= value.high
    assert held >= 51


def test_wide_features_get_no_interval_and_say_why():
    scores, differences = scored([MeanColour("FID", width=MOST_RESAMPLED_FEATURES + 1)])[0].summary("near", **PLACE, seed=0)
    assert all(row.value.low is None and "too many" in row.note for row in scores)
    assert differences[0].value.low is None


def test_many_segments_share_groups():
    num = 200
    scorer = scored([MeanColour()], num=num)[0]
    assert scorer.num_groups == 64 and np.bincount(scorer._group).min() >= num // 64
    assert np.all(np.diff(scorer._group) >= 0)
    assert scorer.summary("near", **PLACE, seed=0)[0][0].value.low is not None and NUM_RESAMPLES > 1


def test_lpips_is_averaged_like_psnr():
    scorer, rows, truth = scored([], lpips=mean_difference, segments=np.arange(40) // 4)
    scores, (change,) = scorer.summary("near", **PLACE, seed=0)
    for name, frames in rows.items():
        direct = mean_difference(frames, truth)
        mean, *per_frame = (score.value.mean for score in scores if score.row == name)
        assert mean == pytest.approx(direct.mean().item()) and per_frame == pytest.approx(direct.mean(0).tolist())
    assert change.value.high < 0 and change.share_higher == 0


def test_the_protocol_scores_every_row_by_the_shipped_tokenizer(world):
    scores = evaluate(
        world.LatentMover(noise=0.3), world.latent_tokenizer, world.latents, HWM, Scoring(), segments=world.segments,
        features=[TokenizerFeatures()], lpips=mean_difference, cost_repeats=0,
    )  # fmt: skip
    assert scores.settings["perceptual"] == ["TFD", "LPIPS"]
    rows = {score.row for score in scores.select(metric="psnr", reference=RECONSTRUCTION)}
    for metric in ("TFD", "LPIPS"):
        assert {score.row for score in scores.select(metric=metric)} == rows
        assert scores.of(STILL_LATENTS, metric).mean == pytest.approx(0, abs=1e-6)
    assert scores.of(SAMPLED_LATENTS, "TFD").mean > 10 * max(scores.of(STILL_LATENTS, "TFD").mean, 1e-6)
    assert scores.difference(STILL_LATENTS, "mean of context", "TFD").value.mean < 0
    assert scores.seconds["perceptual scores"] > 0
