import numpy as np
import pytest
import torch

from hwm.evaluate.blocks import evaluate
from hwm.evaluate.frechet import Moments, frechet_distance
from hwm.evaluate.perceptual import MOST_RESAMPLED_FEATURES, NUM_RESAMPLES, PerceptualScorer, TokenizerFeatures
from hwm.evaluate.results import ALL_FRAMES, RECONSTRUCTION, STILL_LATENTS


class MeanColour:
    """Mean red and green of every future frame, from 0 to 1; `width` pads with copies of the red."""

    def __init__(self, name="TFD", width=2):
        self.name, self.width = name, width

    def __call__(self, video_BFHWC, *, num_future_frames):
        assert video_BFHWC.shape[1] == 17 and num_future_frames == 8  # the whole block
        colour = video_BFHWC[:, -num_future_frames:].float().mean((2, 3))[..., :2] / 255
        return torch.cat([colour, colour[..., :1].expand(-1, -1, self.width - 2)], -1)


class Drawn:
    """Given features, in turn."""

    name = "TFD"

    def __init__(self, features):
        self._features = iter(features)

    def __call__(self, video_BFHWC, *, num_future_frames):
        return next(self._features)


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
        scorer.add(
            scorer.measure(
                {name: frames[part] for name, frames in rows.items()},
                truth[part],
                blocks=lambda frames, part=part: torch.cat([past[part], frames], 1),
                first_clip=start,
            )
        )
    return scorer, rows, truth


def test_distances_are_those_of_all_clips_at_once():
    scorer, rows, truth = scored([MeanColour()], segments=np.arange(40) // 4)
    scores, differences = scorer.summary("near", seed=0)
    moments = {}
    for name, frames in {**rows, "truth": truth}.items():
        block = torch.cat([frames[:, :1].expand(-1, 9, -1, -1, -1), frames], 1)
        moments[name] = Moments.of(MeanColour()(block, num_future_frames=8).flatten(0, 1))
    by_name = {row.name: row for row in scores}
    for name in rows:
        value = by_name[name].all_frames
        assert value.mean == pytest.approx(frechet_distance(moments[name], moments["truth"]), rel=1e-9)
        assert 0 <= value.low < value.mean < value.high
    (change,) = differences
    assert (change.first, change.second, change.metric, change.span) == ("near", "far", "TFD", ALL_FRAMES)
    assert change.difference.mean == pytest.approx(by_name["near"].all_frames.mean - by_name["far"].all_frames.mean)
    assert change.difference.high < 0 and change.share_higher is None


def test_intervals_are_of_segments_and_repeat_with_the_seed():
    def interval(seed, segments):
        return scored([MeanColour()], segments=segments)[0].summary("near", seed=seed)[0][1].all_frames

    assert interval(0, None) == interval(0, None) != interval(1, None)
    by_clip, by_segment = interval(0, None), interval(0, np.arange(40) // 10)
    assert by_clip.mean == pytest.approx(by_segment.mean)
    assert by_segment.high - by_segment.low != pytest.approx(by_clip.high - by_clip.low, rel=0.01)
    alone = scored([MeanColour()], segments=np.zeros(40))[0].summary("near", seed=0)[0][0]
    assert alone.all_frames.low is None and alone.note == "one segment"


def test_the_interval_holds_the_true_distance_about_as_often_as_it_says():
    shift, held = 0.3, 0
    for seed in range(60):
        g = torch.Generator().manual_seed(seed)
        a, b = torch.randn(2, 60, 1, 2, generator=g, dtype=torch.float64)
        scorer = PerceptualScorer([Drawn([a, b + shift])], None, segments=None, num_clips=60)
        frames = torch.zeros(60, 1, 1, 1, 3, dtype=torch.uint8)
        scorer.add(scorer.measure({"row": frames}, frames, blocks=lambda frames: frames, first_clip=0))
        value = scorer.summary("row", seed=seed)[0][0].all_frames
        held += value.low <= 2 * shift**2 <= value.high
    assert held >= 51


def test_wide_features_get_no_interval_and_say_why():
    scores, differences = scored([MeanColour("FID", width=MOST_RESAMPLED_FEATURES + 1)])[0].summary("near", seed=0)
    assert all(row.all_frames.low is None and "too many" in row.note for row in scores)
    assert differences[0].difference.low is None


def test_many_segments_share_groups():
    num = 200
    scorer = scored([MeanColour()], num=num)[0]
    assert scorer.num_groups == 64 and np.bincount(scorer._group).min() >= num // 64
    assert np.all(np.diff(scorer._group) >= 0)
    assert scorer.summary("near", seed=0)[0][0].all_frames.low is not None and NUM_RESAMPLES > 1


def test_lpips_is_averaged_like_psnr():
    scorer, rows, truth = scored([], lpips=mean_difference, segments=np.arange(40) // 4)
    scores, (change,) = scorer.summary("near", seed=0)
    for row in scores:
        direct = mean_difference(rows[row.name], truth)
        assert row.all_frames.mean == pytest.approx(direct.mean().item())
        assert [v.mean for v in row.per_frame] == pytest.approx(direct.mean(0).tolist())
    assert change.difference.high < 0 and change.share_higher == 0


def test_the_protocol_scores_every_row_by_the_shipped_tokenizer(world):
    result = evaluate(
        world.LatentMover(noise=0.3),
        world.latent_tokenizer,
        world.latents,
        segments=world.segments,
        features=[TokenizerFeatures()],
        lpips=mean_difference,
        cost_repeats=0,
    )
    assert result.settings["perceptual"] == ["TFD", "LPIPS"]
    scores = {(row.metric, row.name): row.all_frames.mean for row in result.perceptual}
    rows = {row.name for row in result.pixels if row.reference == RECONSTRUCTION}
    assert scores.keys() == {(metric, name) for metric in ("TFD", "LPIPS") for name in rows}
    assert scores["TFD", STILL_LATENTS] == pytest.approx(0, abs=1e-6) and scores["LPIPS", STILL_LATENTS] == 0
    assert scores["TFD", "model, sampled latents"] > 10 * max(scores["TFD", STILL_LATENTS], 1e-6)
    gap = result.difference(STILL_LATENTS, "mean of context", metric="TFD", span=ALL_FRAMES, reference=RECONSTRUCTION)
    assert gap.difference.mean < 0
    assert result.seconds["perceptual scores"] > 0
