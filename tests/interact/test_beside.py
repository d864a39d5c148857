"""What stands beside a dream: the simulator in the recording's own room, on the same commands, and where there is none."""

import numpy as np
import pytest
from refusing import refused

from hwm.cli import main
from hwm.data.video import read_video
from hwm.interact import starts
from hwm.interact.drive import Drive, Studio
from hwm.interact.world import World


@pytest.fixture
def drive(worlds, simulated):
    drive = Drive(Studio(worlds["direct"], simulated))
    yield drive
    drive.close()


def levels(one, other):
    return np.abs(one.astype(float) - other).mean()


def test_the_simulator_goes_on_as_recorded_and_then_does_what_the_dream_is_told(drive):
    assert drive.beside.name == "simulator" and not drive.why
    shard, seen = drive.studio.dataset.shards[0], drive.studio.world.context_frames
    recorded = shard.read(seen, 10).reshape(10, 32, 2, 32, 2, 3).mean((2, 4))
    followed = [drive.step()[0] for _ in range(4)]
    assert all(shown.psnr is not None and levels(shown.truth, frame) < 4 for shown, frame in zip(followed, recorded))
    wanted = drive.states.astype(float)
    wanted[20] = drive.studio.low[20] if wanted[20] > drive.studio.high[20] - 0.1 else drive.studio.high[20]  # the neck
    wanted[6:9] = drive.studio.high[6:9]
    drive.aim(wanted)
    driven = [drive.step()[0] for _ in range(6)]
    assert all(shown.psnr is not None for shown in driven)
    assert levels(driven[-1].truth, recorded[9]) > 2 * levels(followed[-1].truth, recorded[3])
    drive.start(0)
    assert levels(drive.step()[0].truth, followed[0].truth) == 0  # the same moment again


def test_a_recording_has_both(drive, tmp_path):
    drive.record()
    shown = [drive.step()[0] for _ in range(3)]
    film = read_video(drive.write(tmp_path)[0]).astype(float)
    assert film.shape[2] > 2 * 256
    for side, frame in ((film[-1][:, :256], shown[-1].truth), (film[-1][:, -256:], shown[-1].dream)):
        assert levels(side[:240], frame.repeat(8, 0).repeat(8, 1)[:240]) < 12


def test_where_it_does_not_come_out_the_same_the_recording_stands_beside(worlds, simulated, monkeypatch):
    monkeypatch.setattr("hwm.sim.again.EQUAL", -1.0)
    drive = Drive(Studio(worlds["direct"], simulated))
    assert drive.beside.name == "recording" and "does not come out the same here" in drive.why
    drive.close()


def test_without_the_simulator_it_is_the_recording(worlds, place, simulated, monkeypatch):
    assert Studio(worlds["direct"], place.raw).beside == "recording"  # of another source
    monkeypatch.setattr("hwm.interact.drive.find_spec", lambda name: None)
    assert Studio(worlds["direct"], simulated).beside == "recording"


def test_what_is_driven_where_nobody_says_what(worlds, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(starts, "SHIPPED", tmp_path)
    assert main(["play"]) == 2
    assert "runs/demo/run is not here: make it with" in capsys.readouterr().err
    (tmp_path / starts.DEMO).mkdir(parents=True)
    (tmp_path / starts.DEMO / "config.toml").touch()
    assert starts.usual_run() == starts.DEMO
    (tmp_path / starts.OURS).mkdir()
    assert str(starts.usual_run()) == starts.OURS
    other = World(worlds["direct"].run.folder, device="cpu")
    other.robot = "unitree-g1"
    refused("data is needed: recordings of unitree-g1", starts.made_starts, other)
