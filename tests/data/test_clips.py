import numpy as np
import pytest
import torch

from hwm.data.clips import Clips
from hwm.data.onex import open_dataset


def test_pairs_are_the_right_grids_and_states(token_root):
    dataset = open_dataset(token_root)
    clips = Clips(dataset, kind="block_pairs", overlap=True, num_states=64)
    batch = clips.batch(np.arange(len(clips)))
    assert batch.tokens_BTHW.dtype == torch.int64 and batch.tokens_BTHW.shape == (len(clips), 6, 4, 4)
    assert batch.states_BFA.dtype == torch.float32 and batch.states_BFA.shape == (len(clips), 64, 25)
    for i in range(len(clips)):
        shard, start = dataset.shards[clips.index.shard[i]], int(clips.index.start[i])
        truth = shard.tokens[start // 17 : start // 17 + 2].reshape(6, 4, 4)
        np.testing.assert_array_equal(batch.tokens_BTHW[i], truth)
        same = np.flatnonzero(shard.segments == shard.segments[start])
        rows = np.minimum(np.arange(start, start + 64), same[-1])
        np.testing.assert_array_equal(batch.states_BFA[i], shard.states[rows])
        np.testing.assert_array_equal(batch.states_BFA[i, :, 0], rows)


def test_single_blocks_and_apart(token_root):
    dataset = open_dataset(token_root)
    blocks = Clips(dataset, kind="blocks")
    assert blocks.batch(np.array([0, 3])).tokens_BTHW.shape == (2, 3, 4, 4)
    assert blocks.batch(np.array([0])).states_BFA.shape == (1, 17, 25)
    apart = Clips(dataset, overlap=False, kind="block_pairs")
    together = Clips(dataset, overlap=True, kind="block_pairs")
    assert 0 < len(apart) < len(together)


def test_the_padded_last_block_is_never_a_clip(tmp_path, make_tokens):
    clips = Clips(open_dataset(make_tokens(tmp_path, ((40,),))), kind="blocks")
    assert clips.index.start.tolist() == [0, 17]


@pytest.mark.parametrize("row, sound", [(2, True), (1, False)])
def test_what_pads_the_last_block_is_never_refused(tmp_path, make_tokens, row, sound):
    dataset = open_dataset(make_tokens(tmp_path, ((40,),)))
    shard = dataset.shards[0]
    tokens = np.fromfile(shard.video_path, "<i4").reshape(shard.tokens.shape)
    tokens[row] = -1
    tokens.tofile(shard.video_path)
    assert [finding.severity for finding in shard.check_pictures()] == ([] if sound else ["error"])


def test_batches_do_not_hold_the_map(token_root):
    dataset = open_dataset(token_root)
    clips = Clips(dataset, kind="block_pairs")
    batch = clips.batch(np.array([0, 0]))
    batch.tokens_BTHW[0] += 1
    batch.states_BFA[0] += 1
    assert (batch.tokens_BTHW[0] - batch.tokens_BTHW[1] == 1).all()
    assert (clips.batch(np.array([0])).tokens_BTHW[0] == batch.tokens_BTHW[1]).all()


@pytest.mark.parametrize("aligned", [True, False])
def test_video_and_states_belong_together(raw_root, aligned):
    clips = Clips(open_dataset(raw_root), kind="blocks", aligned=aligned)
    batch = clips.batch(np.arange(len(clips)))
    assert batch.video_BFHWC.dtype == torch.uint8 and batch.video_BFHWC.shape[1:] == (17, 32, 32, 3)
    shown = batch.video_BFHWC.float().mean(dim=(2, 3, 4))
    said = 20 + 5 * (batch.states_BFA[:, :, 0] % 40)
    assert (shown - said).abs().max() < 2.4
    assert (clips.index.start % 17 == 0).all() == aligned


def test_strided_video(raw_root):
    clips = Clips(open_dataset(raw_root).resized(8), kind="frames", length=5, stride=4, every=8)
    batch = clips.batch(np.array([1]))
    assert clips.index.start[1] == 8
    assert batch.video_BFHWC.shape == (1, 5, 8, 8, 3)
    assert batch.states_BFA[0, :, 0].tolist() == [8, 12, 16, 20, 24]
    assert (batch.video_BFHWC.float().mean(dim=(2, 3, 4))[0] - (20 + 5 * batch.states_BFA[0, :, 0])).abs().max() < 2.4


def test_v1_1_windows(tmp_path, make_legacy):
    tokens = np.arange(200)[:, None, None].repeat(4, 1).repeat(4, 2)
    widths = {"joint_pos": 21, "driving_command": 2, "l_hand_closure": 1, "r_hand_closure": 1}
    actions = {name: np.arange(200.0)[:, None].repeat(width, 1) for name, width in widths.items()}
    make_legacy(tmp_path, tokens_NHW=tokens, segments=np.arange(200) // 120, actions=actions)
    clips = Clips(open_dataset(tmp_path), kind="frames", length=4, stride=15, overlap=False)
    batch = clips.batch(np.arange(len(clips)))
    assert batch.tokens_BTHW.shape == (len(clips), 4, 4, 4) and batch.states_BFA.shape == (len(clips), 4, 25)
    frames = batch.tokens_BTHW[:, :, 0, 0].numpy()
    np.testing.assert_array_equal(np.diff(frames, axis=1), 15)
    np.testing.assert_array_equal(batch.states_BFA[:, :, 5], frames)
    assert len(np.unique(frames)) == frames.size, "no frame is used twice"
    with pytest.raises(ValueError, match="kind 'frames'"):
        Clips(open_dataset(tmp_path), kind="block_pairs")
