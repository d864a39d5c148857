"""Masks of the robot's body beside raw video: written, read, resized, checked."""

import re

import numpy as np
import pytest
import torch
from refusing import refused

from hwm.clock import SAMPLING_FRAMES
from hwm.config import DataConfig, RunConfig
from hwm.data import layout
from hwm.data.clips import Clips
from hwm.data.describe import check
from hwm.data.onex import open_dataset
from hwm.data.writers import RawShardWriter, write_dataset_metadata
from hwm.model_config import DirectConfig
from hwm.runs import open_clips

FRAMES, HEIGHT, WIDTH = 20, 16, 36


def write(root, masks):
    """One shard of two segments, grey, with these masks (FRAMES, HEIGHT, WIDTH), or with none."""
    rng = np.random.default_rng(0)
    with RawShardWriter(root, shard=0, height=HEIGHT, width=WIDTH) as writer:
        for segment, part in enumerate((slice(0, 12), slice(12, FRAMES))):
            count = part.stop - part.start
            states = rng.normal(size=(count, 25)).astype(np.float32)
            pictures = np.full((count, HEIGHT, WIDTH, 3), 90, np.uint8)
            writer.append(pictures, states, segment, None if masks is None else masks[part])
    write_dataset_metadata(root, num_shards=1, num_images=FRAMES)
    return root


@pytest.fixture
def masks():
    return np.random.default_rng(1).random((FRAMES, HEIGHT, WIDTH)) < 0.3


def test_masks_are_read_as_they_were_written(tmp_path, masks):
    dataset = open_dataset(write(tmp_path, masks))
    assert (tmp_path / "robot_masks" / "robot_mask_0.bin").stat().st_size == FRAMES * HEIGHT * 5  # 36 pixels are 5 bytes
    np.testing.assert_array_equal(dataset.shards[0].read_masks(3, 9), masks[3:12])
    assert check(tmp_path).ok


def test_clips_give_the_masks_of_their_frames(tmp_path, masks):
    long = np.concatenate([masks] * 2)[:34]
    with RawShardWriter(tmp_path, shard=0, height=HEIGHT, width=WIDTH) as writer:
        writer.append(np.full((34, HEIGHT, WIDTH, 3), 90, np.uint8), np.zeros((34, 25), np.float32), 0, long)
    write_dataset_metadata(tmp_path, num_shards=1, num_images=34)
    batch = Clips(open_dataset(tmp_path), kind="blocks", overlap=False, masks=True, kept=np.array([0, 4])).batch(np.array([1]))
    assert batch.masks_BFHW.dtype == torch.bool and batch.to("cpu").masks_BFHW is not None
    np.testing.assert_array_equal(batch.masks_BFHW[0].numpy(), long[[17, 21]])


def test_a_world_model_is_given_clips_of_its_horizon_and_the_masks_that_it_weighs(tmp_path):
    masks = np.random.default_rng(1).random((100, 32, 32)) < 0.3
    with RawShardWriter(tmp_path, shard=0, height=32, width=32) as writer:
        writer.append(np.full((100, 32, 32, 3), 90, np.uint8), np.zeros((100, 25), np.float32), 0, masks)
    write_dataset_metadata(tmp_path, num_shards=1, num_images=100)
    for horizon, length in ((60, SAMPLING_FRAMES), (90, 99)):
        model = DirectConfig(grid=(32, 32), horizon=horizon, body_loss=2.0 * (horizon > 60))
        clips = open_clips(RunConfig(model=model, data=DataConfig(clip="sampling")), tmp_path, training=True)
        batch = clips.batch(np.array([1]))
        assert len(clips) == 101 - length and batch.video_BFHWC.shape[1] == batch.states_BFA.shape[1] == length
    np.testing.assert_array_equal(batch.masks_BFHW[0].numpy(), masks[1:])


def test_a_mask_of_another_size_is_where_half_of_a_pixel_is_covered(tmp_path):
    masks = np.zeros((4, 32, 32), bool)
    masks[:, :16, :9] = True  # the pixel of the columns 8 and 9 is covered by half
    with RawShardWriter(tmp_path, shard=0, height=32, width=32) as writer:
        writer.append(np.zeros((4, 32, 32, 3), np.uint8), np.zeros((4, 25), np.float32), 0, masks)
    write_dataset_metadata(tmp_path, num_shards=1, num_images=4)
    small = open_dataset(tmp_path).resized(16).shards[0].read_masks(0, 4)
    assert small.shape == (4, 16, 16) and small[:, :8, :5].all() and small.sum() == 4 * 8 * 5


def test_what_has_no_masks_says_so_and_is_the_same_data(tmp_path, masks):
    bare, with_masks = open_dataset(write(tmp_path / "bare", None)), open_dataset(write(tmp_path / "masks", masks))
    assert not layout.MASKS.indices(tmp_path / "bare") and bare.shards[0].masks_path is None
    assert bare.fingerprint == with_masks.fingerprint
    refused("robot_mask_0.bin: no such file; give data of `hwm simulate --masks`", bare.shards[0].read_masks, 0, 1)


@pytest.mark.parametrize(("damage", "fault"), [
    (lambda data: data[:-1], "truncated: 1599 bytes, expected 1600 \\(20 frames of 16x36 pixels, a bit each\\)"),
    (lambda data: data[:84] + bytes([data[84] | 1]) + data[85:], "mask 1 goes beyond its frame"),
    (lambda data: bytes(len(data)), "shows the robot nowhere"),
    (lambda data: bytes([data[0] ^ 128]) + data[1:], "its content differs from checksums_0.json"),
])  # fmt: skip
def test_damaged_masks_are_found(tmp_path, masks, damage, fault):
    write(tmp_path, masks)
    path = layout.MASKS.find(tmp_path, 0)
    path.write_bytes(damage(path.read_bytes()))
    found = [finding for finding in check(tmp_path).findings if finding.severity == "error"]
    assert any(re.search(fault, finding.message) for finding in found), found
    assert {finding.file for finding in found} == {str(path)}


def test_masks_are_of_every_frame_and_of_its_size(tmp_path, masks):
    frames, states = np.zeros((4, HEIGHT, WIDTH, 3), np.uint8), np.zeros((4, 25), np.float32)
    for first, then in ((None, masks[:4]), (masks[:4], None), (masks[:4], masks[:4, :, 1:])):
        with pytest.raises(ValueError, match="masks must be of every frame"):
            with RawShardWriter(tmp_path, shard=0, height=HEIGHT, width=WIDTH) as writer:
                writer.append(frames, states, 0, first)
                writer.append(frames, states, 0, then)
    assert not list(tmp_path.rglob("*.bin"))
