"""Driving a model: the recording's states or a person's, their range and pace, doubt, and what is recorded of it."""

import numpy as np
import pytest
import torch
from refusing import refused

from hwm.contracts import Sampling
from hwm.data.clips import Clips
from hwm.data.onex import open_dataset
from hwm.data.video import read_video
from hwm.interact.drive import Drive, Studio
from hwm.models.twin import Motion
from hwm.predict.last_frame import generator_of
from hwm.predict.rollout import rollout
from hwm.tokenizers.open import Pixels


@pytest.fixture
def drive(studio):
    return Drive(studio)


def test_following_the_recording_is_its_rollout(studio, drive):
    shard = studio.dataset.shards[0]
    video, states = (torch.from_numpy(np.array(x))[None] for x in (shard.read(0, 3), shard.read_states(np.arange(20))))
    own = rollout(studio.world.model, studio.world.tokenizer, video, states, num_frames=17, generator=torch.Generator())
    found = [shown for _ in range(17) for shown in drive.step()]
    assert np.abs(np.stack([shown.dream for shown in found]).astype(int) - own.video_BKFHWC[0, 0].numpy()).max() <= 1
    assert (np.stack([shown.truth for shown in found]) == shard.read(3, 17)).all()
    assert (np.stack([shown.states for shown in found]) == states[0, 3:].numpy()).all()
    error = np.square(found[0].dream.astype(float) - found[0].truth).mean()
    assert found[0].psnr == pytest.approx(10 * np.log10(255**2 / error), abs=0.01)
    assert [shown.frame for shown in found] == list(range(1, 18))


def test_following_ends_with_the_recording_and_a_command_goes_on(studio, drive):
    for _ in range(87):
        assert not drive.ended and len(drive.step()) == 1
    assert drive.ended and drive.step() == []
    drive.aim(drive.states.astype(float))
    (shown,) = drive.step()
    assert not drive.ended and shown.truth is None and shown.psnr is None


def test_states_go_where_they_are_sent_at_the_pace_of_the_recordings(studio, drive):
    before = drive.states.copy()
    wanted = before.astype(float)
    wanted[0] = studio.high[0]
    assert drive.aim(wanted) == 0 and not drive.follow
    rows = np.stack([drive.step()[0].states for _ in range(3)])
    step = min(studio.pace[0], studio.high[0] - before[0])
    assert rows[0, 0] - before[0] == pytest.approx(step, abs=1e-5) and (rows[:, 1:] == before[1:]).all()
    assert (np.diff(rows[:, 0]) <= studio.pace[0] + 1e-6).all()


def test_nothing_leaves_the_range_of_the_recordings(studio, drive):
    states = studio.dataset.shards[0].read_states(np.arange(180))
    assert (studio.low == states.min(0)).all() and (studio.high == states.max(0)).all()
    assert drive.aim(np.full(25, 1e9)) == 25
    for _ in range(90):
        (shown,) = drive.step()
    assert shown.states == pytest.approx(studio.high, abs=1e-5)


@pytest.mark.parametrize("wanted", [None, "x", {}, [0.0] * 24, [0.0] * 26, [0.0] * 24 + ["0"], [0.0] * 24 + [None], [True] * 25,
                                    [float("nan")] + [0.0] * 24, [float("inf")] + [0.0] * 24, [10**400] + [0] * 24])  # fmt: skip
def test_a_command_is_a_finite_number_for_each_state(studio, wanted):
    refused("a command", studio.target, wanted)


def test_a_start_is_one_of_the_clips(studio, drive):
    drive.aim(drive.states.astype(float) + 1)
    drive.start(1)
    assert drive.follow and not drive.ended and drive.clip == 1
    clips = Clips(open_dataset(studio.dataset.root), kind="sampling", overlap=False)
    first = int(clips.index.start[1])
    assert (drive.first_look().truth == studio.dataset.shards[0].read(first + 2, 1)[0]).all()
    refused("clip must be one of 0..", drive.start, len(studio.clips))


def test_doubt_is_the_change_since_the_frame_seen_last(studio, drive):
    assert drive.step()[0].doubt is None
    drive.start(0)
    drive.doubt("glance")
    seen = drive.first_look().truth.astype(float)
    last = seen
    for i in range(8):
        (shown,) = drive.step()
        assert shown.doubt.shape == (32, 32) and drive.doubt_name == "predicted change"
        if i == 7:  # the reach of 7 was used up: from its own frame on
            seen = last
        assert shown.doubt == pytest.approx(np.sqrt(np.square(shown.dream - seen).mean(-1)) / 255, abs=1e-5)
        last = shown.dream.astype(float)


def test_a_spread_is_that_of_samples_from_where_the_dream_is(worlds, place, studio):
    refused("leaves nothing to chance", Drive(studio).doubt, "spread")
    refused("by must be one of", Drive(studio).doubt, "guess")
    drawing, plain = (Drive(Studio(worlds["st"], place.raw)) for _ in range(2))
    plain.step()
    drawing.step()
    drawing.doubt("spread")
    one, other = drawing.step(), plain.step()
    assert all((x.dream == y.dream).all() for x, y in zip(one, other))  # the dream itself goes on as ever
    found = np.stack([shown.doubt for shown in one])
    assert drawing.doubt_name == "spread of 4 samples" and found.min() >= 0 and found.max() > 0.01
    samples = []
    for k in range(4):
        again = Drive(Studio(worlds["st"], place.raw))
        again.step()
        again._dream.generator, again._dream.sampling = generator_of(0, k, torch.device("cpu")), Sampling(temperature=1.0)
        samples.append(np.stack([shown.dream for shown in again.step()]).astype(float) / 255)
    assert found == pytest.approx(np.sqrt(np.var(samples, 0, ddof=1).mean(-1)), abs=1e-3)


def test_a_recording_is_what_was_shown(studio, drive, tmp_path):
    refused("nothing was shown", drive.write, tmp_path)
    drive.step()
    drive.record()
    drive.aim(studio.high.astype(float))
    shown = [drive.step()[0] for _ in range(12)]
    film, dataset = drive.write(tmp_path)
    assert film.name == "drive-001.mp4" and dataset.name == "drive-001" and not drive.recording
    assert read_video(film).shape == (12, 256, 256, 3)
    opened = open_dataset(dataset)
    assert opened.hz == 30 and opened.robot.names == studio.robot.names
    assert opened.shards[0].read_states(np.arange(12)) == pytest.approx(np.stack([s.states for s in shown]))
    assert np.abs(opened.shards[0].read(0, 12).astype(int) - np.stack([s.dream for s in shown])).mean() < 8
    drive.record()
    drive.step()
    assert drive.write(tmp_path)[0].name == "drive-002.mp4"


def test_what_a_page_shows_of_the_robot(studio):
    about = studio.about()
    assert about["run"] == "tiny" and about["size"] == [32, 32] and about["clips"] == len(studio.clips)
    assert sorted(i for rows in about["groups"].values() for i in rows) == list(range(25))
    assert isinstance(studio.world.tokenizer, Pixels) and len(about["low"]) == len(about["pace"]) == 25


def test_with_a_twin_the_dream_is_given_the_states_that_it_foresees(worlds, twin, place):
    late = Drive(Studio(worlds["direct"], place.raw, twin=twin.run))
    plain = Drive(Studio(worlds["direct"], place.raw))
    for drive in (late, plain):
        for _ in range(3):
            drive.step()
        drive.aim(drive.studio.high.astype(float))
    (foreseen,), (commanded,) = late.step(), plain.step()
    motion = Motion(late.studio.twin)
    at = late.studio.world.context_frames + 3
    motion.reset(torch.from_numpy(late.studio.dataset.shards[0].read_states(np.arange(at - 3, at)))[None])
    expected, _ = motion.step(torch.from_numpy(commanded.states)[None])
    assert foreseen.states == pytest.approx(expected[0].numpy(), abs=1e-5) and late.studio.about()["twin"]
    assert np.abs(foreseen.states - commanded.states).max() > 1e-3 and not plain.studio.about()["twin"]
