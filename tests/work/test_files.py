import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hwm.work.files import atomic_path, map_array, read_rows, without_read_ahead, write_array, write_text


def test_whole_or_absent(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with pytest.raises(OSError, match="disk"), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert list(path.parent.iterdir()) == []
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old" and temporary.suffix == ".txt"
    assert path.read_text() == "new" and list(path.parent.iterdir()) == [path]


CHILD = """
import sys, time
from hwm.work.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_is_removed(tmp_path):
    path = tmp_path / "a.bin"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "writing\n"
    with atomic_path(path) as temporary:
        temporary.write_text("mine")
        assert len(list(tmp_path.iterdir())) == 2, "a living process keeps its file"
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert len(list(tmp_path.iterdir())) == 2
    write_array(path, np.zeros(3), "<f4")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("dtype", ["<f4", "<i4"])
def test_rows_of_maps(tmp_path, dtype):
    rows = np.arange(3000 * 25).reshape(3000, 25)
    write_array(tmp_path / "a.bin", rows, dtype)
    np.save(tmp_path / "a.npy", rows)
    maps = [map_array(tmp_path / "a.bin", dtype, (3000, 25), ""), np.load(tmp_path / "a.npy", mmap_mode="r")]
    for mapped in map(without_read_ahead, maps):
        for first, stop in [(0, 1), (41, 45), (2990, 3000), (2990, 4000), (5, 5), (0, 3000), (3000, 3001)]:
            np.testing.assert_array_equal(read_rows(mapped, first, stop), rows[first:stop])
    np.testing.assert_array_equal(read_rows(rows, 3, 9), rows[3:9])


def test_bytes_are_forced_to_the_disk_before_the_name_and_the_name_after(tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, Path.replace

    def forced(descriptor):
        done.append(Path(f"/proc/self/fd/{descriptor}").resolve().name.partition(".tmp")[1] or "folder")
        fsync(descriptor)

    def renamed(self, target):
        done.append("renamed")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", forced)
    monkeypatch.setattr(Path, "replace", renamed)
    write_text(tmp_path / "a.txt", "words")
    assert done == [".tmp", "renamed", "folder"]
