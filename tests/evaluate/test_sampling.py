"""The sampling protocol on a world in closed form: frame f is the still past plus a brightness that its state tells.

A model that follows the states, with noise of known size, then has known scores: PSNR of a sample, of the mean of N, of
copying and of wrong states, the fitted saturation, the calibration.
"""

import json
import math
import re

import numpy as np
import pytest
import torch

from hwm.contracts import Batch, Sampling
from hwm.evaluate.metrics import PSNR_CAP, psnr
from hwm.evaluate.results import COPY_FRAME, MEAN_OF_CONTEXT
from hwm.evaluate.sampling import evaluate_sampling
from hwm.evaluate.sampling_pictures import FULL_SCALE, RAMP, map_picture
from hwm.evaluate.sampling_report import write_sampling_report
from hwm.evaluate.sampling_results import (
    BLURRED,
    COPY_BLURRED,
    ONE_SAMPLE,
    STILL,
    blend_of,
    mean_of,
    medoid_of,
    permuted,
    zeroed,
)
from hwm.evaluate.sampling_table import text_table, verdict
from hwm.evaluate.tuning import SIGMAS, Tuner, largest_tolerance, set_apart
from hwm.model_config import FSQConfig, STConfig
from hwm.models.st_transformer import STTransformer
from hwm.predict.postprocess import gaussian_blur
from hwm.tokenizers.open import new_tokenizer

NOISE = 10.0


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
    def run(clips, *, noise=NOISE, **options):
        options = {"image_size": (32, 32), "num_tuning": 4, "num_clips": 0, "cost_repeats": 0, "num_examples": 0, **options}
        options.setdefault("segments", clips.segments)
        return evaluate_sampling(strided.Model(temperature=noise), strided.Tokenizer(), clips, **options)

    return run


def psnr_of(mse):
    return 10 * math.log10(255**2 / mse)


def test_scores_in_closed_form(score):
    clips = Brightening()
    result = score(clips, members=(8, 1, 4), num_examples=2)
    rows = {row.name: row for row in result.rows}
    rise = clips.rise[4:].double()
    assert result.settings["num_clips"] == 20 and result.headline == mean_of(8) and result.control == 4
    # 64 cells in 20 clips, each with noise of its own; rounding adds a twelfth of a level squared.
    for n in (1, 4, 8):
        assert rows[mean_of(n)].pooled_psnr == pytest.approx(psnr_of(NOISE**2 / n + 1 / 12), abs=0.6)
    assert rows[COPY_FRAME].pooled_psnr == pytest.approx(psnr_of(float(rise.square().mean())), abs=1e-6)
    assert rows[COPY_FRAME].psnr.mean == pytest.approx(float((255**2 / rise.square()).log10().mean() * 10), abs=1e-6)
    assert rows[MEAN_OF_CONTEXT].psnr == rows[COPY_FRAME].psnr  # the past is still
    assert rows[STILL].psnr.mean == PSNR_CAP and rows[STILL].ssim.mean == pytest.approx(1)
    # Neutral states promise no change: copying, with the noise of the mean.
    assert rows[zeroed(4)].pooled_psnr == pytest.approx(psnr_of(float(rise.square().mean()) + NOISE**2 / 4), abs=0.3)
    assert rows[permuted(4)].psnr.mean < rows[mean_of(4)].psnr.mean - 3
    gain = result.difference(mean_of(8), ONE_SAMPLE).difference
    assert gain.mean == pytest.approx(10 * math.log10(8), abs=0.6) and gain.excludes_zero()
    change = result.difference(mean_of(4), permuted(4)).difference.mean
    assert change == pytest.approx(rows[mean_of(4)].psnr.mean - rows[permuted(4)].psnr.mean)
    assert rows[medoid_of(8)].sharpness.mean > rows[mean_of(8)].sharpness.mean
    assert [point.num_members for point in result.sizes] == [1, 2, 3, 4, 5, 7, 8]
    assert result.saturation["variance"] == pytest.approx(NOISE**2, rel=0.2) and result.saturation["floor"] < 3
    # The truth is where the model expects it: the mean errs by 1 / (K + 1) of what the spread of K predicts, squared.
    assert result.calibration["error_to_spread"] == pytest.approx(1 / 3, rel=0.05)


def test_everything_but_time_repeats_and_small_ensembles_begin_large_ones(score):
    def record(**options):
        found = score(Brightening(num=12), **options).to_json()
        found.pop("seconds")
        found["settings"].pop("fingerprint")  # of the settings too, which differ below in what changes no number
        return found

    first = record(members=(1, 4))
    assert first == record(members=(4, 1), members_at_once=3) and json.dumps(first, allow_nan=False)
    larger = record(members=(1, 4, 6))
    by_name = {row["name"]: row for row in larger["rows"]}
    for row in first["rows"]:
        if row["name"] in (mean_of(1), mean_of(4), STILL, COPY_FRAME, zeroed(4), permuted(4), BLURRED):
            assert by_name[row["name"]] == row
    other = record(members=(1, 4), seed=1)
    assert other["rows"][0]["psnr"] != first["rows"][0]["psnr"]


def test_clips_to_tune_on_are_never_scored(score):
    clips = Brightening()
    result = score(clips, members=(1, 2), num_tuning=5)
    tuned, scored = np.concatenate(clips.read[1:3]), np.concatenate([clips.read[0], *clips.read[3:]])
    assert tuned.tolist() == [0, 1, 2, 3, 4] and result.tuning.num_clips == 5
    assert not set(clips.segments[tuned]) & set(clips.segments[scored]) and set(scored) == set(range(6, 24))

    other, again = Brightening(seed=1), Brightening()
    assert score(again, members=(1, 2), tuning_clips=other, num_tuning=6).settings["num_clips"] == 24
    assert np.concatenate(other.read).tolist() == list(range(0, 24, 4)) and set(np.concatenate(again.read)) == set(range(24))


def test_set_apart():
    tuning, left = set_apart(6, np.array([7, 7, 7, 8, 8, 9]), num_tuning=2)
    assert tuning.tolist() == [0, 1] and left.tolist() == [3, 4, 5]
    assert [part.tolist() for part in set_apart(4, None, num_tuning=2)] == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="--tuning"):
        set_apart(6, np.array([7, 7, 7, 7, 7, 9]), num_tuning=2)


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


def test_noise_is_blurred_and_the_copy_is_not(score):
    result = score(Brightening(), noise=40.0, members=(1,))
    assert result.tuning.sigma_sample > 0 and result.tuning.sigma_copy == 0 and result.tuning.tolerance is None
    assert result.row(BLURRED).psnr.mean > result.row(ONE_SAMPLE).psnr.mean
    assert result.row(COPY_BLURRED) == type(result.row(COPY_FRAME))(**{**vars(result.row(COPY_FRAME)), "name": COPY_BLURRED})


def test_whole_clips_and_their_seen_and_last_frames_score_alike(score):
    whole, kept = (score(Brightening(num=12, kept=kept), members=(1, 2)) for kept in (False, True))
    assert whole.rows == kept.rows


def test_sizes(score):
    clips = Brightening(num=12, scale=2)
    small = score(clips, noise=0.0, sampling=Sampling(temperature=0.0), members=(1,), score_size=32)
    assert small.row(ONE_SAMPLE).psnr.mean == PSNR_CAP
    assert (small.settings["recorded_size"], small.settings["score_size"]) == ([64, 64], [32, 32])
    full = score(clips, noise=0.0, sampling=Sampling(temperature=0.0), members=(1,))
    assert full.settings["score_size"] == [64, 64] and 20 < full.row(ONE_SAMPLE).psnr.mean < PSNR_CAP
    assert full.row(COPY_FRAME).psnr == small.row(COPY_FRAME).psnr
    with pytest.raises(ValueError, match="cannot be scored at 128"):
        score(clips, members=(1,), score_size=128)


def test_a_model_of_tokens_draws_at_temperature_one(score):
    torch.manual_seed(0)
    coder = new_tokenizer(FSQConfig(channels=8, depth=1, levels=(8, 5, 5)), name="tiny").eval()
    sizes = {"vocab_size": 200, "grid": (4, 4), "num_layers": 1, "num_heads": 2, "width": 16, "state_hidden": 8}
    config = STConfig(num_states=34, state_dim=2, **sizes)
    result = evaluate_sampling(
        STTransformer(config).eval(), coder, Brightening(num=6), image_size=(32, 32), num_tuning=2, num_clips=2,
        members=(1, 2), cost_repeats=1, num_examples=1, members_at_once=2,
    )
    assert result.settings["sampling"]["temperature"] == 1.0 and not result.settings["own_sampling"]
    assert result.cost.ensemble == 2 and result.cost.seconds_ensemble > 0 and result.cost.parameters > 1000
    assert result.examples[0].spread.max() > 0 and STILL in {row.name for row in result.rows}


def test_what_does_not_fit_is_refused(score):
    for change, message in (
        ({"members": (0, 5)}, "at least one member"),
        ({"num_tuning": 1}, "at least 2, got 1"),
        ({"num_clips": 1}, "at least 2 clips"),
    ):
        with pytest.raises(ValueError, match=message):
            score(Brightening(), **change)
    short = Brightening()
    short.video = short.video[:, :60]
    with pytest.raises(ValueError, match="got 60 frames and 97 states"):
        score(short)


class Grey:
    """One feature a frame, named as what it stands for."""

    name = "FID"

    def __call__(self, video_BFHWC, *, num_future_frames):
        assert video_BFHWC.shape[1] == num_future_frames == 1
        return video_BFHWC.float().flatten(2).unflatten(2, (-1, 32))[..., :2].mean(2)


def absolute_difference(a_BFHWC, b_BFHWC):
    return (a_BFHWC.float() - b_BFHWC.float()).abs().mean((2, 3, 4)) / 255


def test_the_page_repeats_the_json_and_loads_nothing(score, tmp_path):
    networks = {"features": [Grey()], "lpips": absolute_difference}
    result = score(Brightening(), members=(1, 4), num_examples=2, cost_repeats=1, **networks)
    assert result.row(COPY_FRAME).perceptual["LPIPS"].mean == pytest.approx(
        float(Brightening().rise[4:].float().mean()) / 255
    )
    assert result.difference(mean_of(4), COPY_FRAME, metric="LPIPS").difference.mean < 0
    (tmp_path / "config.toml").write_text('recipe = "tiny <b>"\n')
    file = write_sampling_report(tmp_path, result, run_folder=tmp_path, command="hwm evaluate run")
    page, record = file.read_text(), json.loads((tmp_path / "results_sampling.json").read_text())
    assert file.name == "report_sampling.html" and record["verdict"] == verdict(result)
    for key, value in json.loads(json.dumps(result.to_json())).items():
        assert record["examples" if key == "examples" else key] == value
    sources = re.findall(r'(?:src|href|poster)="([^"]*)"', page)
    assert len(sources) == 2 + 2 * 7 and all(s.startswith("data:image/") for s in sources)
    assert "<script" not in page and "url(" not in page and "tiny &lt;b&gt;" in page
    assert f"{result.row(mean_of(4)).pooled_psnr:.2f}" in page
    text = text_table(result)
    assert all(row.name in text and row.name in page for row in result.rows) and "LPIPS" in text
    assert "beats repeating the last frame" in verdict(result)[0] and "it uses the states" in verdict(result)[1]


def test_one_sample_alone_has_a_page_too(score, tmp_path):
    result = score(Brightening(num=12), members=(1,), num_examples=1)
    assert result.headline == ONE_SAMPLE and result.calibration is None and result.saturation is None
    page = write_sampling_report(tmp_path, result, command="x").read_text()
    assert "Does it know" not in page and page.count("data:image/jpeg") == 4
    assert blend_of(1) not in {row.name for row in result.rows}


def test_maps_go_from_violet_to_yellow():
    shown = map_picture(np.array([[0.0, FULL_SCALE / 2, FULL_SCALE, 255.0]]))[0]
    assert shown.tolist() == [RAMP[i].tolist() for i in (0, 2, 4, 4)]
