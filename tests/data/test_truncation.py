"""A file that is cut short under a process that reads it by a memory map: an error that names it, not a silent death."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from refusing import refused

from hwm.data.clips import Clips
from hwm.data.onex import open_dataset
from hwm.work.files import expect_rows, map_array, read_rows, write_array

READER = """
import sys
from pathlib import Path
from hwm.work.files import map_array, read_rows
rows = map_array(Path(sys.argv[1]), "<f4", (40000, 25), "")
while True:
    for first in range(0, 40000, 64):
        read_rows(rows, first, first + 64).sum()
    print("read", flush=True)
"""
TARGET = "an error with the path in <= 5 s, exit code not 0, no hang"


@pytest.mark.fault("F8", TARGET)
def test_a_reader_in_a_loop_ends_with_an_error_that_names_the_file(tmp_path, record_property):
    path = tmp_path / "states_0.bin"
    write_array(path, np.zeros((40000, 25)), "<f4")
    place = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", READER, str(path)]
    reader = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=place)
    assert reader.stdout.readline() == "read\n"
    os.truncate(path, 1_000_000)
    begin = time.monotonic()
    _, errors = reader.communicate(timeout=30)
    seconds = time.monotonic() - begin
    assert reader.returncode == 1 and seconds <= 5
    assert f"ValueError: {path}: was cut short while it was read: 1000000 bytes, " in errors
    record_property("measured", f"error after {seconds:.2f} s")


@pytest.mark.fault("F8", TARGET)
@pytest.mark.parametrize("name", ["videos/video_1.bin", "robot_states/states_1.bin", "segment_indices/segment_idx_1.bin"])
def test_clips_of_a_dataset_cut_short_while_open(token_root, name):
    clips = Clips(open_dataset(token_root), kind="block_pairs")
    everything = np.arange(len(clips))
    clips.batch(everything)
    path = token_root / name
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ValueError, match="was cut short while it was read") as raised:
        clips.batch(everything)
    assert str(raised.value).startswith(str(path)) and "\n" not in str(raised.value)


@pytest.mark.fault("F8", TARGET)
def test_decoded_frames_cut_short_while_open(raw_root):
    clips = Clips(open_dataset(raw_root), kind="blocks")
    everything = np.arange(len(clips))
    clips.batch(everything)
    (cached,) = (raw_root / ".cache").glob("video_0-*.npy")
    os.truncate(cached, 5000)
    refused(r"video_0-.*\.npy: was cut short while it was read", clips.batch, everything)


def test_a_look_costs_little(tmp_path):
    """Against the reading of a clip, which takes about a hundred microseconds."""
    write_array(tmp_path / "a.bin", np.zeros((1000, 25)), "<f4")
    rows = map_array(tmp_path / "a.bin", "<f4", (1000, 25), "")
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        for _ in range(200):
            expect_rows(rows)
        times.append((time.perf_counter() - begin) / 200)
    assert min(times) < 20e-6


def test_rows_that_are_still_there_are_read(tmp_path):
    path = tmp_path / "a.bin"
    write_array(path, np.arange(100_000).reshape(1000, 100), "<i4")
    rows = map_array(path, "<i4", (1000, 100), "")
    os.truncate(path, 400 * 500)
    assert read_rows(rows, 0, 500)[-1, -1] == 49_999
    refused(r"a\.bin: was cut short", read_rows, rows, 0, 501)
