"""Output folders: none is written into what is read, by whatever name, and one process at a time has one."""

import os
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
from damage import contents
from moving_square import write_noise
from refusing import refused

from hwm import cli
from hwm.prepare import simulated
from hwm.sim.simulate import simulate
from hwm.tokenizers.encode import tokenize
from hwm.work.claim import Kept, claimed, expect_apart
from hwm.work.parts import Work, names_of

READ = r"which is read: nothing is written there; choose another place for the output"


@pytest.mark.parametrize("out", ["in", "in/sub", "in/sub/new/x.mp4", "link", "link/new", "in/../in", "above/in/x", "file"])
def test_what_is_read_is_not_written(tmp_path, out):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    (tmp_path / "above").symlink_to(tmp_path)
    (tmp_path / "in" / "a").write_text("a")
    (tmp_path / "file").symlink_to(tmp_path / "in" / "a")
    refused(READ, expect_apart, tmp_path / out, None, "no such thing", tmp_path / "in")
    refused(READ, expect_apart, tmp_path / out, tmp_path / "link")


def test_what_lies_beside_or_above_is_free(tmp_path):
    (tmp_path / "in").mkdir()
    for out in ("in2", "out", ".", "in/../out"):
        expect_apart(tmp_path / out, tmp_path / "in", "", None)


def test_one_holder_at_a_time(tmp_path):
    with claimed(tmp_path / "out", say=print):
        def second():
            with claimed(tmp_path / "out", say=print):
                raise AssertionError("two hold one folder")
        refused(f"out: in use by process {os.getpid()} on ", second)
        refused(f"out: in use by process {os.getpid()} on ", simulate, tmp_path / "out", minutes=0.1)
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
    (tmp_path / "a file").write_text("")
    refused("a file: cannot be used as an output folder: File exists", claimed(tmp_path / "a file", say=print).__enter__)


def test_data_of_other_settings_are_no_starting_point(tmp_path):
    (tmp_path / "val_unseen_v2.0_raw").mkdir()
    (tmp_path / "val_unseen_v2.0_raw" / "metadata.json").write_text("{}")
    told = "val_unseen_v2.0_raw: holds other data; choose another folder or delete it"
    refused(told, simulated, tmp_path, minutes=0.1, val_minutes=0.1, size=64, seed=0, workers=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "val_unseen_v2.0_raw"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    root = write_noise(tmp_path_factory.mktemp("claim") / "train_raw", [(20,)], side=32)
    (root.parent / "link").symlink_to(root)
    (root.parent / "linked_out").mkdir()
    (root.parent / "linked_out" / "videos").symlink_to(root)
    return root


@pytest.mark.parametrize(
    "command",
    [
        "tokenize RAW RAW --workers 1",
        "tokenize RAW RAW/tokens --phases 4",
        "tokenize RAW LINK",
        "tokenize LINK RAW",
        "tokenize RAW ABOVE/linked_out --phases 4",
        "train fsq-tiny --out RAW --data RAW",
        "train fsq-tiny --out RAW/run --data LINK",
        "train fsq-tiny --out RAW/run --data ABOVE/other --val RAW",
        "train fsq-tiny --out RAW/run --data LINK --nproc 2",
        "predict RUN --data RAW --out RAW/videos/video_0.mp4",
        "predict RUN --data RAW --out RUN/checkpoints/x.mp4",
        "evaluate RUN --data RAW --out RAW",
        "evaluate RUN --data RAW --video LINK --out LINK/scores",
        "evaluate RUN --data ABOVE/other --protocol sampling --tuning RAW --out RAW/scores",
        "submit RUN --data RAW --out RAW/x.zip --team a --authors b --email c",
        "submit RUN --data RAW --out RAW/x.zip --team a --authors b --email c --track sampling",
        "export RUN RUN",
        "export RUN RUN/tokenizer",
        "text-embedding RUN RUN/text.safetensors",
        "data describe RAW --sheet RAW/sheet.png",
        "experiment hwm-tables --data ABOVE --out ABOVE/experiment",
    ],
)
def test_every_verb_refuses_before_the_first_byte(raw, command, capsys):
    (raw.parent / "run" / "checkpoints").mkdir(parents=True, exist_ok=True)
    names = {"RAW": raw, "LINK": raw.parent / "link", "ABOVE": raw.parent, "RUN": raw.parent / "run"}
    for name, place in names.items():
        command = command.replace(name, str(place))
    before = contents(raw.parent)
    assert cli.main(command.split()) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and READ in told
    assert contents(raw.parent) == before and not (raw / ".lock").exists()


@pytest.mark.parametrize("how", ["removed", "replaced", "moved"])
def test_a_folder_that_is_pulled_away_is_noticed(tmp_path, how):
    kept = Kept(tmp_path / "out")
    kept.expect_there()
    (tmp_path / "out").rename(tmp_path / "other") if how == "moved" else (tmp_path / "out").rmdir()
    if how == "replaced":
        (tmp_path / "out").mkdir()
    refused(r"out: was removed or replaced while it was written into", kept.expect_there)


def test_verbs_notice_that_their_folder_is_pulled_away(tmp_path, monkeypatch):
    gone = r"out\S*: (part of it )?was removed or replaced while it was written into"
    out = tmp_path / "out"
    raw = write_noise(tmp_path / "raw", [(40,), (40,)], side=16)

    def pull(done, total):
        if done == 1:
            shutil.rmtree(out)

    refused(gone, tokenize, raw, out, tokenizer="fsq-8x8x8", progress=pull)
    if find_spec("mujoco"):
        refused(gone, simulate, out, minutes=0.1, val_minutes=0.1, size=64, workers=1, progress=lambda *_: shutil.rmtree(out))
    work, key = Work(out / "results.json"), "0" * 64
    shutil.rmtree(out, ignore_errors=True)
    measured = []

    def measure(part):
        measured.append(part)
        return {"a": np.zeros(1)}

    refused(gone, work.fill, work.open(key), names_of("part", 5), measure, done=lambda: shutil.rmtree(out))
    assert measured == [0]
    parts = work.open(key)
    work.fill(parts, names_of("part", 2), measure)
    shutil.rmtree(out)
    refused(gone, list, work.read(parts, names_of("part", 2)))
