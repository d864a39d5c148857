"""Commands beside states: written and read in 1X's raw layout, in LeRobot's and in rows that hold both; checked; asked for."""

from types import SimpleNamespace

import numpy as np
import pytest
from motion_data import COMMANDS, ROBOT, STATES, recordings

from hwm.data.clips import Clips
from hwm.data.describe import check
from hwm.data.motion import Motion
from hwm.data.onex import open_dataset
from hwm.data.recordings.convert import convert


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return recordings(tmp_path_factory.mktemp("commands") / "raw")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    robot = ROBOT.repeated(["observation.state", "action"])
    rows = [np.concatenate([s, c], 1) for s, c in zip(STATES, COMMANDS)]
    return recordings(tmp_path_factory.mktemp("both") / "raw", states=rows, commands=None, robot=robot)


def expect_the_same(motion):
    assert len(motion.shards) == len(STATES)
    for shard, states, commands in zip(motion.shards, STATES, COMMANDS):
        assert np.array_equal(shard.states, states) and np.array_equal(shard.read(0, shard.num_frames), commands)
    assert motion.robot.names == ROBOT.names


def test_commands_beside_states(raw):
    expect_the_same(Motion(open_dataset(raw)))
    assert check(raw).ok and open_dataset(raw).facts()["shards with commands"] == len(STATES)


def test_commands_in_the_rows_and_in_lerobot(both, tmp_path):
    expect_the_same(Motion(open_dataset(both)))
    pytest.importorskip("pyarrow")
    lerobot = open_dataset(convert(both, tmp_path / "lerobot", to="lerobot"))
    rows = np.concatenate([shard.read(0, shard.num_frames) for shard in Motion(lerobot).shards])
    np.testing.assert_array_equal(rows, np.concatenate(COMMANDS))


def test_clips_of_motion_hold_rows_that_belong_together(raw):
    clips = Clips(Motion(open_dataset(raw)), kind="motion", length=10)
    batch = clips.batch(np.array([0, len(clips) - 1]))
    np.testing.assert_array_equal(batch.states_BFA[0], STATES[0][:10])
    np.testing.assert_array_equal(batch.commands_BFA[1], COMMANDS[-1][-10:])


def test_recordings_without_commands_are_refused(tmp_path):
    bare = recordings(tmp_path / "bare", commands=None)
    assert "shards with commands" not in open_dataset(bare).facts() and not (bare / "robot_commands").exists()
    with pytest.raises(ValueError, match="holds no commands beside the states; `hwm simulate --commands`"):
        Motion(open_dataset(bare))
    with pytest.raises(ValueError, match="holds tokens; a twin learns from recordings"):
        Motion(SimpleNamespace(kind="tokens", root=bare, hz=30, clock=None))


@pytest.mark.parametrize(("damage", "words"), [
    (lambda path: path.write_bytes(path.read_bytes()[:-4]), "bytes"),
    (lambda path: path.write_bytes(np.full(STATES[0].shape, np.nan, "<f4").tobytes()), "row 0 is not finite"),
    (lambda path: path.unlink(), "has no commands, others have"),
])  # fmt: skip
def test_faulty_commands_are_found(tmp_path, damage, words):
    raw = recordings(tmp_path / "raw")
    damage(raw / "robot_commands" / "commands_0.bin")
    report = check(raw)
    assert not report.ok and any(words in finding.message and "commands_0.bin" in finding.file for finding in report.findings)


def test_commands_of_other_frames_are_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"commands must be finite \(20, 2\)"):
        recordings(tmp_path / "raw", commands=[c[:-1] for c in COMMANDS])
