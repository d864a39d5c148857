"""Plain logs of mp4 and csv: rows come to their frames, what is no use is told by its number, mistakes by their remedy."""

import shutil
from functools import partial

import numpy as np
import pytest
from arm_logs import HZ, JOINTS, angles, table, write_arm
from refusing import refused

from hwm.cli import main
from hwm.data.describe import check
from hwm.data.onex import open_dataset, probe_kind
from hwm.data.recordings.convert import convert
from hwm.data.recordings.excerpt import View
from hwm.data.recordings.logs import open_logs
from hwm.robot import read_embodiment

FRAMES = 45
ARM = f'name="arm7"\nnames={list(JOINTS)}\nunits={["rad"] * 7}\n'.replace("'", '"')


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_arm(tmp_path_factory.mktemp("logs") / "arm", side=32, num_frames=FRAMES, rows_hz=90)


@pytest.fixture
def logs(tmp_path, made):
    return shutil.copytree(made, tmp_path / "arm")


def rewritten(path, change):
    """The csv with its text lines changed."""
    lines = path.read_text().splitlines()
    path.write_text("\n".join(change(lines)) + "\n")


def test_rows_come_to_their_frames(logs):
    assert probe_kind(logs) == "logs"
    dataset = open_dataset(logs)
    assert (dataset.hz, dataset.robot.name, dataset.robot.names, set(dataset.robot.units)) == (HZ, "arm", JOINTS, {"?"})
    for k, shard in enumerate(dataset.shards):
        assert (shard.num_frames, set(shard.segments)) == (FRAMES, {0})
        np.testing.assert_allclose(shard.states, angles(np.arange(FRAMES) / HZ, seed=k), atol=1e-3)
    assert check(logs).ok and not list(dataset.shards[0].remarks())


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_the_same_rows_in_tables_of_other_kinds(logs, suffix):
    before = open_dataset(logs).shards[0].states
    for path in logs.glob("*.csv"):
        text = np.loadtxt(path, delimiter=",", skiprows=1)
        named = {"time": text[:, 0], "q": text[:, 1:]}
        if suffix == ".npz":
            np.savez_compressed(path.with_suffix(suffix), fps=15, **named)
        else:
            pa = pytest.importorskip("pyarrow", reason="needs the extra lerobot")
            import pyarrow.parquet as pq

            pq.write_table(pa.table({name: list(column) for name, column in named.items()}), path.with_suffix(suffix))
        path.unlink()
    dataset = open_dataset(logs)
    assert dataset.robot.names == tuple(f"q_{i}" for i in range(7))
    np.testing.assert_array_equal(dataset.shards[0].states, before)


def test_a_robots_file_says_names_units_and_times(logs, tmp_path):
    (logs / "robot.toml").write_text(ARM)
    assert open_dataset(logs).robot.kinds == ("angle",) * 7
    (tmp_path / "two.toml").write_text('name="two"\nnames=["joint_3", "joint_1"]\nunits=["rad", "rad"]\n')
    two = open_logs(logs, robot=tmp_path / "two.toml")
    np.testing.assert_allclose(two.shards[1].states, angles(np.arange(FRAMES) / HZ, seed=1)[:, [2, 0]], atol=1e-3)
    assert two.fingerprint != open_dataset(logs).fingerprint
    rewritten(logs / "a0.csv", lambda lines: [line.replace("time", "clock") for line in lines])
    refused("a0.csv: has 271 rows and no column of times, a0.mp4 has 45 frames; add a column called time", open_dataset, logs)
    (logs / "robot.toml").write_text(ARM + 'time="clock"')
    refused("a1.csv: has no column 'clock', which robot.toml names", open_dataset, logs)
    (logs / "robot.toml").write_text(ARM + "hz=90")
    rewritten(logs / "a1.csv", lambda lines: [line.partition(",")[2] for line in lines])
    for shard in open_dataset(logs).shards:
        np.testing.assert_allclose(shard.states, angles(np.arange(FRAMES) / HZ, seed=shard.index), atol=1e-3)


def test_milliseconds_in_a_column_that_says_so(logs):
    text = np.loadtxt(logs / "a0.csv", delimiter=",", skiprows=1)
    rows = np.round(text[:, :1] * 1000), text[:, 1:]
    (logs / "a0.csv").write_text(table(rows[0][:, 0], rows[1]))
    refused("its rows cover 3000 s, a0.mp4 lasts 2.933 s; times are in seconds, or in .* called time_ms", open_dataset, logs)
    (logs / "a0.csv").write_text(table(rows[0][:, 0], rows[1], ("time_ms", *JOINTS)))
    np.testing.assert_allclose(open_dataset(logs).shards[0].states, angles(np.arange(FRAMES) / HZ), atol=2e-3)


def test_angles_go_the_shorter_way_round_and_keep_to_their_range(logs):
    (logs / "robot.toml").write_text(ARM)
    times = np.arange(271) / 90
    turning = np.repeat(((times * 4 + np.pi) % (2 * np.pi) - np.pi)[:, None], 7, 1)
    (logs / "a0.csv").write_text(table(times + 0.004, turning))  # no row at the time of a frame but the first
    states = open_dataset(logs).shards[0].states[:, 0]
    wanted = np.arange(FRAMES) / HZ * 4
    assert np.abs(states).max() < np.pi + 0.05
    np.testing.assert_allclose(np.cos(states), np.cos(wanted), atol=1e-3)
    np.testing.assert_allclose(np.sin(states), np.sin(wanted), atol=1e-3)


def test_bad_rows_are_left_out_by_their_number(logs, tmp_path, capsys):
    def change(lines):
        lines[30] = lines[30].replace(lines[30].split(",")[3], "nan", 1)
        lines[41] = lines[40]
        lines[52] += ",7"
        lines[63] = ",".join([lines[63].split(",")[0], *[""] * 7])
        return lines

    rewritten(logs / "a1.csv", change)
    shard = open_dataset(logs).shards[1]
    np.testing.assert_allclose(shard.states, angles(np.arange(FRAMES) / HZ, seed=1), atol=3e-3)
    report = check(logs)
    assert report.ok and any("left out line 31, 42, 53, 64 (joint_3 is no number)" in f.message for f in report.findings)
    assert main(["data", "convert", str(logs), str(tmp_path / "out"), "--to", "1x-raw"]) == 0
    told = capsys.readouterr().out
    assert "a1.csv: left out line 31, 42, 53, 64" in told and "out/robot.toml: names the states by the columns" in told


def test_frames_without_rows_close_by_are_left_out_and_nothing_goes_on_over_the_gap(logs, tmp_path):
    rewritten(logs / "a2.csv", lambda lines: lines[:91] + lines[151:])  # rows 90 to 149, of frames 15 to 24, are gone
    shard = open_dataset(logs).shards[2]
    assert shard.rows.taken.tolist() == [*range(15), *range(25, FRAMES)]
    assert shard.segments.tolist() == [0] * 15 + [1] * 20
    np.testing.assert_allclose(shard.states, angles(shard.rows.taken / HZ, seed=2), atol=1e-3)
    whole = np.stack(list(open_dataset(logs).shards[2].iter_pictures()))
    assert len(whole) == 35 and np.array_equal(shard.read(15, 3), whole[15:18])
    assert "left out 10 frames of a2.mp4, the first is frame 15" in " ".join(f.message for f in shard.remarks())
    convert(logs, tmp_path / "out", to="1x-raw", episodes="2")
    assert [s.num_frames for s in open_dataset(tmp_path / "out").shards] == [15, 20]


def test_ends_are_held_for_one_row_and_then_cut(logs):
    rewritten(logs / "a0.csv", lambda lines: lines[:-12])  # the last row is 2 rows before the last frame, less than a frame
    assert open_dataset(logs).shards[0].rows.taken[-1] == FRAMES - 1
    rewritten(logs / "a0.csv", lambda lines: lines[:-24])
    assert open_dataset(logs).shards[0].rows.taken[-1] < FRAMES - 2


def dated(lines):
    return [lines[0], *(f"2026-01-01T00:00:{i % 60:02d},{line.partition(',')[2]}" for i, line in enumerate(lines[1:]))]


def film(path):
    return path.with_suffix(".mp4")


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1000\n"
LINES = {
    "no header": (lambda lines: lines[1:], "a0.csv: its first line holds numbers; put a line with the names"),
    "only names": (lambda lines: lines[:1], "a0.csv: 0 rows for 45 frames"),
    "dates": (dated, "a0.csv: line 2, column 'time': '2026-01-01T00:00:00' is no time"),
    "decimal commas between commas": (
        lambda lines: [lines[0], *(line.replace(".", ",") for line in lines[1:])],
        "cells, its first line 8; write numbers with a point",
    ),
    "words": (lambda lines: [lines[0], *["1.5," + "x," * 6 + "x"] * 99], "a0.csv: .*has no column of numbers"),
    "backwards": (
        lambda lines: [lines[0], *lines[:0:-1]],
        r"a0.csv: 270 of 271 rows are no use, the first in line 3 \(time .* does not come after the row before\)",
    ),
}  # fmt: skip
TEXT = {
    "decimal commas": (lambda x: x.replace(",", ";").replace(".", ","), "a0.csv: line .*decimal comma; write numbers"),
    "name twice": (lambda x: x.replace("joint_2", "joint_1"), "column 'joint_1' stands twice"),
    "pointer": (lambda x: POINTER, "pointer of Git LFS"),
    "two times": (lambda x: x.replace("joint_2", "stamp"), "several columns of times, time, stamp; say which"),
    "empty table": (lambda x: "", "a0.csv: is empty"),
}  # fmt: skip
FILES = {
    "csv alone": (lambda path: film(path).unlink(), "a0.csv: there is no a0.mp4 beside it; every recording is a video and"),
    "other name": (lambda path: film(path).rename(path.with_name("a0_front.mp4")), r"\(a0_front.mp4 is called otherwise\)"),
    "video alone": (lambda path: path.unlink(), "a0.mp4: there is no a0.csv beside it"),
    "two videos": (lambda path: shutil.copy(film(path), path.with_suffix(".mkv")), "a0.mp4: a0.mkv is another video of that"),
    "two tables": (lambda path: path.with_suffix(".npz").touch(), "a0.npz: a0.csv is another table of that recording"),
    "empty video": (lambda path: film(path).write_bytes(b""), "a0.mp4: is empty"),
    "UTF-16": (lambda path: path.write_text(path.read_text(), encoding="utf-16"), "not UTF-8 text"),
    "other columns": (
        lambda path: rewritten(path.with_name("a1.csv"), lambda lines: [line.rpartition(",")[0] for line in lines]),
        "a1.csv: has no column 'joint_7', a state of arm; it has time, joint_1",
    ),
}  # fmt: skip
WRONG = {name: (partial(rewritten, change=change), told) for name, (change, told) in LINES.items()} | FILES
WRONG |= {name: (lambda path, of=of: path.write_text(of(path.read_text())), told) for name, (of, told) in TEXT.items()}


@pytest.mark.parametrize("damage, told", WRONG.values(), ids=WRONG)
def test_refused_with_file_place_and_remedy(logs, tmp_path, damage, told):
    damage(logs / "a0.csv")
    refused(told, lambda: open_dataset(logs).shards[0].read(0, 1))
    refused(told, convert, logs, tmp_path / "new", to="1x-raw")
    assert not (tmp_path / "new").exists() and not check(logs).ok


def test_marks_that_spreadsheets_leave_do_no_harm(logs):
    states = open_dataset(logs).shards[0].states
    text = (logs / "a0.csv").read_text()
    (logs / "a0.csv").write_text("\ufeff" + text.replace(",", " ;").replace("\n", "\r\n") + "\r\n")
    np.testing.assert_array_equal(open_dataset(logs).shards[0].states, states)


def test_videos_alone_say_what_is_missing(logs):
    for path in logs.glob("*.csv"):
        path.unlink()
    refused("holds videos, but beside them no table of states .*such as a.mp4 and a.csv", open_dataset, logs)


def test_cropped_and_thinned_where_they_lie(logs):
    part = open_dataset(logs, view=View(crop="0,16,32,16", hz=5))
    assert (part.hz, part.grid, [s.num_frames for s in part.shards]) == (5, (16, 32), [15, 15, 15])
    np.testing.assert_array_equal(part.shards[1].states, open_dataset(logs).shards[1].states[::3])
    whole = np.stack(list(open_dataset(logs).shards[1].iter_pictures()))
    assert np.array_equal(part.shards[1].read(2, 3), whole[6:15:3, 16:])


def test_a_converted_folder_keeps_the_robot(logs, tmp_path):
    (tmp_path / "my.toml").write_text(ARM + "[groups]\nright_arm=[0, 1, 2, 3, 4, 5, 6]\n")
    for to in ("1x-raw", "lerobot"):
        if to == "lerobot":
            pytest.importorskip("pyarrow", reason="needs the extra lerobot")
        convert(logs, tmp_path / to, to=to, view=View(robot=tmp_path / "my.toml"))
        assert open_dataset(tmp_path / to).robot == read_embodiment(tmp_path / "my.toml") and open_dataset(tmp_path / to).hz == HZ
