"""Every fault of a machine that is built for real is seen by the check that looks for it."""

import shutil
from dataclasses import replace

import pytest
from tiny_doctor import TRAIN, WAN, asked, config_of, the_one

from hwm.doctor import examine, machine


def test_builds_of_torch():
    the_one(asked(machine.build, None, ["NVIDIA H200"]), "torch build", "FAIL")
    the_one(asked(machine.build, "13.0", []), "torch build", "warn")
    the_one(asked(machine.build, None, []), "torch build", "ok")
    the_one(asked(machine.build, "13.0", ["NVIDIA H200"]), "torch build", "ok")


@pytest.mark.parametrize(
    "version, wanted, inside",
    [
        ("2.13.0+cpu", ">=2.11,<2.17", True), ("2.9", ">=2.11,<2.17", False), ("2.17", ">=2.11,<2.17", False),
        ("3.11", ">=3.11", True), ("2.13.0", "==2.13", True), ("2.13.1", "!=2.13.1", False), ("1.4.9", "~=1.4.2", True),
        ("1.5", "~=1.4.2", False), ("7", "", True),
    ],
)  # fmt: skip
def test_ranges_of_versions(version, wanted, inside):
    assert machine.within(version, wanted) == inside


def install(folder, name, version, requires=""):
    """What pip leaves of a distribution, without its code."""
    about = folder / f"{name}-{version}.dist-info"
    about.mkdir(parents=True)
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")


def test_another_torchs_torchvision(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    install(tmp_path, "torchvision", "0.20.0", "torch (==2.5.0)")
    assert "torch==2.5.0" in the_one(asked(machine.torchvision, "2.13.0+cpu"), "torchvision", "FAIL").found
    the_one(asked(machine.torchvision, "2.5.0"), "torchvision", "ok")


def test_extras_of_another_version(tmp_path, monkeypatch, home):
    monkeypatch.syspath_prepend(tmp_path)
    install(tmp_path, "diffusers", "0.1")
    config = replace(config_of(home), model=WAN)
    assert "diffusers 0.1 is not" in the_one(asked(machine.extras, config), "extras", "FAIL").found
    the_one(asked(machine.extras, config_of(home)), "extras", "ok")
    the_one(asked(machine.extras, None), "extras", "ok")


def test_limits_of_the_machine(tmp_path):
    free = machine.free_memory()
    the_one(asked(machine.memory, least=free / 10), "memory", "ok")
    the_one(asked(machine.memory, least=2 * free), "memory", "warn")
    the_one(asked(machine.memory, least=10 * free), "memory", "FAIL")
    the_one(asked(machine.disk, "disk", tmp_path / "a" / "b", least=1e18), "disk", "FAIL")
    the_one(asked(machine.disk, "disk", tmp_path / "a" / "b", least=0), "disk", "ok")
    the_one(asked(machine.open_files, needed=10**9), "open files", "FAIL")
    the_one(asked(machine.shared_memory, tmp_path, least=1e18), "shared memory", "warn")
    the_one(asked(machine.cores, replace(TRAIN, threads=4000)), "cores", "warn")
    the_one(asked(machine.cores, replace(TRAIN, threads=1)), "cores", "ok")
    assert "cannot be used" in the_one(asked(machine.device, replace(TRAIN, device="cuda:99")), "asked", "FAIL").found


def test_places_that_cannot_be_written(tmp_path, monkeypatch):
    the_one(asked(machine.writing, tmp_path), "writing", "ok")
    the_one(asked(machine.writing, tmp_path / "absent"), "writing", "FAIL")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    the_one(asked(machine.cache), "cache folder", "ok")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    assert "hwm-cache-" in the_one(asked(machine.cache), "cache folder", "warn").found
    found = examine(None, out=tmp_path / "file" / "run", say=lambda line: None)
    assert {"asked", "writing", "file locks"} & {*found.failed} == {"writing", "file locks"}


def test_file_locks(tmp_path, monkeypatch):
    the_one(asked(machine.locking, tmp_path), "file locks", "ok")
    import fcntl

    monkeypatch.setattr(fcntl, "flock", lambda *arguments: None)  # as file systems do that keep no locks
    the_one(asked(machine.locking, tmp_path), "file locks", "warn")


def test_compilers(tmp_path, monkeypatch):
    if shutil.which("g++"):
        the_one(asked(machine.compiler, tmp_path, cuda=False), "compiler", "ok")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no C++ compiler" in the_one(asked(machine.compiler, tmp_path, cuda=False), "compiler", "FAIL").found
    (tmp_path / "g++").write_text("#!/bin/sh\necho no headers >&2\nexit 1\n")
    (tmp_path / "g++").chmod(0o755)
    assert "no headers" in the_one(asked(machine.compiler, tmp_path, cuda=False), "compiler", "FAIL").found


def test_two_processes_find_each_other_or_not():
    the_one(asked(machine.exchange), "processes", "ok")
    the_one(asked(machine.exchange, seconds=0.05), "processes", "FAIL")
