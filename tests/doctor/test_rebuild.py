"""How well a tokenizer rebuilds a video is measured as it is said, and the remedy is a road that can be walked."""

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_line
import torch
from moving_square import write_moving, write_noise
from refusing import refused
from tiny_doctor import asked, config_of, the_one

from hwm.cli import main
from hwm.data.onex import open_dataset
from hwm.doctor import fit
from hwm.doctor.rebuild import CLIPS, Rebuilt, rebuild, rebuilding, remedy
from hwm.model_config import FSQConfig
from hwm.tokenizers.open import load_tokenizer, new_tokenizer


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("rebuild")
    write_moving(root / "train_raw", rng=np.random.default_rng(0), frames=40, segments=2)
    write_moving(root / "val_raw", rng=np.random.default_rng(1), frames=40, segments=2)
    tiny_line.tokenizer(root / "coder")
    return root


def db(a, b):
    """PSNR of every frame, by its definition."""
    return 10 * np.log10(255**2 / np.square(a.astype(float) - b).mean((-3, -2, -1)))


def test_reconstruction_and_copies_are_those_of_the_recorded_frames(place):
    coder = load_tokenizer(place / "coder")
    found = rebuild(coder, place / "train_raw")
    frames = np.array(open_dataset(place / "train_raw").shards[0].frames)
    starts = [start for start in range(64) if start // 40 == (start + 16) // 40]  # of one segment
    starts = [starts[i] for i in np.linspace(0, len(starts) - 1, CLIPS).round().astype(int)]
    clips = np.stack([frames[start : start + 17] for start in starts])
    again = coder.decode(coder.encode(torch.from_numpy(clips))).numpy()
    each = db(again, clips).mean(1)
    assert (found.clips, sorted(found.copied)) == (CLIPS, [*range(1, 17)])
    assert found.psnr == pytest.approx(each.mean()) and found.worst == pytest.approx(each.min())
    with np.errstate(divide="ignore"):
        copied = np.minimum(db(clips[:, :-8], clips[:, 8:]), 100).mean()
    assert found.copied[8] == pytest.approx(copied)
    small = rebuild(coder, place / "train_raw", size=16)
    assert small.clips == CLIPS and small.psnr != found.psnr


def test_clips_of_every_fourth_frame_are_rebuilt_by_wans_clock(tmp_path):
    raw = write_noise(tmp_path / "raw", [(90,)], side=16)
    config = FSQConfig(levels=(3, 3), channels=4, depth=1, continuous=True, temporal_stride=4, block=21)
    found = rebuild(new_tokenizer(config, name="wan"), raw)
    assert found.clips == 14 and sorted(found.copied) == [*range(4, 80, 4)] and max(found.copied.values()) < 100


def test_the_words_say_where_copying_wins():
    found = Rebuilt("coder", 25.0, 20.0, {1: 35.0, 8: 26.0, 16: 22.0}, 16)
    assert found.ahead == 8 and found.poor
    assert "rebuilds 16 clips of it at 25.0 dB (the worst 20.0)" in found.text()
    assert "35.0 dB of 1 frame ago, 26.0 dB of 8 frames ago, 22.0 dB of 16 frames ago" in found.text()
    assert "Up to 8 frames ahead copying is nearer" in found.text()
    sharp = replace(found, psnr=36.0)
    assert sharp.ahead == 0 and not sharp.poor and "copying is nearer" not in sharp.text()
    assert replace(found, psnr=29.0).ahead == 1 and not replace(found, psnr=29.0).poor


def test_the_remedy_is_a_road_that_can_be_walked(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    raw = place / "train_raw"
    assert main(["tokenize", str(raw), "tokens", "--tokenizer", str(place / "coder"), "--workers", "1"]) == 0
    told = capsys.readouterr().out
    assert f"{raw}: coder rebuilds 16 clips" in told and "fine-tune it on this video: hwm train fsq-tiny --init" in told
    train, export = [part for part in told.partition("video: ")[2].splitlines()[0].split("; ") if part.startswith("hwm ")]
    assert f"--val {place / 'val_raw'}" in train
    assert main([*shlex.split(train)[1:], "--set", "train.steps=1", "train.validate_every=1"]) == 0
    assert main(shlex.split(export)[1:]) == 0
    assert main(["tokenize", str(raw), "again", "--tokenizer", "my-tokenizer", "--workers", "1"]) == 0
    capsys.readouterr()
    assert main(["tokenize", str(raw), "again", "--tokenizer", "my-tokenizer", "--workers", "1"]) == 0
    assert "rebuilds" not in capsys.readouterr().out  # nothing is left to be encoded


def test_foreign_tokenizers_and_other_sizes_get_a_command_too(place, home):
    coder = load_tokenizer(place / "coder")
    told = remedy(coder, "a b", "raw", size=64)
    assert "--init 'a b' --out runs/tokenizer --data raw --val HELD_OUT --set data.image_size=64" in told
    other = new_tokenizer(FSQConfig(levels=(4, 4), channels=4, depth=1), name="other")
    told = remedy(other, "other", "raw")
    assert "train one on this video: hwm train fsq-8x8x8 --out" in told and "of small frames fsq-8x4x4 keeps more" in told
    finest = new_tokenizer(FSQConfig(levels=(4, 4), channels=4, depth=1, spatial_stride=4), name="finest")
    assert "keeps more" not in remedy(finest, "finest", "raw")
    refused("holds no video", rebuilding, str(place / "coder"), home / "train")
    refused("pixels: leaves frames as they are", rebuilding, "pixels", place / "train_raw")


def test_the_doctor_asks_the_same(place, home):
    config = replace(config_of(home), tokenizer=str(place / "coder"))
    verdict = the_one(asked(fit.rebuilt, config, str(place / "train_raw")), "rebuilding", "warn")
    assert verdict.found == rebuild(load_tokenizer(place / "coder"), place / "train_raw").text()
    refused("names no tokenizer", fit.rebuilt, replace(config, tokenizer=""), str(place / "train_raw"))
    assert Path(place / "train_raw").is_dir() and not list(Path(place / "train_raw").rglob("*.decoded"))
