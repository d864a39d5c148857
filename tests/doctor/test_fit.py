"""Settings, memory, disk and data that do not fit the recipe are seen."""

import re
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from tiny_doctor import ST, asked, config_of, states_of, the_one, write_tokens

from hwm.config import DataConfig, override
from hwm.data.onex import open_dataset
from hwm.data.writers import RawShardWriter, write_dataset_metadata
from hwm.doctor import examine, fit
from hwm.doctor.costs import recipe_costs
from hwm.training import checkpoint
from hwm.training.identity import record
from hwm.training.loop import Position


def test_settings_that_training_refuses(home, tmp_path):
    assert [v.status for v in fit.settings(config_of(home), tmp_path)] == ["ok"]
    without = replace(config_of(home), data=DataConfig(train="x"))
    assert "without held-out data" in the_one(asked(fit.settings, without, tmp_path), "settings", "FAIL").found
    state = asdict(Position(step=1)) | record(config_of(home), {})
    checkpoint.save(tmp_path / "checkpoints", state, {"model": {"weight": torch.zeros(1)}}, keep=1)
    assert [v.status for v in fit.settings(config_of(home), tmp_path)] == ["ok"]
    other = replace(config_of(home), seed=5)
    assert "this run has seed = 0, not 5" in the_one(asked(fit.settings, other, tmp_path), "settings", "FAIL").found


def test_the_remedy_for_too_little_memory_is_one(home):
    config = config_of(home, batch_size=64, accumulate=2)
    costs = recipe_costs(config)
    the_one(asked(fit.memory, costs, free=2 * costs.memory(64)), "training memory", "ok")
    the_one(asked(fit.memory, costs, free=1.05 * costs.memory(64)), "training memory", "warn")
    the_one(asked(fit.memory, costs, free=1.5 * costs.memory(64), nproc=2), "training memory", "FAIL")
    free = costs.memory(0) + (costs.memory(64) - costs.memory(0)) / 4
    failed = the_one(asked(fit.memory, costs, free=free), "training memory", "FAIL")
    mended = override(config, re.findall(r"train\.\w+=\d+", failed.remedy))
    assert mended.train.batch_size * mended.train.accumulate == 128 and 4 <= mended.train.batch_size < 64
    the_one(asked(fit.memory, recipe_costs(mended), free=free), "training memory", "ok")
    tiny = the_one(asked(fit.memory, costs, free=costs.memory(0) / 2), "training memory", "FAIL")
    assert "fsdp" in tiny.remedy and "smaller recipe" in tiny.remedy


def test_checkpoints_need_disk(home, tmp_path):
    costs = recipe_costs(config_of(home))
    one = fit.checkpoint_bytes(costs)
    the_one(asked(fit.disk, costs, tmp_path, free=9 * one), "checkpoints' disk", "ok")
    the_one(asked(fit.disk, costs, tmp_path, free=5 * one), "checkpoints' disk", "warn")
    the_one(asked(fit.disk, costs, tmp_path, free=3 * one), "checkpoints' disk", "FAIL")


# The data


def test_states_with_nan(home, tmp_path):
    shutil.copytree(home / "train", tmp_path / "bad")
    file = next((tmp_path / "bad").rglob("states_0.bin"))
    rows = np.fromfile(file, np.float32)
    rows[123] = np.nan
    rows.tofile(file)
    for quick, name in ((False, "training data"), (True, "training data"), (True, "states")):
        if name == "states":  # nobody wrote checksums, and nobody read every byte
            shutil.rmtree(tmp_path / "bad" / "checksums")
            (tmp_path / "bad" / "checksums.json").unlink()
        config = override(config_of(home), [f"data.train={tmp_path / 'bad'}"])
        found = examine(config, out=tmp_path, quick=quick, say=lambda line: None)
        assert name in found.failed and found.verdicts[-1].name == "training step"


def test_a_flipped_bit_and_a_missing_shard(home, tmp_path):
    shutil.copytree(home / "train", tmp_path / "bad")
    file = next((tmp_path / "bad").rglob("states_1.bin"))
    content = bytearray(file.read_bytes())
    content[400] ^= 1
    file.write_bytes(content)
    found = the_one(asked(fit.sound, "data", str(tmp_path / "bad"), quick=False), "data", "FAIL")
    assert "1 error," in found.found and file.name in found.found
    file.unlink()
    the_one(asked(fit.sound, "data", str(tmp_path / "bad"), quick=True), "asked", "FAIL")


def test_held_out_data_that_was_trained_on(home, tmp_path):
    train, val = (open_dataset(home / name) for name in ("train", "val"))
    the_one(asked(fit.held_out, train, val), "held-out data", "ok")
    the_one(asked(fit.held_out, train, train), "held-out data", "FAIL")
    shutil.copytree(home / "train", tmp_path / "copy")
    the_one(asked(fit.held_out, train, open_dataset(tmp_path / "copy")), "held-out data", "FAIL")
    half = np.concatenate([states_of(170, 0)[:17], states_of(170, 55)[17:]])
    partly = open_dataset(write_tokens(tmp_path / "partly", 7, "x", states=half))
    assert "10.0%" in the_one(asked(fit.held_out, train, partly), "held-out data", "warn").found
    rest = np.repeat(states_of(1, 3), 170, 0)  # at rest, the same in both: no sign of a leak but for one row
    still = [open_dataset(write_tokens(tmp_path / name, 8, "x", states=rest)) for name in ("a", "b")]
    assert len(fit.row_hashes(still[0])) == 1


@pytest.mark.parametrize("change, status, word", [
    (lambda rows: rows, "ok", "0 that never"), (lambda rows: np.where(np.arange(25) == 3, 1, rows), "warn", "KNEE_PITCH"),
    (lambda rows: 1e4 * rows, "warn", "far from"), (lambda rows: 0 * rows + 1, "FAIL", "none of them")
])
def test_states_that_say_nothing(change, status, word, tmp_path):
    dataset = open_dataset(write_tokens(tmp_path / "d", 0, "x", states=change(states_of(170, 0)).astype(np.float32)))
    assert word in the_one(asked(fit.states, dataset), "states", status).found


def test_the_tokenizer_of_the_data(home, tmp_path):
    dataset = open_dataset(home / "train")
    the_one(asked(fit.tokenizer, config_of(home), dataset), "tokenizer", "ok")
    other = replace(config_of(home), tokenizer="fsq-8x8x8")
    the_one(asked(fit.tokenizer, other, dataset), "tokenizer", "FAIL")
    the_one(asked(fit.tokenizer, replace(config_of(home), tokenizer=""), dataset), "tokenizer", "warn")
    the_one(asked(fit.tokenizer, replace(config_of(home), tokenizer=str(tmp_path)), dataset), "asked", "FAIL")


def test_clips_that_do_not_fit_or_do_not_suffice(home):
    given = fit.Given()
    fitting = asked(fit.fits, config_of(home), given, training=True)
    assert f"{len(given.train)};" in the_one(fitting, "training clips", "ok").found
    the_one(asked(fit.fits, config_of(home, batch_size=1000), fit.Given(), training=True), "training clips", "warn")
    wrong = replace(config_of(home), model=replace(ST, grid=(4, 4)))
    assert "set model.grid" in the_one(asked(fit.fits, wrong, fit.Given(), training=True), "asked", "FAIL").line()
    the_one(asked(fit.files, given), "open shards", "ok")


def test_room_for_decoded_frames(tmp_path):
    with RawShardWriter(tmp_path, shard=0, height=16, width=16) as writer:
        writer.append(np.zeros((20, 16, 16, 3), np.uint8), states_of(20, 0), 0)
    write_dataset_metadata(tmp_path, num_shards=1, num_images=20)
    dataset = open_dataset(tmp_path)
    the_one(asked(fit.decoding, dataset.resized(8), free=20 * 8 * 8 * 3), "decoded frames", "ok")
    the_one(asked(fit.decoding, dataset, free=20 * 8 * 8 * 3), "decoded frames", "FAIL")
