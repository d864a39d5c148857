"""Latents cached by `hwm tokenize`: what is written, statistics, what readers refuse."""

import json
import shutil

import numpy as np
import pytest
import torch
from damage import edit_json, poke
from moving_square import write_noise
from refusing import refused

from hwm.cli import main
from hwm.data.clips import Clips
from hwm.data.describe import check, contact_sheet, describe, state_statistics
from hwm.data.onex import open_dataset
from hwm.data.writers import LatentShardWriter
from hwm.model_config import FSQConfig
from hwm.tokenizers.autoencoder import ContinuousTokenizer
from hwm.tokenizers.encode import tokenize
from hwm.tokenizers.open import load_tokenizer, save_tokenizer

FRAMES = 60
CONFIG = FSQConfig(levels=(5,) * 4, channels=4, depth=1, continuous=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A continuous tokenizer, raw video of 3 shards with segments of 40 and 20 frames, and its latents."""
    root = tmp_path_factory.mktemp("latents")
    torch.manual_seed(0)
    save_tokenizer(ContinuousTokenizer(CONFIG), root / "coder")
    write_noise(root / "raw", [(40, 20)] * 3, side=32)
    assert main(["tokenize", str(root / "raw"), str(root / "latents"), "--tokenizer", str(root / "coder")]) == 0
    return root


@pytest.fixture
def latents(place, tmp_path):
    """A copy to damage."""
    return shutil.copytree(place / "latents", tmp_path / "latents")


def test_latents_are_those_of_the_frames(place):
    source, dataset, coder = open_dataset(place / "raw"), open_dataset(place / "latents"), load_tokenizer(place / "coder")
    assert dataset.kind == "latents" and dataset.num_frames == 3 * FRAMES
    assert dataset.grid == (4, 4) and dataset.channels == 4 and dataset.hz == 30
    assert dataset.tokenizer["fingerprint"] == coder.fingerprint() and dataset.tokenizer["config"]["continuous"]
    assert "vocab_size" not in dataset.tokenizer
    for shard, recorded in zip(dataset.shards, source.shards):
        whole = torch.from_numpy(np.array(recorded.frames[:51])).unflatten(0, (-1, 17))
        expected = coder.encode(whole).numpy()
        assert shard.latents.shape == (4, 3, 4, 4, 4) and shard.latents.dtype == np.float16
        np.testing.assert_allclose(shard.latents[:3], expected, atol=1e-3)
        assert np.array_equal(shard.read(17, 34), shard.latents[1:3].astype(np.float32).reshape(6, 4, 4, 4))
        assert np.array_equal(shard.states, recorded.states) and np.array_equal(shard.segments, recorded.segments)


def test_clips_carry_latents_and_states(place):
    dataset = open_dataset(place / "latents")
    clips = Clips(dataset, num_states=20, kind="blocks")
    # Of blocks at frames 0, 17, 34 and the padded one, those of 34 cross the segment border at 40.
    assert [(int(s), int(f)) for s, f in zip(clips.index.shard, clips.index.start)] == [(s, f) for s in range(3) for f in (0, 17)]
    batch = clips.batch(np.array([3, 0]))
    assert batch.tokens_BTHW is None and batch.latents_BTCHW.dtype == torch.float32
    assert batch.latents_BTCHW.shape == (2, 3, 4, 4, 4) and batch.states_BFA.shape == (2, 20, 25)
    assert np.array_equal(batch.latents_BTCHW[0].numpy(), dataset.shards[1].read(17, 17))
    assert np.array_equal(batch.states_BFA[0].numpy(), dataset.shards[1].states[17:37])
    assert Clips(dataset, kind="block_pairs").batch(np.array([0])).latents_BTCHW.shape == (1, 6, 4, 4, 4)
    refused("'blocks' or 'block_pairs'", Clips, dataset, kind="frames")


def test_statistics_are_those_of_the_blocks_that_clips_use(place):
    dataset = open_dataset(place / "latents")
    blocks = np.concatenate([shard.latents[:2] for shard in dataset.shards]).astype(np.float64)
    changes = blocks[:, 1:] - blocks[:, :-1]
    found = dataset.statistics
    for value, expected in (
        (found.mean_C, blocks.mean((0, 1, 3, 4))), (found.std_C, blocks.std((0, 1, 3, 4))),
        (found.change_mean_C, changes.mean((0, 1, 3, 4))), (found.change_std_C, changes.std((0, 1, 3, 4)))
    ):
        assert value.shape == (4,) and value.dtype == np.float64
        np.testing.assert_allclose(value, expected, rtol=1e-10, atol=1e-12)
    assert found.change_std_C.min() > 0


def test_nothing_to_learn_from_is_said(place, tmp_path):
    write_noise(tmp_path / "raw", [(10, 10)], side=32)
    with pytest.raises(ValueError, match="no block of whole grids inside one segment"):
        tokenize(tmp_path / "raw", tmp_path / "out", tokenizer=str(place / "coder"))
    assert not (tmp_path / "out/metadata.json").exists()


def test_check_and_describe(place, tmp_path):
    report = check(place / "latents")
    assert report.findings == []
    facts = json.loads(json.dumps(describe(place / "latents")))
    assert facts["kind"] == "latents" and facts["channels"] == 4 and facts["grid"] == [4, 4]
    assert facts["tokenizer"] == "coder" and facts["clips"] == {"blocks": 6, "block_pairs": 3, "block_pairs_apart": 3}
    assert facts["latents"]["smallest_std"] <= facts["latents"]["largest_std"]
    dataset = open_dataset(place / "latents")
    mean, _ = state_statistics(dataset)
    np.testing.assert_allclose(mean, np.concatenate([s.states for s in dataset.shards]).mean(0, dtype=np.float64), atol=1e-9)
    assert main(["data", "check", str(place / "latents")]) == 0
    assert main(["data", "describe", str(place / "latents"), "--sheet", str(tmp_path / "sheet.png")]) == 0
    contact_sheet(place / "latents", tmp_path / "decoded.png", tokenizer=load_tokenizer(place / "coder"))
    assert (tmp_path / "sheet.png").read_bytes() != (tmp_path / "decoded.png").read_bytes()


@pytest.mark.parametrize("name, damage, message", [
    ("latents/latents_1.bin", lambda p: p.write_bytes(p.read_bytes()[:-2]), "truncated: .* float16 latents"),
    ("latents/latents_1.bin", lambda p: p.write_bytes(p.read_bytes() + b"00"), "too long"),
    ("latents/latents_0.bin", lambda p: poke(p, "<f2", 250, np.nan), "block 1 holds a value that is not finite"),
    ("latents/latents_0.bin", lambda p: poke(p, "<f2", 0, np.inf), "block 0 holds a value that is not finite"),
    ("robot_states/states_2.bin", lambda p: p.unlink(), "no such file"),
    ("tokenizer.json", lambda p: p.unlink(), "no such file; latents cannot be read without it"),
    ("tokenizer.json", lambda p: edit_json(p, channels=0), "'channels'"),
    ("tokenizer.json", lambda p: edit_json(p, channels=5), "truncated"),
    ("statistics.json", lambda p: p.unlink(), "no such file"),
    ("statistics.json", lambda p: edit_json(p, mean=[0.0] * 5), "mean: expected a list of 4 numbers"),
    ("statistics.json", lambda p: edit_json(p, std=[-1.0] * 4), "negative"),
    ("statistics.json", lambda p: p.write_text("[]"), "expected a JSON object"),
    ("metadata.json", lambda p: p.unlink(), "no such file")
])
def test_faults_are_named(latents, name, damage, message):
    damage(latents / name)
    with pytest.raises(ValueError, match=message) as raised:
        dataset = open_dataset(latents, verified=False)
        clips = Clips(dataset, kind="blocks")
        clips.batch(np.arange(len(clips)))
        _ = dataset.statistics
    assert str(raised.value).startswith(str(latents)) and "\n" not in str(raised.value)
    assert not check(latents).ok


def test_a_flipped_bit_is_found(latents):
    for name in ("latents/latents_2.bin", "statistics/statistics_1.json", "statistics.json"):
        path = latents / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
        assert any(name in f.file for f in check(latents).findings)
        path.write_bytes(whole)
    assert check(latents).ok


def test_the_writer_refuses_what_no_reader_would_accept(tmp_path):
    writer, states, segments = LatentShardWriter(tmp_path, 0), np.zeros((17, 25), np.float32), np.zeros(17, np.int32)
    refused("blocks and grids", writer.write, np.zeros((2, 3, 4, 2, 2)), states, segments)
    for value in (np.nan, 1e6):
        refused("reach of float16", writer.write, np.full((1, 3, 4, 2, 2), value, np.float32), states, segments)
    assert not list(tmp_path.rglob("*.bin"))
