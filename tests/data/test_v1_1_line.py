"""1X v1.1 from its files to its own score: trained, scored without a decoder, and what is refused."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from refusing import refused

from hwm.cli import main
from hwm.clock import EACH_FRAME
from hwm.config import RunConfig, override
from hwm.data.legacy import WIDTHS
from hwm.data.onex import open_dataset
from hwm.doctor import fit
from hwm.evaluate.protocols import AUTOREGRESSIVE, COPY_GRID, TEACHER_FORCED, UNIGRAM, V1_1
from hwm.evaluate.scores import ALL_GRIDS, TOKENS, Scores
from hwm.nn.states import state_pooling
from hwm.recipes import recipe
from hwm.runs import clips_for, load_run, open_clips

ZEROED, PERMUTED = "model, states zeroed", "model, states permuted"
SHAPE = ["model.grid=[4,4]", "train.steps=4", "train.validate_every=2", "train.checkpoint_every=4", "train.validate_clips=2"]
SHAPE += ["train.threads=1", "train.warmup_steps=0"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, make_legacy):
    """Two recordings of 300 frames whose tokens follow a joint, and a run of the tiny recipe on them."""
    root, rng = tmp_path_factory.mktemp("v1.1"), np.random.default_rng(0)
    for name in ("train", "val"):
        actions = {key: rng.normal(size=(600, width)) for key, width in WIDTHS.items()}
        tokens = rng.integers(0, 2**18, (600, 4, 4))
        make_legacy(root / name, tokens_NHW=tokens, segments=np.arange(600) // 300, actions=actions)
    arguments = ["train", "st-v1.1-tiny", "--out", str(root / "run"), "--data", str(root / "train"), "--val", str(root / "val")]
    assert main([*arguments, "--set", *SHAPE]) == 0
    return root


def test_clips_are_windows_of_frames_with_the_actions_of_each(place):
    config = override(recipe("st-v1.1-tiny"), SHAPE)
    clips, held = (open_clips(config, place / "val", training=training) for training in (True, False))
    dataset, last = clips.dataset, len(clips) - 1
    assert len(clips) == 2 * (300 - 15 * 15) and len(held) == 2 * 15 and clips.hz == 2
    batch, rows = clips.batch(np.array([0, last])), np.arange(16) * 15
    for i, start in enumerate((0, 600 - 226)):
        np.testing.assert_array_equal(batch.tokens_BTHW[i].numpy(), dataset.shards[0].tokens[start + rows, 0])
        np.testing.assert_array_equal(batch.states_BFA[i].numpy(), dataset.shards[0].read_states(np.arange(600))[start + rows])
    np.testing.assert_array_equal(state_pooling(EACH_FRAME, 16, num_states=16), np.eye(16))


def test_only_past_actions_are_seen(place):
    """The rule of v1.1: what happens at a frame does not depend on the actions at it or later."""
    run = load_run(place / "run")
    batch = clips_for(run, place / "val").batch(np.arange(2))
    hidden = run.model.trunk(batch.tokens_BTHW[:, :-1], run.model.states(batch.states_BFA), newest=15)
    states = batch.states_BFA.clone()
    states[:, 8:] += 1
    other = run.model.trunk(batch.tokens_BTHW[:, :-1], run.model.states(states), newest=15)
    changed = (hidden - other).abs().amax((1, 2, 3)) > 1e-6
    assert changed.tolist() == [False] * 8 + [True] * 7  # step t predicts frame t + 1


def test_the_score_is_that_of_the_challenge(place, tmp_path, capsys):
    """Each frame from true ones before it, the sum of both factors' cross-entropies, an id right where both its factors are."""
    command = ["evaluate", str(place / "run"), "--data", str(place / "val"), "--out", str(tmp_path), "--clips", "4"]
    assert main(command) == 0
    told, page = capsys.readouterr().out, (tmp_path / "report.html").read_text()
    scores = Scores.from_json(json.loads((tmp_path / "results.json").read_text()))
    run = load_run(place / "run")
    model, clips = run.model, clips_for(run, place / "val")
    batch = clips.batch(np.arange(4) * len(clips) // 4)
    with torch.no_grad():
        hidden_TBSD = model.trunk(batch.tokens_BTHW[:, :-1], model.states(batch.states_BFA), newest=15)
        low, high = model.vocabulary.logits(hidden_TBSD.transpose(0, 1).flatten(0, 2)).split(512, 1)
    ids = batch.tokens_BTHW[:, 1:].flatten()
    loss = F.cross_entropy(low, ids % 512) + F.cross_entropy(high, ids // 512)
    right = ((low.argmax(1) == ids % 512) & (high.argmax(1) == ids // 512)).double().mean()
    at = {"reference": TOKENS, "span": ALL_GRIDS}
    assert scores.protocol == "v1.1" and scores.headline == TEACHER_FORCED
    assert scores.of(TEACHER_FORCED, "cross-entropy", **at).mean == pytest.approx(float(loss), abs=1e-5)
    assert scores.of(TEACHER_FORCED, "accuracy", **at).mean == pytest.approx(float(right), abs=1e-9)
    rows = {score.row for score in scores.select(metric="cross-entropy", span=ALL_GRIDS)}
    assert rows == {TEACHER_FORCED, AUTOREGRESSIVE, ZEROED, PERMUTED, UNIGRAM}
    assert {score.row for score in scores.select(metric="accuracy")} == rows - {UNIGRAM} | {COPY_GRID}
    assert not [score for score in scores.scores if "top" in score.metric or score.metric == "coverage"]
    assert scores.difference(TEACHER_FORCED, ZEROED, "cross-entropy").value.mean == pytest.approx(
        scores.of(TEACHER_FORCED, "cross-entropy").mean - scores.of(ZEROED, "cross-entropy").mean
    )
    for words in ("Over 15 frames (7.50 s)", "nats, teacher-forced, a uniform guess 12.477", "Pixels are not scored"):
        assert words in told and words in page


def test_predicted_tokens_are_a_dataset_of_the_release(place, tmp_path):
    """Seen, predicted, true grids in the order of 1xgpt's `generate.py`; a predicted one is the likeliest after those before."""
    out = tmp_path / "tokens"
    command = ["predict", str(place / "run"), "--data", str(place / "val"), "--tokens", str(out), "--clip", "1"]
    assert main([*command, "--frames", "60", "--temperature", "0"]) == 0
    about = json.loads((out / "metadata.json").read_text())
    assert (about["num_prompt_frames"], about["window_size"], about["num_images"], about["hz"]) == (1, 5, 9, 2)
    found, run = open_dataset(out), load_run(place / "run")
    shard, clips = found.shards[0], clips_for(run, place / "val")
    batch, tokens = clips.batch(np.array([1])), shard.read(0, 9)
    true, order = batch.tokens_BTHW[0, :5].numpy(), [*range(5), *range(1, 5)]
    np.testing.assert_array_equal(tokens[[0, *range(5, 9)]], true)
    np.testing.assert_array_equal(shard.read_states(np.arange(9)), batch.states_BFA[0, order].numpy())
    assert shard.segments.tolist() == [0] * 5 + [1] * 4 and not [found for found in shard.check() if found.severity == "error"]
    seen = torch.cat([torch.from_numpy(tokens[:5]), batch.tokens_BTHW[0, 5:]])[None]
    with torch.no_grad():
        hidden_TBSD = run.model.trunk(seen[:, :-1], run.model.states(batch.states_BFA), newest=15)
        low, high = run.model.vocabulary.logits(hidden_TBSD[:4].transpose(0, 1).flatten(0, 2)).split(512, 1)
    np.testing.assert_array_equal(tokens[1:5].ravel(), (low.argmax(1) + 512 * high.argmax(1)).numpy())
    assert main(command) == 2  # a folder of that name is there


def test_the_doctor_asks_for_no_tokenizer_that_cannot_be(place):
    config = override(recipe("st-v1.1-tiny"), [*SHAPE, "train.sample_every=2"])
    dataset = open_dataset(place / "train")
    (verdict,) = fit.tokenizer(config, dataset)
    assert verdict.status == "ok" and "without pictures" in verdict.found
    (verdict,) = fit.tokenizer(override(config, ["tokenizer=fsq-8x8x8"]), dataset)
    assert verdict.status == "FAIL" and verdict.remedy.startswith("--set tokenizer=,")
    pictures = next(verdict for verdict in fit.settings(config, place / "other") if verdict.name == "pictures")
    assert pictures.remedy == "--set train.sample_every=0"


def test_what_v1_1_does_not_have_is_refused(place, tmp_path, capsys):
    run, data, out = str(place / "run"), str(place / "val"), str(tmp_path / "x")
    for arguments, told in (
        (["predict", run, "--data", data, "--out", out + ".mp4"], "decoded by 1X's own program: give --tokens FOLDER"),
        (["predict", run, "--data", data, "--tokens", out, "--frames", "16"], "--frames must be a multiple of 15"),
        (["predict", run, "--data", data, "--tokens", out, "--mcap", out + ".mcap"], "--mcap: tokens of 1X v1.1 have no pic"),
        (["evaluate", run, "--data", data, "--tokenizer", "fsq-8x8x8"], "1 grids for 1 frames, the tokenizer fsq-8x8x8 3 grids"),
        (["evaluate", run, "--data", data, "--protocol", "compression"], "scored by --protocol v1.1"),
        (["train", "st-tiny", "--data", data, "--out", out], "v1.1 gives clips of kind 'frames'"),
        (["train", "st-v1.1-tiny", "--data", data, "--out", out, "--set", "data.clip=blocks"], "theirs alone; set both"),
        (["train", "st-tiny", "--data", data, "--out", out, "--set", "data.stride=5"], 'data.stride is of data.clip "frames"'),
    ):
        assert main(arguments) == 2
        assert told in capsys.readouterr().err
    refused("is of 1 . 15 frames, one every 15; the run has 8 . 8 frames, one every 5", V1_1.expect_clips, "frames",
            grids=(8, 8), stride=5, run=place)  # fmt: skip
    assert isinstance(recipe("st-v1.1"), RunConfig) and recipe("st-v1.1").data.overlap is False
