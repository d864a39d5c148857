"""Tokenizing raw shards: what is written, resuming, several processes, phases."""

import json
import shutil

import numpy as np
import pytest
import tiny_line
import torch
from damage import contents
from moving_square import write_noise
from refusing import refused

from hwm.data.clips import Clips, recorded
from hwm.data.onex import open_dataset
from hwm.tokenizers.encode import tokenize
from hwm.tokenizers.open import load_tokenizer
from hwm.work.share import Share

FRAMES = 60


@pytest.fixture
def tokenizer(tmp_path):
    return tiny_line.tokenizer(tmp_path / "coder", channels=4)


@pytest.fixture
def raw(tmp_path):
    return write_noise(tmp_path / "raw", [(FRAMES // 2, FRAMES // 2)] * 3, side=32)


def test_tokens_are_those_of_the_frames(raw, tokenizer, tmp_path):
    out = tokenize(raw, tmp_path / "tokens", tokenizer=str(tokenizer))
    source, dataset, coder = open_dataset(raw), open_dataset(out), load_tokenizer(tokenizer)
    assert dataset.num_frames == 3 * FRAMES and dataset.grid == (4, 4) and dataset.vocab_size == 200
    for shard, origin in zip(dataset.shards, source.shards):
        whole = torch.from_numpy(np.array(origin.frames[:51])).unflatten(0, (-1, 17))
        assert np.array_equal(shard.tokens[:3], coder.encode(whole).numpy())
        assert len(shard.tokens) == 4 and np.array_equal(shard.states, origin.states)


def test_any_way_of_sharing_the_work_gives_the_same_bytes(raw, tokenizer, tmp_path):
    whole = tokenize(raw, tmp_path / "whole", tokenizer=str(tokenizer), phases=2)
    calls = []
    for k in (1, 0):
        tokenize(raw, tmp_path / "parts", tokenizer=str(tokenizer), phases=2, share=Share(k, 2))
    tokenize(raw, tmp_path / "many", tokenizer=str(tokenizer), phases=2, workers=2, progress=lambda *a: calls.append(a))
    assert contents(whole) == contents(tmp_path / "parts") == contents(tmp_path / "many")
    assert calls[-1] == (6, 6)


def test_phases_shift_frames_and_states_together(raw, tokenizer, tmp_path):
    out, source = tokenize(raw, tmp_path / "tokens", tokenizer=str(tokenizer), phases=2), open_dataset(raw)
    dataset = open_dataset(out)
    assert len(dataset.shards) == 6 and dataset.shards[1].num_frames == FRAMES - 8
    frames = torch.from_numpy(np.array(source.shards[0].frames[8:25]))[None]
    assert np.array_equal(dataset.shards[1].tokens[0], load_tokenizer(tokenizer).encode(frames)[0].numpy())
    assert np.array_equal(dataset.shards[1].states, source.shards[0].states[8:])


def test_tokens_of_two_tokenizers_do_not_mix(raw, tokenizer, tmp_path):
    out = tokenize(raw, tmp_path / "tokens", tokenizer=str(tokenizer))
    other = tiny_line.tokenizer(tmp_path / "other", seed=1, channels=4)
    refused("choose a new output folder", tokenize, raw, out, tokenizer=str(other))
    refused("1 phases, not 4", tokenize, raw, out, tokenizer=str(tokenizer), phases=4)
    refused("already", tokenize, out, tmp_path / "again", tokenizer=str(tokenizer))
    other = noise(tmp_path / "another raw")
    before = contents(other)
    refused("holds data that were not made by `hwm tokenize`; choose a new", tokenize, raw, other, tokenizer=str(tokenizer))
    (out / "tokenizer.json").unlink()
    refused("holds data that were not made by `hwm tokenize`", tokenize, raw, out, tokenizer=str(tokenizer))
    assert contents(other) == before
    refused("do not divide", tokenize, raw, tmp_path / "odd", tokenizer=str(tokenizer), size=36)
    refused("pixels: leaves frames as they are", tokenize, raw, tmp_path / "pixels", tokenizer="pixels")


# --- What belongs together -------------------------------------------------------------------------------------------


def noise(root, seed=1, shards=3):
    return write_noise(root, [(FRAMES // 2, FRAMES // 2)] * shards, side=32, seed=seed)


@pytest.mark.parametrize("phases", [1, 2])
@pytest.mark.parametrize("finished", [True, False])
def test_an_output_whose_source_changed_is_refused_before_encoding(raw, tokenizer, tmp_path, phases, finished):
    options = {"tokenizer": str(tokenizer), "phases": phases}
    out = tokenize(raw, tmp_path / "out", **options, share=Share(0, 1 if finished else 2))
    before, calls = contents(out), []
    other = noise(tmp_path / "other")
    told = refused("was made of other data than shard 0 of .*other; choose a new output folder", tokenize, other, out, **options,
                   progress=lambda *done: calls.append(done))  # fmt: skip
    assert str(out) in told and contents(out) == before and not calls
    shutil.copytree(raw, tmp_path / "moved")
    (tmp_path / "moved" / "checksums.json").unlink()  # neither the place nor recorded checksums matter
    assert contents(tokenize(tmp_path / "moved", out, **options)) == contents(tokenize(raw, tmp_path / "at once", **options))
    refused("shard . was made of other data", tokenize, noise(tmp_path / "fewer", seed=0, shards=1), out, **options)


def test_an_output_that_does_not_tell_its_source_goes_on(raw, tokenizer, tmp_path):
    out = tokenize(raw, tmp_path / "out", tokenizer=str(tokenizer), share=Share(0, 2))
    for path in (out / "metadata").glob("*.json"):
        about = json.loads(path.read_text())
        assert len(about.pop("source")) == 64
        path.write_text(json.dumps(about))
    assert len(open_dataset(tokenize(raw, out, tokenizer=str(tokenizer))).shards) == 3


@pytest.mark.parametrize("phases", [1, 4])
def test_the_video_of_other_data_is_refused(raw, tokenizer, tmp_path, phases):
    tokens = tokenize(raw, tmp_path / "tokens", tokenizer=str(tokenizer), phases=phases)
    clips = Clips(open_dataset(tokens), kind="blocks")
    frames = recorded(clips, raw, size=(32, 32))(np.arange(len(clips)))
    for number, (shard, start) in enumerate(zip(clips.index.shard, clips.index.start)):
        whole = open_dataset(raw).shards[shard // phases].frames[shard % phases * 17 // phases :]
        assert np.array_equal(frames[number], whole[start : start + 17])

    def other(kind, change):
        root = shutil.copytree(raw, tmp_path / kind)
        for sidecar in root.rglob("checksums*.json"):
            sidecar.unlink()
        change(root / kind)
        return root

    def swap(folder):
        first, last = sorted(folder.iterdir())[::2]
        first.rename(folder / "aside"), last.rename(first), (folder / "aside").rename(last)

    def count_from_one(folder):
        for path in folder.iterdir():
            (np.fromfile(path, "<i4") + 1).tofile(path)

    others = {
        "other states of shard 0": noise(tmp_path / "noise"),
        "other segments of shard 0": other("segment_indices", count_from_one),
        "another video of shard 0": other("videos", swap),
        "there is nothing of shard 1": noise(tmp_path / "short", 0, 1),
        "another number of frames of shard 0": write_noise(tmp_path / "long", [(FRAMES + 1,)], side=32),
    }
    for difference, root in others.items():
        told = f"{root}: not the video of {tokens}: {difference}; give the raw dataset that it was made of"
        refused(told, recorded, clips, root, size=(32, 32))
