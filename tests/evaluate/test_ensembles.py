"""Ensembles on a world in closed form: frame f is the still past plus a brightness that its state tells.

A model that follows the states, with noise of known size, then has known scores: PSNR of a sample, of the mean of N, of
copying and of wrong states, the fitted saturation, the calibration.
"""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from refusing import refused

from hwm.contracts import Batch
from hwm.evaluate.metrics import ENTROPY, MARGIN, METRICS, PSNR_CAP, TOLD_APART
from hwm.evaluate.protocols import (
    BLURRED,
    COPY_BLURRED,
    COPY_FRAME,
    MEAN_OF_CONTEXT,
    ONE_SAMPLE,
    SAMPLING,
    STILL,
    SURE_SHARPNESS,
    Scoring,
    mean_of,
)
from hwm.evaluate.scores import Scores
from hwm.evaluate.scoring import evaluate
from hwm.evaluate.table import ahead
from hwm.model_config import FSQConfig, STConfig
from hwm.models.st_transformer import STTransformer
from hwm.tokenizers.open import new_tokenizer

NOISE = 10.0
UNTOLD = (ENTROPY, TOLD_APART, MARGIN)
"""Scores of models of tokens and of several futures of one start, which there are none of here."""


class Brightening:
    """Still pictures of 4x4 cells that grow brighter by `rise` of the clip at frame 76, as the first state says.

    scale: side in pixels of one pixel of the model.  kept: only the seen frames and the last are given.
    """

    def __init__(self, num=24, size=32, scale=1, kept=False, seed=0):
        g = torch.Generator().manual_seed(seed)
        cells = torch.randint(60, 150, (num, 1, size // 4, size // 4, 1), generator=g)
        self.rise = torch.arange(num) % 8 * 5 + 5
        self.states = torch.zeros(num, 97, 2)
        self.states[:, 17:77, 0] = self.rise[:, None] * torch.linspace(1 / 60, 1, 60)
        self.states[:, 77:] = 1e3  # rows that nobody may read
        steps = self.states[:, :77, 0].round().view(num, 77, 1, 1, 1)
        frames = (cells.repeat_interleave(4, 2).repeat_interleave(4, 3) + steps).to(torch.uint8).expand(-1, -1, -1, -1, 3)
        self.video = frames.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        if kept:
            self.video = torch.cat([self.video[:, :17], self.video[:, -1:]], 1)
        self.segments, self.read = np.arange(num) // 2, []

    def __len__(self):
        return len(self.video)

    def batch(self, indices):
        self.read.append(indices)
        return Batch(states_BFA=self.states[indices], video_BFHWC=self.video[indices])


@pytest.fixture
def score(strided):
    def run(recorded, *, noise=NOISE, model=None, tokenizer=None, **options):
        names = {f.name for f in dataclasses.fields(Scoring)} - {"lpips"}
        asked = {"tuning_clips": 4, "clips": 0, "batch_size": 16, **{k: v for k, v in options.items() if k in names}}
        options = {"cost_repeats": 0, "num_examples": 0, "segments": recorded.segments} | {
            {"tuning": "tuning_clips"}.get(k, k): v for k, v in options.items() if k not in names
        }
        model = model or strided.Model(temperature=noise)
        protocol = SAMPLING.at(asked.get("ahead", 0))
        return evaluate(model, tokenizer or strided.Tokenizer(), recorded, protocol, Scoring(**asked), **options)

    return run


def psnr_of(mse):
    return 10 * math.log10(255**2 / mse)


def test_a_nearer_frame_is_scored_where_it_is_asked_for(score):
    clips = Brightening()
    scores = score(clips, members=(2,), ahead=(20,))
    rise = clips.states[4:, 36, 0].round().double()
    assert scores.of(COPY_FRAME, "pooled psnr").mean == pytest.approx(psnr_of(float(rise.square().mean())), abs=1e-6)
    assert scores.of(STILL, "psnr").mean == PSNR_CAP and ahead(scores) == "20 frames"
    assert (SAMPLING.at([60]), SAMPLING.at([])) == (SAMPLING, SAMPLING) and not SAMPLING.in_a_row


def test_scores_in_closed_form(score):
    clips = Brightening()
    scores = score(clips, members=(8, 1, 4), num_examples=2)
    rise = clips.rise[4:].double()

    def psnr(row, name="psnr"):
        return scores.of(row, name).mean

    assert scores.settings["num_clips"] == 20 and scores.headline == mean_of(8)
    assert (scores.settings["control"], scores.settings["controls"]["permuted"]) == (mean_of(4), "mean of 4, states permuted")
    # 64 cells in 20 clips, each with noise of its own; rounding adds a twelfth of a level squared.
    for n in (1, 4, 8):
        assert psnr(mean_of(n), "pooled psnr") == pytest.approx(psnr_of(NOISE**2 / n + 1 / 12), abs=0.6)
    assert psnr(COPY_FRAME, "pooled psnr") == pytest.approx(psnr_of(float(rise.square().mean())), abs=1e-6)
    assert psnr(COPY_FRAME) == pytest.approx(float((255**2 / rise.square()).log10().mean() * 10), abs=1e-6)
    assert psnr(MEAN_OF_CONTEXT) == psnr(COPY_FRAME)  # the past is still
    assert psnr(STILL) == PSNR_CAP and psnr(STILL, "ssim") == pytest.approx(1)
    # Neutral states promise no change: copying, with the noise of the mean.
    expected = psnr_of(float(rise.square().mean()) + NOISE**2 / 4)
    assert psnr("mean of 4, states zeroed", "pooled psnr") == pytest.approx(expected, abs=0.3)
    assert psnr("mean of 4, states zeroed", "change") == pytest.approx(float(rise.abs().mean()), abs=0.1)  # the noise is the same
    assert psnr("mean of 4, states permuted") < psnr(mean_of(4)) - 3
    gain = scores.difference(mean_of(8), ONE_SAMPLE).value
    assert gain.mean == pytest.approx(10 * math.log10(8), abs=0.6) and gain.excludes_zero()
    loss = psnr(mean_of(4)) - psnr("mean of 4, states permuted")
    assert scores.difference(mean_of(4), "mean of 4, states permuted").value.mean == pytest.approx(loss)
    assert psnr("medoid of 8", "sharpness") > psnr(mean_of(8), "sharpness")
    sizes = [1, 2, 3, 4, 5, 7, 8]
    assert scores.settings["ensembles"] == sizes and [s.row for s in scores.select(metric="mse")] == [mean_of(n) for n in sizes]
    fit = scores.facts["saturation"]
    assert fit["variance"] == pytest.approx(NOISE**2, rel=0.2) and fit["floor"] < 3
    # The truth is where the model expects it: the mean errs by 1 / (K + 1) of what the spread of K predicts, squared.
    assert scores.facts["calibration"]["error_to_spread"] == pytest.approx(1 / 3, rel=0.05)
    for metric in (*(metric.name for metric in METRICS if metric.name not in UNTOLD), SURE_SHARPNESS):
        assert {s.row for s in scores.select(metric=metric)} == {row.name for row in scores.rows}
    blend = scores.difference("blend of 8", ONE_SAMPLE, SURE_SHARPNESS).value.mean
    assert blend == pytest.approx(psnr("blend of 8", SURE_SHARPNESS) - psnr(ONE_SAMPLE, SURE_SHARPNESS))


def test_everything_but_time_repeats_and_small_ensembles_begin_large_ones(score):
    def record(**options):
        found = score(Brightening(num=12), **options)
        found.seconds.clear()
        found.settings.pop("fingerprint")  # of the settings too, which differ below in what changes no number
        json.dumps(found.to_json(), allow_nan=False)
        return found

    first = record(members=(1, 4))
    assert first == record(members=(4, 1), batch_size=3)
    assert Scores.from_json(json.loads(json.dumps(first.to_json()))) == first
    larger = record(members=(1, 4, 6))

    def of(scores, row):  # but for what is looked at where all samples agree
        return [score for score in scores.select(row=row) if score.metric != SURE_SHARPNESS]

    for row in (mean_of(1), mean_of(4), STILL, COPY_FRAME, "mean of 4, states zeroed", "mean of 4, states permuted", BLURRED):
        assert of(first, row) and of(larger, row) == of(first, row)
    assert record(members=(1, 4), seed=1).of(ONE_SAMPLE, "psnr") != first.of(ONE_SAMPLE, "psnr")


def test_clips_to_tune_on_are_never_scored(score):
    clips = Brightening()
    scores = score(clips, members=(1, 2), tuning_clips=5)
    tuning = [n for n, read in enumerate(clips.read) if 0 in read]
    tuned = np.concatenate([clips.read[n] for n in range(tuning[0], tuning[0] + 2)])
    scored = np.concatenate([read for n, read in enumerate(clips.read) if n not in (tuning[0], tuning[0] + 1)])
    assert tuned.tolist() == [0, 1, 2, 3, 4] and scores.facts["tuning"]["num_clips"] == 5
    assert not set(clips.segments[tuned]) & set(clips.segments[scored]) and set(scored) == set(range(6, 24))

    other, again = Brightening(seed=1), Brightening()
    assert score(again, members=(1, 2), tuning=other, tuning_clips=6).settings["num_clips"] == 24
    assert np.concatenate(other.read).tolist() == list(range(0, 24, 4)) and set(np.concatenate(again.read)) == set(range(24))


def test_noise_is_blurred_and_the_copy_is_not(score):
    scores = score(Brightening(), noise=40.0, members=(1,))
    tuning = scores.facts["tuning"]
    assert tuning["sigma_sample"] > 0 and tuning["sigma_copy"] == 0 and tuning["tolerance"] is None
    assert scores.of(BLURRED, "psnr").mean > scores.of(ONE_SAMPLE, "psnr").mean
    copied, blurred = ([(s.metric, s.value) for s in scores.select(row=row)] for row in (COPY_FRAME, COPY_BLURRED))
    assert copied == blurred


def test_whole_clips_and_their_seen_and_last_frames_score_alike(score):
    whole, kept = (score(Brightening(num=12, kept=kept), members=(1, 2)) for kept in (False, True))
    assert whole.scores == kept.scores


def test_sizes(score):
    clips = Brightening(num=12, scale=2)
    small = score(clips, noise=0.0, temperature=0.0, members=(1,), score_size=32)
    assert small.of(ONE_SAMPLE, "psnr").mean == PSNR_CAP
    sizes = ("recorded_size", "image_size", "score_size")
    assert [small.settings[name] for name in sizes] == [[64, 64], [32, 32], [32, 32]]
    full = score(clips, noise=0.0, temperature=0.0, members=(1,))
    assert full.settings["score_size"] == [64, 64] and 20 < full.of(ONE_SAMPLE, "psnr").mean < PSNR_CAP
    assert full.of(COPY_FRAME, "psnr") == small.of(COPY_FRAME, "psnr")
    refused("cannot be scored at 128", score, clips, members=(1,), score_size=128)


def test_a_model_of_tokens_draws_at_temperature_one(score):
    torch.manual_seed(0)
    coder = new_tokenizer(FSQConfig(channels=8, depth=1, levels=(8, 5, 5)), name="tiny").eval()
    sizes = {"vocab_size": 200, "grid": (4, 4), "num_layers": 1, "num_heads": 2, "width": 16, "state_hidden": 8}
    model = STTransformer(STConfig(num_states=34, state_dim=2, **sizes)).eval()
    options = {"tuning_clips": 2, "clips": 2, "members": (1, 2), "cost_repeats": 1, "num_examples": 1, "batch_size": 2}
    scores = score(Brightening(num=6), model=model, tokenizer=coder, **options, segments=None)
    assert scores.settings["sampling"]["temperature"] == 1.0 and not scores.settings["own_sampling"]
    assert set(scores.cost.figures) == {"seconds, 1 sample", "seconds, 2 samples"} and scores.cost.parameters > 1000
    assert scores.examples[0].spread.max() > 0 and STILL in scores.names("model")


def test_examples_show_what_was_made_of_the_samples(score):
    scores = score(Brightening(), members=(1, 4), num_examples=2)
    assert [example.clip < 14 for example in scores.examples] == [True, False]
    for example in scores.examples:
        assert list(example.pictures) == ["seen", "truth", ONE_SAMPLE, mean_of(4), "blend of 4"]
        assert {picture.shape for picture in example.pictures.values()} == {(1, 32, 32, 3)}
        assert example.spread.shape == (32, 32) and set(example.psnr) == {row.name for row in scores.rows}


def test_one_sample_alone(score):
    scores = score(Brightening(num=12), members=(1,), num_examples=1)
    assert scores.headline == ONE_SAMPLE and set(scores.facts) == {"tuning"}
    assert "blend of 1" not in {row.name for row in scores.rows} and scores.examples[0].spread is None


def test_networks_look_at_the_asked_sizes(score):
    class Grey:
        name = "FID"

        def __call__(self, past_BFHWC, future_BFHWC):
            assert future_BFHWC.shape[1] == 1
            return future_BFHWC.float().flatten(2).unflatten(2, (-1, 32))[..., :2].mean(2)

    def absolute_difference(a_BFHWC, b_BFHWC):
        return (a_BFHWC.float() - b_BFHWC.float()).abs().mean((2, 3, 4)) / 255

    scores = score(Brightening(), members=(1, 4), features=[Grey()], lpips=absolute_difference)
    expected = float(Brightening().rise[4:].float().mean()) / 255
    assert scores.of(COPY_FRAME, "LPIPS").mean == pytest.approx(expected)
    assert scores.difference(mean_of(4), COPY_FRAME, "LPIPS").value.mean < 0
    looked_at = {row.name for row in scores.rows} - {mean_of(2), mean_of(3)}
    assert {s.row for s in scores.select(metric="FID")} == {s.row for s in scores.select(metric="LPIPS")} == looked_at


def test_what_does_not_fit_is_refused(score):
    for change, message in (
        ({"members": (0, 5)}, "at least one member"), ({"tuning_clips": 1}, "at least 2, got 1"),
        ({"clips": 1}, "at least 2 clips")
    ):
        refused(message, score, Brightening(), **change)
    short = Brightening()
    short.video = short.video[:, :60]
    refused("got 60 frames and 97 states", score, short)
