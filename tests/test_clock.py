"""The clock over all small cases, against brute force."""

import pytest

from hwm.clock import COSMOS, WAN, Clock, subsample


@pytest.mark.parametrize("stride", range(1, 9))
@pytest.mark.parametrize("groups", range(0, 5))
def test_spans_tile_the_frames_and_agree_with_their_inverse(stride, groups):
    clock = Clock(stride=stride, block=1 + groups * stride)
    assert clock.grids == 1 + groups
    frame = 0
    for grid in range(3 * clock.grids):
        start, stop = clock.span(grid)
        assert start == frame and stop - start == (1 if grid % clock.grids == 0 else stride)
        assert all(clock.grid_of(f) == grid for f in range(start, stop))
        assert clock.num_frames(grid + 1) == stop
        frame = stop
    assert frame == 3 * clock.block == clock.num_frames(3 * clock.grids)
    assert clock.num_grids(3 * clock.block) == 3 * clock.grids


@pytest.mark.parametrize("clock", [COSMOS, WAN, Clock(stride=2, block=7)])
def test_num_grids_accepts_exactly_the_causal_lengths(clock):
    for frames in range(1, 3 * clock.block + 1):
        valid = (frames - 1) % clock.stride == 0 if frames <= clock.block else frames % clock.block == 0
        if valid:
            assert clock.num_frames(clock.num_grids(frames)) == frames
        else:
            with pytest.raises(ValueError):
                clock.num_grids(frames)


def test_published_clips():
    assert [COSMOS.span(g) for g in range(6)] == [(0, 1), (1, 9), (9, 17), (17, 18), (18, 26), (26, 34)]
    assert WAN.num_grids(21) == 6 and WAN.num_grids(5) == 2
    indices = subsample()
    assert len(indices) == 21 and indices[-2:].tolist() == [76, 76] and indices[:3].tolist() == [0, 4, 8]


def test_blocks_of_the_published_shards():
    assert COSMOS.stored_blocks(112_542) == 6_621 and COSMOS.num_blocks(112_542) == 6_620
    assert COSMOS.stored_blocks(50_300) == 2_959 and COSMOS.num_blocks(50_300) == 2_958


@pytest.mark.parametrize("stride, block", [(0, 1), (8, 16), (4, 0)])
def test_impossible_clocks_are_refused(stride, block):
    with pytest.raises(ValueError):
        Clock(stride=stride, block=block)
