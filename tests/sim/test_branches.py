"""Ways to go on from one moment: the same beginning to the last bit, then futures that the camera tells apart."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest

from hwm.clock import SAMPLING_CONTEXT, SAMPLING_FRAMES
from hwm.data.clips import Clips
from hwm.data.onex import open_dataset
from hwm.data.writers import write_dataset_metadata
from hwm.sim.jobs import Job, Studio
from hwm.sim.plan import FIRST_BRANCHING, Settings, Shard, make_plan
from hwm.sim.record import APART, LOOKED_AT, Recording, Segment

WAYS, START = 3, 8
SEGMENT = Segment(room=3, episode=4, num_frames=SAMPLING_FRAMES, full_body=True, start=START)
SETTINGS = Settings(minutes=1, val_minutes=1, size=64, seed=0, difficulty=0.5, segment_seconds=(1.0, 2.0), rooms=0, test_clips=0,
                    backend="disable", antialias=False, masks=True, commands=True)  # fmt: skip


@pytest.fixture(scope="module")
def branched(tmp_path_factory):
    """One start as a dataset, and what the job reports of it."""
    root = tmp_path_factory.mktemp("branches")
    job = Job(SETTINGS, Shard("branches", 0, WAYS * (SEGMENT,)), root)
    Studio("disable", nullcontext()).run(job, lambda count: None)
    write_dataset_metadata(root, num_shards=1, num_images=WAYS * SAMPLING_FRAMES)
    return open_dataset(root), job.read_report()


def by_way(rows):
    return np.array(rows).reshape(WAYS, SAMPLING_FRAMES, *rows.shape[1:])


def test_all_ways_begin_alike_and_are_seen_to_part(branched):
    dataset, told = branched
    shard = dataset.shards[0]
    frames, states, commands = (by_way(rows) for rows in (shard.frames, shard.states, shard.commands))
    masks = by_way(shard.read_masks(0, WAYS * SAMPLING_FRAMES))
    for rows in (frames, states, masks):
        assert all(np.array_equal(rows[0, :SAMPLING_CONTEXT], other[:SAMPLING_CONTEXT]) for other in rows[1:])
    assert all(np.array_equal(commands[0, : SAMPLING_CONTEXT - 1], other[: SAMPLING_CONTEXT - 1]) for other in commands[1:])
    there = frames[:, SAMPLING_CONTEXT + LOOKED_AT - 1].astype(float)
    gaps = [np.sqrt(np.square(a - b).mean()) for i, a in enumerate(there) for b in there[:i]]
    assert min(gaps) > APART - 1  # as encoded
    assert np.abs(np.diff(states[..., :21], axis=1)).max() < 0.2  # nothing jumps
    assert [way["skills"][0] for way in told] == [told[0]["skills"][0]] * WAYS and all(way["start"] == START for way in told)


def test_the_first_way_is_the_operator_s_own(branched):
    recording = Recording(replace(SEGMENT, num_frames=START + SAMPLING_FRAMES), texture_size=64, image_size=64)
    states = np.stack(list(recording.steps()))[START:]
    np.testing.assert_array_equal(branched[0].shards[0].states[:SAMPLING_FRAMES], states)


def test_clips_know_who_begins_like_them(branched, dataset):
    clips = Clips(branched[0], kind="sampling", overlap=False)
    assert clips.beginnings(SAMPLING_CONTEXT).tolist() == [0] * WAYS and clips.beginnings(SAMPLING_FRAMES) is None
    assert Clips(open_dataset(dataset / "val_v2.0_raw"), kind="blocks", overlap=False).beginnings(9) is None


def test_a_plan_with_starts_leaves_everything_else_as_it_was():
    usual, clips = make_plan(SETTINGS)
    shards, same = make_plan(replace(SETTINGS, starts=5, branches=4))
    starts = shards[len(usual) :]
    assert shards[: len(usual)] == usual and same == clips and "starts" not in SETTINGS.to_dict()
    assert [shard.index for shard in starts] == list(range(5)) and {len(shard.segments) for shard in starts} == {4}
    assert all(len(set(shard.segments)) == 1 for shard in starts) and len({shard.segments[0].room for shard in starts}) == 5
    assert not {s.room for x in starts for s in x.segments} & {s.room for x in usual for s in x.segments}
    assert min(s.episode for x in starts for s in x.segments) >= FIRST_BRANCHING
    for what in ("start", "full_body"):
        assert len({getattr(shard.segments[0], what) for shard in starts}) > 1
