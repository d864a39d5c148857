"""Tokenizing raw shards: what is written, resuming, several processes, phases."""

import numpy as np
import pytest
import torch
from moving_square import write_noise
from refusing import refused

from hwm.data.onex import open_dataset
from hwm.model_config import FSQConfig
from hwm.tokenizers.autoencoder import FSQTokenizer
from hwm.tokenizers.encode import tokenize
from hwm.tokenizers.open import load_tokenizer, save_tokenizer
from hwm.work.share import Share

FRAMES = 60


@pytest.fixture
def tokenizer(tmp_path):
    torch.manual_seed(0)
    return save_tokenizer(FSQTokenizer(FSQConfig(levels=(8, 5, 5), channels=4, depth=1)), tmp_path / "coder")


@pytest.fixture
def raw(tmp_path):
    return write_noise(tmp_path / "raw", [(FRAMES // 2, FRAMES // 2)] * 3, side=32)


def contents(root):
    return {p.relative_to(root): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_tokens_are_those_of_the_frames(raw, tokenizer, tmp_path):
    out = tokenize(raw, tmp_path / "tokens", tokenizer=str(tokenizer))
    source, dataset, coder = open_dataset(raw), open_dataset(out), load_tokenizer(tokenizer)
    assert dataset.num_frames == 3 * FRAMES and dataset.grid == (4, 4) and dataset.vocab_size == 200
    for shard, recorded in zip(dataset.shards, source.shards):
        whole = torch.from_numpy(np.array(recorded.frames[:51])).unflatten(0, (-1, 17))
        assert np.array_equal(shard.tokens[:3], coder.encode(whole).numpy())
        assert len(shard.tokens) == 4 and np.array_equal(shard.states, recorded.states)


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
    torch.manual_seed(1)
    other = save_tokenizer(FSQTokenizer(FSQConfig(levels=(8, 5, 5), channels=4, depth=1)), tmp_path / "other")
    refused("choose a new output folder", tokenize, raw, out, tokenizer=str(other))
    refused("1 phases, not 4", tokenize, raw, out, tokenizer=str(tokenizer), phases=4)
    refused("already", tokenize, out, tmp_path / "again", tokenizer=str(tokenizer))
    refused("do not divide", tokenize, raw, tmp_path / "odd", tokenizer=str(tokenizer), size=36)
    refused("pixels: leaves frames as they are", tokenize, raw, tmp_path / "pixels", tokenizer="pixels")
