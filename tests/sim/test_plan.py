from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwm.sim.plan import CLIPS_PER_EPISODE, FIRST_ROOM, TEST_STATES, Settings, make_plan
from hwm.sim.simulate import validation

SETTINGS = Settings(
    minutes=5, val_minutes=1, size=64, seed=0, difficulty=0.3, segment_seconds=(12.0, 20.0), rooms=0, test_clips=10,
    backend="disable", antialias=False
)


def by_split(settings):
    shards, clips = make_plan(settings)
    splits = {s: [x for shard in shards if shard.split == s for x in shard.segments] for s in ("train", "val", "val_unseen")}
    return shards, clips, splits


@pytest.mark.fault("B5", "training and validation share no recording, over random plans")
@given(minutes=st.floats(0.05, 30), seed=st.integers(0, 99_999), difficulty=st.floats(0, 1), rooms=st.integers(0, 30))
def test_every_plan_keeps_its_promises(minutes, seed, difficulty, rooms):
    settings = replace(SETTINGS, minutes=minutes, seed=seed, difficulty=difficulty, rooms=rooms)
    shards, clips, splits = by_split(settings)
    # Half a frame may be rounded either way: minutes * 60 * 30 and minutes * 1800 differ in their last digit.
    assert abs(sum(s.num_frames for s in splits["train"]) - minutes * 1800) <= 0.5 + 1e-9
    for split in ("val", "val_unseen"):
        assert sum(s.num_frames for s in splits[split]) == 1800
        assert len([shard for shard in shards if shard.split == split]) == 1
    train = {s.room for s in splits["train"]}
    assert {s.room for s in splits["val"]} <= train
    assert not {s.room for s in splits["val_unseen"]} & train
    assert not {c.segment.room for c in clips} & (train | {s.room for s in splits["val_unseen"]})
    episodes = [s.episode for x in splits.values() for s in x] + [c.segment.episode for c in clips]
    assert len(set(episodes)) == len(episodes)
    if rooms:
        assert len(train) == min(rooms, len(splits["train"]))
    lively = sum(s.full_body for s in splits["train"])
    assert abs(lively - difficulty * len(splits["train"])) <= 1
    assert [shard.index for shard in shards if shard.split == "train"] == list(
        range(len([shard for shard in shards if shard.split == "train"]))
    )
    assert all(s.num_frames > 0 for x in splits.values() for s in x)


def test_segments_last_as_long_as_asked():
    _, _, splits = by_split(replace(SETTINGS, minutes=20))
    lengths = [s.num_frames / 30 for s in splits["train"]]
    assert min(lengths) > 0.85 * 12 and max(lengths) < 1.15 * 20


def test_test_clips_are_numbered_without_gaps():
    _, clips, _ = by_split(SETTINGS)
    assert [i for c in clips for i in range(c.first, c.first + c.count)] == list(range(10))
    assert [c.count for c in clips] == [CLIPS_PER_EPISODE, CLIPS_PER_EPISODE, 2]
    assert all(c.segment.num_frames == c.count * TEST_STATES for c in clips)


@pytest.mark.parametrize("minutes, seconds, share", [
    (2, (12.0, 20.0), 1 / 8), (60, (12.0, 20.0), 1 / 8), (7.5, (5.0, 8.0), 1 / 5), (1, (5.0, 8.0), 1 / 5),
])
def test_a_validation_set_has_ten_recordings_by_itself(minutes, seconds, share):
    val_minutes = validation(minutes, seconds, share=share)
    splits = by_split(replace(SETTINGS, minutes=minutes, val_minutes=val_minutes, segment_seconds=seconds))[2]
    assert len(splits["val"]) >= 10 <= len(splits["val_unseen"]) and val_minutes >= share * minutes
    assert validation(0.1, (12.0, 20.0)) == 0.1  # a trial stays short


def test_room_ranges_of_the_splits_never_meet():
    """Whatever the seed: the last room of a range lies before the first of the next."""
    last = [make_plan(replace(SETTINGS, seed=99_999))[0][0].segments[0].room]
    assert max(last) < FIRST_ROOM["val_unseen"] < FIRST_ROOM["test"]


@pytest.mark.parametrize("change", [
    {"minutes": 0.0}, {"minutes": float("nan")}, {"val_minutes": -1.0}, {"size": 63}, {"size": 32}, {"seed": -1},
    {"difficulty": 1.5}, {"segment_seconds": (5.0, 4.0)}, {"test_clips": -1}
])
def test_settings_out_of_range_are_named(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(SETTINGS, **change)


def test_settings_of_usual_worlds_tell_what_they_did_before_there_were_others():
    assert not {"light", "friction", "camera_shift"} & set(SETTINGS.to_dict())
    assert replace(SETTINGS, friction=0.5).to_dict() == {**SETTINGS.to_dict(), "friction": 0.5}
