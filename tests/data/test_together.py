"""Several datasets as one: every kind, what they have in common, and what they must."""

import shutil

import numpy as np
import pytest
import torch
from refusing import refused

from hwm.clock import COSMOS
from hwm.data import writers
from hwm.data.clips import Clips
from hwm.data.describe import state_statistics
from hwm.data.moments import write_statistics
from hwm.data.onex import open_dataset
from hwm.data.together import open_together


def write_latents(root, *, blocks, seed):
    rng = np.random.default_rng(seed)
    config = {"family": "fsq"}
    writers.write_tokenizer_info(root, name="t", fingerprint="f", channels=4, grid=(2, 2), clock=COSMOS, config=config)
    latents = rng.normal(seed, 1 + seed, size=(blocks, 3, 4, 2, 2)).astype(np.float16)
    states = rng.normal(seed, size=(17 * blocks, 25)).astype(np.float32)
    writers.LatentShardWriter(root, 0).write(latents, states, np.zeros(17 * blocks, np.int32))
    write_statistics(root, channels=4)
    writers.write_dataset_metadata(root, num_shards=1, num_images=17 * blocks)
    return latents.astype(np.float64), states


def test_statistics_are_those_of_all_latents_and_states(tmp_path):
    (one, rows), (two, more) = (write_latents(tmp_path / name, blocks=n, seed=n) for name, n in (("a", 3), ("b", 5)))
    joined = open_together([tmp_path / "a", tmp_path / "b"])
    both = np.moveaxis(np.concatenate([one, two]), 2, -1)
    np.testing.assert_allclose(joined.statistics.mean_C, both.reshape(-1, 4).mean(0), atol=1e-9)
    np.testing.assert_allclose(joined.statistics.std_C, both.reshape(-1, 4).std(0), atol=1e-9)
    np.testing.assert_allclose(joined.statistics.change_std_C, np.diff(both, axis=1).reshape(-1, 4).std(0), atol=1e-9)
    mean, std = state_statistics(joined)
    np.testing.assert_allclose(mean, np.concatenate([rows, more]).mean(0), atol=1e-6)
    np.testing.assert_allclose(std, np.concatenate([rows, more]).std(0), atol=1e-6)
    clips = Clips(joined, kind="blocks")
    assert len(clips) == 8 and joined.num_frames == 17 * 8
    np.testing.assert_array_equal(clips.batch(np.arange(8)).latents_BTCHW.numpy(), np.concatenate([one, two]).astype(np.float32))


def test_video_of_several_folders(tmp_path, make_raw):
    folders = [make_raw(tmp_path / "a", ((40,), (30,))), make_raw(tmp_path / "b", ((51,),))]
    joined = open_together(folders).resized(16)
    clips, alone = (Clips(x, kind="blocks", overlap=False) for x in (joined, open_dataset(folders[1]).resized(16)))
    assert joined.grid == (16, 16) and len(clips) == 2 + 1 + 3
    assert torch.equal(clips.batch(np.array([5])).video_BFHWC, alone.batch(np.array([2])).video_BFHWC)
    wide = make_raw(tmp_path / "c", ((40,),), side=64)
    mixed = open_together([folders[0], wide])
    told = refused("their frames are of other sizes, 32 32 and 64 64; set data.image_size", lambda: mixed.grid)
    assert str(folders[0]) in told and str(wide) in told
    assert mixed.resized(16).grid == (16, 16)


def test_one_folder_is_itself_and_kinds_do_not_mix(tmp_path, token_root, raw_root, make_tokens):
    assert type(open_together([token_root])) is type(open_dataset(token_root))
    assert open_together([token_root]).fingerprint == open_dataset(token_root).fingerprint
    refused("their kinds differ: tokens and video", open_together, [token_root, raw_root])
    refused("given twice", open_together, [token_root, token_root / ".." / token_root.name])
    other = make_tokens(tmp_path / "other", ((34,),), seed=5)
    there = open_together([token_root, other])
    assert there.fingerprint != open_together([other, token_root]).fingerprint
    shutil.copytree(other, tmp_path / "moved")
    assert there.fingerprint == open_together([token_root, tmp_path / "moved"]).fingerprint


@pytest.mark.parametrize("window", ["sampling", "frames"])
def test_windows_that_one_of_them_does_not_have(token_root, make_tokens, tmp_path, window):
    joined = open_together([token_root, make_tokens(tmp_path / "other", ((34,),))])
    refused("clips", Clips, joined, kind=window)
