"""The whole line on tiny data, through the command line: raw video -> tokens -> training -> scores, video, submission."""

import json
import re
import shutil
import sys
import zipfile

import numpy as np
import pytest
import torch
from moving_square import write_moving
from official_tests import write_compression_test_set
from PIL import Image, ImageSequence
from tiny_line import tokenizer

import hwm as package
from hwm.cli import main
from hwm.data.onex import open_dataset
from hwm.data.video import probe, read_video
from hwm.data.writers import RawShardWriter, write_dataset_metadata, write_tokenizer_info
from hwm.evaluate import perceptual
from hwm.evaluate.scores import TOKENS, Scores
from hwm.model_config import FSQConfig
from hwm.runs import load_run
from hwm.tokenizers.autoencoder import ContinuousTokenizer
from hwm.tokenizers.open import load_tokenizer, save_tokenizer
from hwm.watch.film import films

SHAPE = ["model.vocab_size=200", "model.factors=[8,5,5]", "model.grid=[4,4]", "train.steps=6", "train.validate_every=3"]
SHAPE += ["train.checkpoint_every=3", "train.sample_every=3", "train.threads=1"]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Intervals of distances are tested elsewhere and take long."""
    monkeypatch.setattr(perceptual, "NUM_RESAMPLES", 3)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Raw data of a square that moves with the first state, a tokenizer, and the tokens."""
    root = tmp_path_factory.mktemp("line")
    write_moving(root / "raw", rng=np.random.default_rng(0), frames=70, segments=3, shards=2)
    tokenizer(root / "coder")
    assert main(["tokenize", str(root / "raw"), str(root / "tokens"), "--tokenizer", str(root / "coder"), "--workers", "1"]) == 0
    arguments = ["train", "st-tiny", "--out", str(root / "run"), "--data", str(root / "tokens"), "--val", str(root / "tokens")]
    assert main([*arguments, "--tokenizer", str(root / "coder"), "--set", *SHAPE]) == 0
    return root


def test_training_leaves_a_run_that_describes_itself(place):
    run = load_run(place / "run")
    assert run.step in (3, 6) and run.config.model.vocab_size == 200
    assert (place / "run" / "samples" / "step-6.png").is_file()
    rows = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("val/ce_auto" in row for row in rows)
    shift, scale = run.model.states.shift_scale
    assert shift.abs().max() > 0 and not torch.allclose(scale, torch.ones(25))


def test_evaluation_writes_numbers_and_a_page(place):
    arguments = ["evaluate", str(place / "run"), "--data", str(place / "tokens"), "--video", str(place / "raw")]
    assert main([*arguments, "--out", str(place / "scores"), "--clips", "6"]) == 0
    results = json.loads((place / "scores" / "results.json").read_text())
    text = json.dumps(results)
    for word in ("copy last frame", "states permuted", "states zeroed", "teacher-forced"):
        assert word in text
    page = (place / "scores" / "report.html").read_text()
    assert page.count("<html") == 1 and "http://" not in page.replace("http://www.w3.org", "")


def test_what_is_missing_is_said_first_and_the_numbers_are_written(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    shutil.copytree(place / "run", tmp_path / "run", ignore=shutil.ignore_patterns("unigram.json"))
    run, tokens = str(tmp_path / "run"), str(place / "tokens")
    assert main(["evaluate", run, "--data", tokens, "--out", str(tmp_path / "scores"), "--clips", "2"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("There are no plots, for matplotlib is not installed: pip install")
    assert told[1].startswith("There is no unigram row: the run keeps no frequencies of training tokens; give --training")
    results = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert results["settings"]["missing"] == told[:2] and set(told[:2]) < set(results["verdict"])
    assert {score["value"]["low"] for score in results["scores"]} == {None}  # two clips give no interval
    assert "<img class=plot" not in (tmp_path / "scores" / "report.html").read_text()


def test_a_place_that_cannot_be_written_is_refused_before_any_work(place, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    run, data = str(place / "run"), str(place / "tokens")
    for out in (str(tmp_path / "file" / "x.mp4"), "/proc/none/x.mp4"):
        for verb in (["evaluate", run], ["predict", run], ["train", "st-tiny"]):
            assert main([*verb, "--data", data, "--out", out]) == 2
            assert re.search(rf"error: {out}: cannot (be )?writ", capsys.readouterr().err)


def test_tokens_are_scored_without_their_tokenizer(place, tmp_path, capsys):
    shutil.copytree(place / "run", tmp_path / "run", ignore=shutil.ignore_patterns("tokenizer"))
    command = ["evaluate", str(tmp_path / "run"), "--data", str(place / "tokens"), "--clips", "6"]
    command += ["--out", str(tmp_path / "scores")]
    for option in (["--video", str(place / "raw")], ["--decode", "sample"]):
        assert main([*command, *option]) == 2
        told = capsys.readouterr().err
        assert f"{option[0]}: of pixels, which take a tokenizer" in told and "give it with --tokenizer" in told
    assert main([*command, "--tokenizer", str(place / "nothing")]) == 2  # what is named and cannot be opened is no omission
    assert main(command) == 0
    said = "Pixels are not scored, the tokens alone."
    found = json.loads((tmp_path / "scores" / "results.json").read_text())
    told, page = capsys.readouterr().out, (tmp_path / "scores" / "report.html").read_text()
    assert {score["reference"] for score in found["scores"]} == {"tokens"} and found["examples"] == []
    assert said in told and said in page and any(said in line and "--tokenizer" in line for line in found["verdict"])
    assert "top-200 cross-entropy, floor" in told and "unigram" in page and "<video" not in page


def test_a_rollout_becomes_a_video(place):
    out = place / "rollout.mp4"
    for data in ("tokens", "raw"):
        assert main(["predict", str(place / "run"), "--data", str(place / data), "--out", str(out), "--frames", "34"]) == 0
        assert len(read_video(out)) == 51


def test_one_prediction_is_written_for_several_viewers(place, tmp_path, capsys):
    pytest.importorskip("mcap_protobuf")
    log, gif = tmp_path / "x.mcap", tmp_path / "x.gif"
    command = ["predict", str(place / "run"), "--data", str(place / "raw"), "--mcap", str(log), "--frames", "17"]
    assert main([*command, "--out", str(gif)]) == 0
    assert capsys.readouterr().out.split() == [str(gif), str(log), str(tmp_path / "x.layout.json")]
    with Image.open(gif) as shown:  # equal frames are one that stands longer
        assert sum(frame.info["duration"] for frame in ImageSequence.Iterator(shown)) == pytest.approx(1000 * 34 / 30, abs=6)
    assert main([*command, "--samples", "3", "--temperature", "2"]) == 0
    assert main([*command[:-4], "--samples", "3"]) == 2 and "shown with --mcap" in capsys.readouterr().err
    assert main([*command[:-4], "--out", "x.avi"]) == 2 and "ends in .mp4 or .gif" in capsys.readouterr().err


def test_a_film_doubts_by_the_family_or_by_its_samples_and_its_prediction_is_the_first(place):
    how = {"data": place / "raw", "frames": 34, "temperature": 2.0, "seed": 3, "device": "cpu"}
    (alone,), (three,) = (films(place / "run", doubting=True, samples=samples, **how) for samples in (1, 3))
    assert (alone.doubt_name, three.doubt_name) == ("token entropy", "ensemble spread") and alone.num_past == 17
    assert alone.doubt.shape == three.doubt.shape == (34, 32, 32) and 0 < alone.doubt.max() <= 1 and three.doubt.max() > 0
    np.testing.assert_array_equal(alone.prediction, three.prediction)
    shard = open_dataset(place / "raw").shards[0]
    np.testing.assert_array_equal(alone.truth, shard.read(0, 51))
    np.testing.assert_array_equal(alone.states, shard.read_states(np.arange(51)))
    world = package.load(place / "run", device="cpu")
    seen = world.predict(alone.truth[:17], alone.states, num_frames=34, seed=3, temperature=2.0)
    np.testing.assert_array_equal(alone.prediction[17:], seen.frames[0])
    first, other = films(place / "run", clips=(0, 2), **how | {"frames": 17})  # a clip's film is what it is alone
    np.testing.assert_array_equal(first.prediction, alone.prediction[:34])
    assert not np.array_equal(other.truth, first.truth) and other.about["clip"] == "2" and first.doubt is None


def test_a_video_ends_with_its_recording_and_plays_at_the_rate_of_the_data(place, tmp_path, capsys):
    copy, out = tmp_path / "data", tmp_path / "x.mp4"
    shutil.copytree(place / "tokens", copy, ignore=shutil.ignore_patterns("checksums*"))
    about = copy / "metadata.json"
    about.write_text(about.read_text().replace('"hz": 30', '"hz": 6'))
    command = ["predict", str(place / "run"), "--data", str(copy), "--out", str(out), "--clip", "1"]
    assert main(command) == 0
    told = capsys.readouterr().out
    ahead = int(re.search(r"ends (\d+) frames after the context, and so does the video", told)[1])
    assert len(read_video(out)) == 17 + ahead and ahead < 51 and probe(out)[2] == 6
    out.unlink()
    assert main([*command, "--frames", str(ahead + 1)]) == 2
    assert f"--frames must be {ahead} or less for clip 1, whose recording ends there" in capsys.readouterr().err
    assert not out.exists()
    assert main([*command, "--frames", str(ahead - 1)]) == 0 and len(read_video(out)) == 17 + ahead - 1


HWM_SHAPE = ["model.grid=[4,4]", "model.num_layers=2", "model.num_heads=2", "model.width=16", "model.unshared_blocks=1"]
HWM_SHAPE += ["train.steps=4", "train.validate_every=2", "train.checkpoint_every=2", "train.sample_every=4"]
HWM_SHAPE += ["train.batch_size=4", "train.threads=1"]
HWM_KINDS = {
    "masked": ("tokens", "coder", ["model.vocab_size=200", "model.factors=[8,5,5]"]),
    "flow": ("latents", "smooth", ["model.channels=3", "model.patch=2", "model.shortcut=0.25"]),
}


@pytest.fixture(scope="module", params=HWM_KINDS)
def hwm(place, request):
    """A run of either Humanoid World Model on the same recordings: its folder, its data, and the family."""
    data, coder, options = HWM_KINDS[request.param]
    if data == "latents":
        torch.manual_seed(0)
        config = FSQConfig(levels=(5, 5, 5), channels=8, depth=1, continuous=True)
        save_tokenizer(ContinuousTokenizer(config), place / "smooth")
        places = [str(place / "raw"), str(place / "latents")]
        assert main(["tokenize", *places, "--tokenizer", str(place / "smooth"), "--workers", "1"]) == 0
    arguments = ["train", f"{request.param}-hwm-modality-tiny", "--out", str(place / request.param)]
    arguments += ["--data", str(place / data), "--val", str(place / data), "--tokenizer", str(place / coder)]
    assert main([*arguments, "--set", *HWM_SHAPE, *options]) == 0
    return place / request.param, place / data, request.param


def test_both_humanoid_world_models_go_through_one_protocol(hwm, tmp_path):
    run, data, family = hwm
    assert (run / "samples" / "step-4.png").is_file()
    arguments = ["evaluate", str(run), "--data", str(data), "--video", str(run.parent / "raw"), "--out", str(tmp_path)]
    assert main([*arguments, "--clips", "6", "--set", "model.steps=2"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["settings"]["protocol"] == "hwm" and results["settings"]["future_frames"] == 8
    scores = Scores.from_json(results)
    assert bool(scores.select(reference=TOKENS)) == (family == "masked") and scores.cost.figures["samples/s"] > 0
    names = {score.row for score in scores.select(metric="psnr")}
    assert {"copy last frame", "model, states permuted", "model, states zeroed"} < names
    assert {score.row for score in scores.select(metric="TFD")} == names - {"tokenizer alone"}
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_a_part_of_a_block_rolls_out_to_a_video(hwm, tmp_path):
    run, data, _ = hwm
    assert main(["predict", str(run), "--data", str(data), "--out", str(tmp_path / "r.mp4"), "--frames", "20"]) == 0
    from hwm.data.video import read_video

    assert len(read_video(tmp_path / "r.mp4")) == 29


def test_only_how_a_run_predicts_may_change_later(hwm, capsys):
    run, data, _ = hwm
    assert main(["evaluate", str(run), "--data", str(data), "--set", "model.width=32"]) == 2
    assert "may change after training" in capsys.readouterr().err


def test_a_run_opens_nothing_outside_of_its_folder(place, tmp_path, capsys):
    assert load_tokenizer(place / "run/tokenizer").fingerprint() == load_tokenizer(place / "coder").fingerprint()
    stranger, data = tmp_path / "run", ["--data", str(place / "tokens"), "--out", str(tmp_path / "x.mp4"), "--frames", "17"]
    shutil.copytree(place / "run", stranger)
    config = (stranger / "config.toml").read_text()
    for name in (str(place / "coder"), "/nowhere", "../run", "wan:Some/Model"):
        (stranger / "config.toml").write_text(config.replace(f'"{place / "coder"}"', f'"{name}"'))
        assert main(["predict", str(stranger), *data]) == 0  # by its own
        shutil.move(stranger / "tokenizer", tmp_path / "kept")
        assert main(["predict", str(stranger), *data]) == 2
        assert "which lies elsewhere; give it with --tokenizer NAME or FOLDER" in capsys.readouterr().err
        shutil.move(tmp_path / "kept", stranger / "tokenizer")
    assert main(["predict", str(stranger), *data, "--tokenizer", str(place / "coder")]) == 0
    assert main(["predict", str(stranger), *data, "--tokenizer", "continuous-8x8x8"]) == 2
    assert "gives continuous latents, but tokens are needed" in capsys.readouterr().err
    shutil.rmtree(stranger / "tokenizer")
    (stranger / "tokenizer").mkdir()
    for name in ("config.json", "model.safetensors", "checksums.json"):
        (stranger / "tokenizer" / name).symlink_to(place / "coder" / name)
    assert main(["predict", str(stranger), *data]) == 2 and "leads out of the run" in capsys.readouterr().err


def test_a_tokenizer_that_did_not_make_the_data_is_refused_at_the_start(place, tmp_path, capsys):
    start = ["train", "st-tiny", "--out", str(tmp_path / "x"), "--data", str(place / "tokens"), "--set", *SHAPE]
    for name, told in (("continuous-8x8x8", "gives continuous latents"), ("fsq-8x8x8", "was encoded by another tokenizer than")):
        assert main([*start, "train.sample_every=0", "train.validate_every=0", f"tokenizer={name}"]) == 2
        assert told in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_a_submission_is_written_and_checked(place):
    coder = load_tokenizer(place / "coder")
    tokens = torch.randint(0, 200, (3, 3, 4, 4)).numpy().astype(np.int32)
    states = np.zeros((3, 64, 25), np.float32)
    root = place / "test_v2.0"
    write_compression_test_set(root, tokens_NTHW=tokens, states_NFA=states)
    write_tokenizer_info(
        root, name="coder", fingerprint=coder.fingerprint(), vocab_size=200, grid=(4, 4), clock=coder.clock, config={}
    )
    out = place / "submission.zip"
    who = ["--team", "Us", "--authors", "A, B", "--email", "a@b.org"]
    assert main(["submit", str(place / "run"), "--data", str(root), "--out", str(out), *who]) == 0
    with zipfile.ZipFile(out) as archive:
        assert sorted(archive.namelist()) == ["0.npz", "1.npz", "2.npz", "README.txt"]
        assert json.loads(archive.read("README.txt"))["team"] == "Us"


def test_a_trained_tokenizer_and_a_world_model_are_exported(place):
    arguments = ["train", "fsq-tiny", "--out", str(place / "fsq"), "--data", str(place / "raw"), "--val", str(place / "raw")]
    assert main([*arguments, "--set", "train.steps=4", "train.sample_every=4", "train.threads=1"]) == 0
    assert main(["export", str(place / "fsq"), str(place / "published")]) == 0
    assert load_tokenizer(place / "published").vocab_size == 200
    assert main(["export", str(place / "run"), str(place / "world"), "--dtype", "float16"]) == 0
    assert main(["predict", str(place / "world"), "--data", str(place / "tokens"), "--out", str(place / "world.mp4")]) == 0


@pytest.mark.parametrize("arguments, message", [
    (["train", "st-tiny", "--out", "{}/x", "--data", "{}/tokens"], "the model is for grid"),
    (["train", "st-tiny", "--out", "{}/x", "--data", "{}/raw"], "hwm tokenize"),
    (["train", "fsq-tiny", "--out", "{}/x", "--data", "{}/tokens"], "learns from video"),
    ([*"train st-tiny --out {}/x --data {}/tokens --set".split(), *SHAPE], "there are no validation clips: give --val FOLDER"),
    (["evaluate", "{}/run", "--data", "{}/tokens", "--tokenizer", "{}/nothing"], "no tokenizer"),
    (["predict", "{}/run", "--data", "{}/tokens", "--clip", "999"], "has clips 0.."),
    (["predict", "{}/run", "--data", "{}/wide"], "frames of 32x48 pixels would be squeezed into 32x32"),
    (["evaluate", "{}/run", "--data", "{}/wide", "--protocol", "sampling"], "pixels would be squeezed into 32x32"),
    (["submit", "{}/run", "--data", "{}/tokens", "--team", "x", "--authors", "x", "--email", "x"], "test"),
    ([*"train st-tiny --out {}/run --data {}/tokens --val {}/tokens --set seed=5".split(), "tokenizer={}/coder", *SHAPE], "seed")
])
def test_mistakes_are_named(place, arguments, message, capsys):
    if not (place / "wide").exists():
        with RawShardWriter(place / "wide", shard=0, height=32, width=48) as writer:
            writer.append(np.zeros((90, 32, 48, 3), np.uint8), np.zeros((90, 25), np.float32), 0)
        write_dataset_metadata(place / "wide", num_shards=1, num_images=90)
    assert main([a.format(place) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.strip().count("\n") == 0


DIRECT_SHAPE = ["model.grid=[32,32]", "model.num_layers=1", "model.num_heads=2", "model.width=16", "model.map_hidden=16"]
DIRECT_SHAPE += ["data.clip=block_pairs", "data.image_size=32", "train.steps=4", "train.batch_size=4", "train.warmup_steps=0"]
DIRECT_SHAPE += ["train.validate_every=2", "train.checkpoint_every=2", "train.sample_every=4", "train.threads=1"]


def test_the_line_of_a_model_of_frames_needs_no_tokenizer(place):
    run, raw = str(place / "direct"), str(place / "raw")
    assert main(["train", "direct-tiny", "--out", run, "--data", raw, "--val", raw, "--set", *DIRECT_SHAPE]) == 0
    assert (place / "direct/samples/step-4.png").is_file()
    shift, scale = load_run(run).model.shift_scale
    assert shift.abs().max() > 0 and not torch.allclose(scale, torch.ones(25))
    assert main(["predict", run, "--data", raw, "--out", run + ".mp4", "--frames", "60"]) == 0
    assert len(read_video(place / "direct.mp4")) == 9 + 60
    assert main(["train", "direct-tiny", "--out", run + "2", "--data", str(place / "tokens"), "--set", *DIRECT_SHAPE]) == 2
