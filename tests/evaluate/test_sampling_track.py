"""The sampling track through the command line: raw video -> a Wan model trained for two steps -> scores, video, submission."""

import json
import zipfile

import numpy as np
import pytest
import torch
from moving_square import moving, write_moving
from official_tests import write_compression_test_set, write_sampling_test_set
from stopping import Stopping

from hwm.apply import submit_sampling
from hwm.cli import main
from hwm.data.video import read_video
from hwm.model_config import FSQConfig
from hwm.tokenizers.autoencoder import ContinuousTokenizer
from hwm.tokenizers.open import save_tokenizer
from hwm.work.signals import Stopped

pytest.importorskip("diffusers")
pytest.importorskip("peft")
SHAPE = ["model.grid=[4,4]", "model.num_layers=1", "model.num_heads=2", "model.head_width=8", "model.mlp_width=32"]
SHAPE += ["model.channels=3", "model.steps=2", "train.steps=2", "train.batch_size=4", "train.validate_every=2"]
SHAPE += ["train.checkpoint_every=2", "train.sample_every=0", "train.threads=1", "train.ema=0.0"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("track"), np.random.default_rng(0)
    write_moving(root / "raw", rng=rng, frames=100, segments=3, shards=2)
    torch.manual_seed(0)
    config = FSQConfig(levels=(5, 5, 5), channels=8, depth=1, continuous=True, temporal_stride=4, block=21)
    save_tokenizer(ContinuousTokenizer(config), root / "coder")
    tokenize = ["tokenize", str(root / "raw"), str(root / "latents"), "--tokenizer", str(root / "coder"), "--workers", "1"]
    assert main(tokenize) == 0
    train = ["train", "wan-tiny", "--out", str(root / "run"), "--data", str(root / "latents"), "--val", str(root / "latents")]
    assert main([*train, "--tokenizer", str(root / "coder"), "--set", *SHAPE]) == 0
    videos, states = zip(*(moving(rng, 97) for _ in range(3)))
    write_sampling_test_set(root / "test_v2.0", videos=[frames[:17] for frames in videos], states_NFA=np.stack(states))
    return root


def test_frame_76_is_scored(place, capsys):
    arguments = ["evaluate", str(place / "run"), "--protocol", "sampling", "--data", str(place / "raw")]
    options = ["--tuning-clips", "2", "--members", "1", "3", "--out", str(place / "scores"), "--set", "model.steps=1"]
    assert main([*arguments, *options]) == 0
    record = json.loads((place / "scores" / "results_sampling.json").read_text())
    assert record["settings"]["protocol"] == "sampling" and record["settings"]["frame_step"] == 4
    assert record["settings"]["num_clips"] == 4 and record["settings"]["members"] == [1, 3]
    assert {"copy last frame", "mean of 3", "blend of 3", "mean of 3, states permuted"} < {r["name"] for r in record["rows"]}
    assert record["cost"]["figures"]["seconds, 1 sample"] > 0 and record["config"]["recipe"] == "wan-tiny"
    assert "<html" in (place / "scores" / "report_sampling.html").read_text()
    text = capsys.readouterr().out
    assert "mean of 3" in text and "copy last frame" in text and "Given another clip's states" in text


def test_every_fourth_frame_becomes_a_video_in_real_time(place, capsys):
    arguments = ["predict", str(place / "run"), "--data", str(place / "raw"), "--out", str(place / "clip.mp4")]
    assert main(arguments) == 0
    frames = read_video(place / "clip.mp4")
    assert frames.shape == (4 * 20, 256, 2 * 256 + 16, 3)
    assert main([*arguments, "--frames", "62"]) == 2 and "--frames must be a multiple of 4" in capsys.readouterr().err
    assert main([*arguments, "--frames", "120"]) == 2 and "whose recording ends there" in capsys.readouterr().err


@pytest.mark.parametrize("combine", [["mean"], ["medoid"], ["blend", "--tolerance", "4"]])
def test_a_submission_is_written_and_checked(place, combine):
    out = place / "submission.zip"
    arguments = ["submit", str(place / "run"), "--track", "sampling", "--data", str(place / "test_v2.0"), "--out", str(out)]
    arguments += ["--samples", "3", "--size", "64", "--set", "model.steps=1", "--combine", *combine]
    assert main([*arguments, "--team", "Us", "--authors", "A, B", "--email", "a@b.org"]) == 0
    with zipfile.ZipFile(out) as archive:
        assert sorted(archive.namelist()) == ["0.png", "1.png", "2.png", "README.txt"]
        assert json.loads(archive.read("README.txt"))["method"] == "hwm wan-tiny"
    assert main([*arguments, "--no-readme"]) == 0
    with zipfile.ZipFile(out) as archive:
        assert sorted(archive.namelist()) == ["0.png", "1.png", "2.png"]


@pytest.mark.fault("F5", "nothing half-written, the next start loses nothing")
def test_a_stopped_submission_goes_on_from_its_pictures_to_the_same_bytes(place, tmp_path):
    options = {"data": place / "test_v2.0", "readme": None, "samples": 2, "size": 64, "changes": ("model.steps=1",)}
    submit_sampling(place / "run", out=tmp_path / "whole.zip", **options)
    out, made = tmp_path / "stopped" / "submission.zip", []
    for looks in (3, 6, 9):
        with pytest.raises(Stopped):
            submit_sampling(place / "run", out=out, stop=Stopping(looks), **options)
        assert not out.exists() and not list(out.parent.glob("*.zip"))
        made.append({file.name: file.stat().st_mtime_ns for file in out.parent.glob(".parts-submission-*/*.bin")})
    assert made[0] and made[0].items() <= made[1].items() <= made[2].items() and len(made[2]) == 3
    submit_sampling(place / "run", out=out, **options)
    assert out.read_bytes() == (tmp_path / "whole.zip").read_bytes() and list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize(("arguments", "message"), [
    ("evaluate {}/run --protocol sampling --data {}/latents", "give the raw dataset"),
    ("evaluate {}/run --data {}/raw --decode sample", "--decode: only with --protocol compression or hwm"),
    ("evaluate {}/run --protocol hwm --data {}/latents --members 1 2", "--members: only with --protocol sampling"),
    ("evaluate {}/run --protocol hwm --data {}/latents", "scored by --protocol sampling"),
    ("evaluate {}/run --protocol sampling --data {}/raw", "too few"),
    ("evaluate {}/run --protocol sampling --data {}/raw --tuning {}/latents", "give the raw dataset"),
    ("predict {}/run --data {}/raw --clip 6", "has clips 0..5"),
    ("submit {}/run --track sampling --data {}/test_v2.0", "give --team"),
    ("submit {}/run --data {}/test_v2.0 --samples 3", "--samples: only with --track sampling"),
    ("submit {}/run --track sampling --no-readme --data {}/test_v2.0 --combine blend", "tuning.tolerance"),
    ("submit {}/run --track sampling --no-readme --data {}/test_v2.0 --tolerance 3", "only a blend does"),
    ("submit {}/run --track sampling --no-readme --data {}/tokens", "compression track")
])
def test_mistakes_are_named(place, arguments, message, capsys):
    if not (place / "tokens").exists():
        tokens = np.zeros((2, 3, 32, 32), np.int32)
        write_compression_test_set(place / "tokens", tokens_NTHW=tokens, states_NFA=np.zeros((2, 64, 25), np.float32))
    assert main(arguments.format(*[place] * 4).split()) == 2
    error = capsys.readouterr().err
    assert message in error and error.strip().count("\n") == 0
