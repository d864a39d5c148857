"""The clip index against brute force over every window."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusing import refused

from hwm.clock import Clock
from hwm.data.windows import ClipIndex, segment_end, state_rows


@dataclass
class Shard:
    segments: np.ndarray
    segments_path: Path = Path("segment_idx_0.bin")

    @property
    def num_frames(self):
        return len(self.segments)


@dataclass
class Data:
    shards: list
    clock: Clock
    root: Path = Path("data")


SHARDS = st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=6), min_size=1, max_size=3)


CLOCK = Clock(stride=2, block=5)


def dataset(shards, clock=CLOCK):
    ids = (np.repeat(np.arange(len(lengths)), lengths).astype(np.int32) for lengths in shards)
    return Data([Shard(segments) for segments in ids], clock)


def build(data, **options):
    try:
        index = ClipIndex.build(data, **options)
    except ValueError as error:
        assert "no clip" in str(error)
        return []
    return list(zip(index.shard.tolist(), index.start.tolist()))


def valid_windows(data, length, stride, candidates):
    """Every start whose frames all exist and all lie in one segment."""
    found = []
    for position, shard in enumerate(data.shards):
        for start in candidates(len(shard.segments)):
            frames = range(start, start + (length - 1) * stride + 1)
            if frames[-1] < len(shard.segments) and len(set(shard.segments[list(frames)])) == 1:
                found.append((position, start))
    return found


@pytest.mark.fault("B5", "no clip crosses a segment, whatever its kind")
@given(SHARDS)
@settings(max_examples=150, deadline=None)
def test_blocks_and_pairs(shards):
    data = dataset(shards)
    every_block = valid_windows(data, 5, 1, lambda n: range(0, n, 5))
    assert build(data, kind="blocks", overlap=True) == every_block
    assert build(data, kind="blocks", overlap=False) == every_block
    pairs = valid_windows(data, 10, 1, lambda n: range(0, n, 5))
    assert build(data, kind="block_pairs", overlap=True) == pairs
    # A pair is valid exactly when both blocks are and share the segment.
    assert all((p, s) in every_block and (p, s + 5) in every_block for p, s in pairs)
    assert build(data, kind="block_pairs", overlap=False) == [(p, s) for p, s in pairs if s % 10 == 0]
    anywhere = build(data, kind="blocks", overlap=True, aligned=False)
    assert anywhere == valid_windows(data, 5, 1, lambda n: range(n))


@pytest.mark.fault("B5", "no clip crosses a segment, whatever its kind")
@given(SHARDS, st.integers(1, 6), st.integers(1, 4), st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_frames(shards, length, stride, every):
    data = dataset(shards)
    found = build(data, kind="frames", overlap=True, length=length, stride=stride, every=every)
    assert found == valid_windows(data, length, stride, lambda n: range(0, n, every))
    for position, start in found:
        segments = data.shards[position].segments
        assert set(segments[state_rows(segments, start, 40)]) == {segments[start]}, "states beyond the clip, too"


@given(SHARDS, st.integers(1, 6), st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_apart_is_the_greedy_rule_of_1xgpt(shards, length, stride):
    data = dataset(shards)
    chosen: list[tuple[int, int]] = []
    for position, start in valid_windows(data, length, stride, lambda n: range(n)):
        conflicts = {(position, start - i * stride) for i in range(1, length)}
        if not conflicts & set(chosen):
            chosen.append((position, start))
    assert build(data, kind="frames", overlap=False, length=length, stride=stride) == chosen
    used = [(p, s + i * stride) for p, s in chosen for i in range(length)]
    assert len(used) == len(set(used))


@given(SHARDS, st.integers(1, 6), st.integers(1, 4), st.integers(2, 5))
@settings(max_examples=150, deadline=None)
def test_apart_from_every_nth_frame(shards, length, stride, every):
    data = dataset(shards)
    chosen = build(data, kind="frames", overlap=False, length=length, stride=stride, every=every)
    valid = valid_windows(data, length, stride, lambda n: range(0, n, every))
    used = [(p, s + i * stride) for p, s in chosen for i in range(length)]
    assert set(chosen) <= set(valid) and len(used) == len(set(used))
    if stride == 1:  # then also as many as there can be: each takes the first place that is free
        greedy: list[tuple[int, int]] = []
        for position, start in valid:
            if not greedy or greedy[-1][0] != position or start >= greedy[-1][1] + length:
                greedy.append((position, start))
        assert chosen == greedy


def test_a_window_of_the_whole_shard_is_found():
    assert build(dataset([[10]]), kind="block_pairs", overlap=True) == [(0, 0)]
    assert build(dataset([[9]]), kind="block_pairs", overlap=True) == []


def test_index_is_small():
    index = ClipIndex.build(dataset([[50]]), kind="blocks", overlap=True)
    assert index.shard.dtype == index.start.dtype == np.int32
    assert len(index) == 10


def test_decreasing_ids_name_file_and_frame():
    data = Data([Shard(np.array([0, 0, 3, 2, 2], np.int32))], Clock(1, 1))
    refused(r"^segment_idx_0.bin: .*falls from 3 to 2 at frame 3", ClipIndex.build, data, kind="blocks", overlap=True)


def test_no_clip_and_senseless_sizes():
    refused(r"^data: no clip of 10 frames", ClipIndex.build, dataset([[4, 4]]), kind="block_pairs", overlap=True)
    refused("at least 1", ClipIndex.build, dataset([[4, 4]]), kind="frames", overlap=True)


def test_states_stop_at_the_segment():
    segments = np.array([0, 0, 0, 4, 4, 9], np.int32)
    assert [segment_end(segments, i) for i in range(6)] == [3, 3, 3, 5, 5, 6]
    assert state_rows(segments, 1, 4).tolist() == [1, 2, 2, 2]
    assert state_rows(segments, 3, 2).tolist() == [3, 4]
