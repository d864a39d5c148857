"""Cached latents of sampling clips: what is written, statistics, clips, sharing and resuming the work, refusals."""

import inspect
import json
import shutil

import numpy as np
import pytest
import torch
from damage import contents, edit_json, poke
from hypothesis import given, settings
from hypothesis import strategies as st
from moving_square import write_noise
from refusing import refused
from tiny_line import tokenizer

from hwm.cli import main
from hwm.cli.data import tokenize as verb
from hwm.clock import SAMPLING_HOP, WAN, subsample
from hwm.data.clips import Clips
from hwm.data.describe import check, contact_sheet, describe
from hwm.data.onex import open_dataset
from hwm.data.windows import sampling_starts
from hwm.data.writers import LatentShardWriter
from hwm.model_config import FSQConfig
from hwm.prepare import encoded
from hwm.tokenizers.autoencoder import ContinuousTokenizer
from hwm.tokenizers.encode import tokenize
from hwm.tokenizers.open import load_tokenizer, save_tokenizer
from hwm.work.share import Share

SHARDS = ((100, 30, 190), (50, 40), (77,))
"""Lengths of the segments of every shard; the second shard holds no clip."""
STARTS = ([0, 8, 16, *range(136, 244, 8)], [], [0])
CONFIG = FSQConfig(levels=(5,) * 4, channels=4, depth=1, continuous=True, temporal_stride=4, block=21)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A continuous tokenizer by Wan's clock, raw video and its latents, made by the command."""
    root = tmp_path_factory.mktemp("clips")
    torch.manual_seed(0)
    save_tokenizer(ContinuousTokenizer(CONFIG), root / "coder")
    write_noise(root / "raw", SHARDS, side=16)
    assert main(["tokenize", str(root / "raw"), str(root / "latents"), "--tokenizer", str(root / "coder"), "--workers", "1"]) == 0
    return root


@pytest.fixture
def latents(place, tmp_path):
    """A copy to damage."""
    return shutil.copytree(place / "latents", tmp_path / "latents")


@given(st.lists(st.integers(1, 300), min_size=1, max_size=4), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_starts_are_all_multiples_whose_frames_lie_in_one_segment(lengths, every):
    segments = np.repeat(np.arange(len(lengths)), lengths).astype(np.int32)
    expected = [s for s in range(0, len(segments) - 76, every) if len(set(segments[s : s + 77])) == 1]
    found = sampling_starts(segments, every=every, path="segment_idx_0.bin")
    assert found.dtype == np.int32 and found.tolist() == expected


def test_every_row_is_its_clip_encoded_by_itself(place):
    raw, dataset, coder = open_dataset(place / "raw"), open_dataset(place / "latents"), load_tokenizer(place / "coder")
    assert (dataset.every, dataset.channels, dataset.grid) == (8, 4, (2, 2))
    assert dataset.tokenizer["clip"] == {"frames": 77, "step": 4, "every": 8}
    for shard, recorded, starts in zip(dataset.shards, raw.shards, STARTS, strict=True):
        assert shard.starts.tolist() == starts and shard.latents.shape == (len(starts), 6, 4, 2, 2)
        assert shard.latents.dtype == np.float16 and shard.starts.dtype == np.int32
        assert np.array_equal(shard.states, recorded.states) and np.array_equal(shard.segments, recorded.segments)
        frames = np.array(recorded.frames)
        for row, start in enumerate(starts):
            clip = torch.from_numpy(frames[start : start + 77][subsample()])
            np.testing.assert_allclose(shard.read(int(shard.starts[row]), 77), coder.encode(clip[None])[0].numpy(), atol=1e-3)


def test_statistics_are_of_all_rows_and_of_changes_from_the_last_seen_latent(place):
    dataset = open_dataset(place / "latents")
    rows = np.concatenate([shard.latents for shard in dataset.shards]).astype(np.float64)
    changes = rows[:, 2:] - rows[:, [1]]
    found = dataset.statistics
    for value, expected in (
        (found.mean_C, rows.mean((0, 1, 3, 4))), (found.std_C, rows.std((0, 1, 3, 4))),
        (found.change_mean_C, changes.mean((0, 1, 3, 4))), (found.change_std_C, changes.std((0, 1, 3, 4)))
    ):
        np.testing.assert_allclose(value, expected, rtol=1e-10, atol=1e-12)


def test_clips_carry_six_latents_and_77_states(place):
    dataset = open_dataset(place / "latents")
    clips = Clips(dataset, kind="sampling")
    every_clip = [(position, start) for position, starts in enumerate(STARTS) for start in starts]
    assert list(zip(clips.index.shard.tolist(), clips.index.start.tolist())) == every_clip
    assert len(clips) == len(every_clip) and clips.index.length == clips.num_states == 77
    batch = clips.batch(np.array([len(clips) - 1, 4]))
    assert batch.latents_BTCHW.shape == (2, 6, 4, 2, 2) and batch.latents_BTCHW.dtype == torch.float32
    assert np.array_equal(batch.latents_BTCHW[0], dataset.shards[2].latents[0])
    assert np.array_equal(batch.latents_BTCHW[1], dataset.shards[0].latents[4])
    assert np.array_equal(batch.states_BFA[1], dataset.shards[0].states[144:221])


def test_clips_apart_share_no_frame_and_are_those_of_the_video(place):
    clips = Clips(open_dataset(place / "latents"), kind="sampling", overlap=False)
    # From the first multiple of 8 in a segment on; the next multiple past 77 frames is 80 further.
    assert list(zip(clips.index.shard.tolist(), clips.index.start.tolist())) == [(0, 0), (0, 136), (0, 216), (2, 0)]
    video = Clips(open_dataset(place / "raw"), kind="sampling", overlap=False, every=8)
    assert np.array_equal(video.index.start, clips.index.start) and np.array_equal(video.index.shard, clips.index.shard)
    chosen = np.arange(4)
    assert torch.equal(video.batch(chosen).states_BFA, clips.batch(chosen).states_BFA)
    assert video.batch(chosen).video_BFHWC.shape == (4, 77, 16, 16, 3)
    latents = load_tokenizer(place / "coder").encode(video.batch(chosen).video_BFHWC[:, subsample()])
    torch.testing.assert_close(clips.batch(chosen).latents_BTCHW, latents, atol=1e-3, rtol=0)


def test_any_way_of_sharing_the_work_gives_the_same_bytes(place, tmp_path):
    coder, whole = str(place / "coder"), contents(place / "latents")
    for k in (1, 0):
        tokenize(place / "raw", tmp_path / "parts", tokenizer=coder, share=Share(k, 2))

    def stop(done, total):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize(place / "raw", tmp_path / "broken", tokenizer=coder, progress=stop)
    assert not (tmp_path / "broken/metadata.json").exists() and not (tmp_path / "broken/statistics.json").exists()
    tokenize(place / "raw", tmp_path / "broken", tokenizer=coder, workers=2)
    assert whole == contents(tmp_path / "parts") == contents(tmp_path / "broken")


def test_other_clips_do_not_mix(place, latents, tmp_path):
    coder = str(place / "coder")
    with pytest.raises(ValueError, match="clips start every 8 frames, not 16; choose a new output folder"):
        tokenize(place / "raw", latents, tokenizer=coder, every=16)
    refused("choose a new output folder", tokenize, place / "raw", latents, tokenizer=coder, size=32)
    torch.manual_seed(1)
    other = save_tokenizer(ContinuousTokenizer(CONFIG), tmp_path / "other")
    refused("choose a new output folder", tokenize, place / "raw", latents, tokenizer=str(other))
    refused("leave phases at 1", tokenize, place / "raw", tmp_path / "new", tokenizer=coder, phases=2)
    refused("every at least 1", tokenize, place / "raw", tmp_path / "new", tokenizer=coder, every=0)
    blocks = tokenizer(tmp_path / "blocks", channels=4)
    refused("`every` is for sampling clips", tokenize, place / "raw", tmp_path / "new", tokenizer=str(blocks), every=16)
    assert not (tmp_path / "new").exists()


def test_clips_may_start_closer_or_farther_apart(place, tmp_path):
    command = ["tokenize", str(place / "raw"), str(tmp_path / "far"), "--tokenizer", str(place / "coder")]
    assert main([*command, "--every", "50", "--workers", "1"]) == 0
    dataset = open_dataset(tmp_path / "far")
    assert dataset.every == 50 and [shard.starts.tolist() for shard in dataset.shards] == [[0, 150, 200], [], [0]]
    assert Clips(dataset, kind="sampling", overlap=False).index.start.tolist() == [0, 150, 0]
    assert inspect.signature(verb).parameters["every"].default == SAMPLING_HOP


def test_data_of_the_wrong_sort_is_refused(place, tmp_path):
    clips = open_dataset(place / "latents")
    for kind in ("blocks", "block_pairs", "frames"):
        refused(f"^{clips.root}: holds latents of sampling clips.* kind 'sampling'", Clips, clips, kind=kind)
    refused("rows are sampling clips", clips.shards[0].read, 0, 17)
    blocks = ContinuousTokenizer(FSQConfig(levels=(5,) * 4, channels=4, depth=1, continuous=True))
    save_tokenizer(blocks, tmp_path / "blocks")
    tokenizer(tmp_path / "quantised", channels=4)
    made = open_dataset(tokenize(place / "raw", tmp_path / "latents", tokenizer=str(tmp_path / "blocks")))
    assert made.every == 0 and made.shards[2].num_rows == 5 and "clip" not in made.tokenizer
    refused(f"^{made.root}: holds latents of blocks.*`hwm tokenize", Clips, made, kind="sampling")
    tokens = open_dataset(tokenize(place / "raw", tmp_path / "tokens", tokenizer=str(tmp_path / "quantised")))
    refused(f"^{tokens.root}: holds tokens.*`hwm tokenize", Clips, tokens, kind="sampling")


def test_nothing_to_learn_from_is_said(place, tmp_path):
    raw = write_noise(tmp_path / "raw", ((76, 76),), side=16)
    refused("no sampling clip of 77 frames inside one segment", tokenize, raw, tmp_path / "out", tokenizer=str(place / "coder"))
    assert not (tmp_path / "out/metadata.json").exists()


def test_check_and_describe(place, tmp_path):
    assert check(place / "latents").findings == []
    facts = json.loads(json.dumps(describe(place / "latents")))
    assert facts["kind"] == "latents" and facts["clips"] == {"sampling_77": 18, "sampling_77_apart": 4}
    assert facts["frames"] == sum(map(sum, SHARDS)) and facts["latents"]["change_per_std"] > 0
    for name, coder in (("plain.png", None), ("decoded.png", load_tokenizer(place / "coder"))):
        contact_sheet(place / "latents", tmp_path / name, tokenizer=coder)
    assert (tmp_path / "plain.png").read_bytes() != (tmp_path / "decoded.png").read_bytes()


@pytest.mark.parametrize("name, damage, message", [
    ("clip_starts/clip_starts_0.bin", lambda p: p.unlink(), "no such file"),
    ("clip_starts/clip_starts_0.bin", lambda p: p.write_bytes(p.read_bytes()[:-1]), "whole int32 numbers"),
    ("clip_starts/clip_starts_0.bin", lambda p: poke(p, "<i4", 3, 24), "not the first frames of all clips"),
    ("clip_starts/clip_starts_1.bin", lambda p: p.write_bytes(bytes(4)), "latents_1.bin: truncated"),
    ("latents/latents_0.bin", lambda p: p.write_bytes(p.read_bytes()[:-2]), "truncated: .* float16 latents"),
    ("latents/latents_1.bin", lambda p: p.write_bytes(bytes(2)), "too long"),
    ("latents/latents_0.bin", lambda p: poke(p, "<f2", 2 * 96, np.nan), "clip 2 holds a value that is not finite"),
    ("segment_indices/segment_idx_2.bin", lambda p: poke(p, "<i4", -1, 1), "clip_starts_2.bin: not the first frames"),
    ("tokenizer.json", lambda p: edit_json(p, clip={"frames": 77, "step": 4, "every": 0}), "under 'clip'"),
    ("tokenizer.json", lambda p: edit_json(p, clip={"frames": 61, "step": 4, "every": 8}), "under 'clip'"),
    ("tokenizer.json", lambda p: edit_json(p, clip=None), "under 'clip'"),
    ("tokenizer.json", lambda p: edit_json(p, clip={"frames": 77, "step": 4, "every": 16}), "multiples of 16")
])
def test_faults_are_named(latents, name, damage, message):
    damage(latents / name)
    with pytest.raises(ValueError, match=message) as raised:
        clips = Clips(open_dataset(latents, verified=False), kind="sampling")
        clips.batch(np.arange(len(clips)))
    assert str(raised.value).startswith(str(latents)) and "\n" not in str(raised.value)
    assert not check(latents).ok


def test_the_writer_wants_one_row_for_every_clip(tmp_path):
    writer = LatentShardWriter(tmp_path, 0, clock=WAN, every=8)
    states, segments = np.zeros((100, 25), np.float32), np.zeros(100, np.int32)
    refused(r"100 frames need \(3, 6\) clips and grids", writer.write, np.zeros((4, 6, 4, 2, 2), np.float32), states, segments)
    assert not list(tmp_path.rglob("*.bin"))


def test_preparing_ignores_phases(place, tmp_path):
    for name, shards in (("train", ((120,),)), ("val", ((90,),)), ("val_unseen", ((77,),))):
        write_noise(tmp_path / "raw" / f"{name}_v2.0_raw", shards, side=16)
    sets = encoded(tmp_path / "raw", tmp_path / "latents", tokenizer=str(place / "coder"), phases=4)
    assert [len(Clips(open_dataset(p), kind="sampling")) for p in (sets.train, sets.val, sets.test)] == [6, 2, 1]
