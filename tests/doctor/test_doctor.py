"""A sound recipe is ready, and what is wrong is told at the end."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from tiny_doctor import ST, config_of

from hwm.cli import main
from hwm.config import DataConfig, to_toml
from hwm.doctor import examine
from hwm.doctor.verdict import Examination, graded


def test_a_sound_recipe_is_ready(home, tmp_path, capsys):
    (tmp_path / "config.toml").write_text(to_toml(config_of(home)))
    out = tmp_path / "runs"
    arguments = ["doctor", "--config", str(tmp_path / "config.toml"), "--out", str(out / "new"), "--json"]
    out.mkdir()
    assert main(arguments) == 0
    captured = capsys.readouterr()
    page = json.loads(captured.out)
    names = [verdict["name"] for verdict in page["verdicts"]]
    since = names.index("settings")
    assert [v for v in page["verdicts"][since:] if v["status"] != "ok"] == []
    assert page["state"].startswith("ready") and page["sentence"] in captured.err
    expected = ["python", "disk", "settings", "training memory", "training data", "held-out data", "model", "first loss"]
    expected += ["repeated step", "learning", "states used", "checkpoint", "whole recipe", "peak memory"]
    assert [name for name in names if name in expected] == expected
    assert all(v["seconds"] >= 0 and f"{v['status']:<4}  {v['name']}" in captured.err for v in page["verdicts"])
    assert list(out.iterdir()) == []


def test_random_clips_stand_in_for_data_and_everything_wrong_is_told(home, tmp_path):
    lines = []
    config = replace(config_of(home, sample_every=3), tokenizer="", data=DataConfig())
    found = examine(config, out=tmp_path, quick=True, say=lines.append, least_disk=1e18)
    assert found.failed == ["disk", "cache disk"] and lines[-1].startswith("\nnot ready: 2 of ")
    assert any(v.name == "pictures" and v.status == "warn" for v in found.verdicts)
    assert any("runs on random clips" in line for line in lines) and any("random clips  [" in line for line in lines)
    assert found.verdicts[-1].name == "peak memory" and list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_not_tried(home, tmp_path):
    model = replace(ST, vocab_size=200_000_000, factors=(), width=64)
    found = examine(replace(config_of(home), model=model, data=DataConfig()), out=tmp_path, say=lambda line: None)
    assert {"training memory", "checkpoints' disk"} <= {*found.failed} and found.verdicts[-1].name == "training step"
    assert "would not fit" in found.verdicts[-1].found


@pytest.mark.parametrize("arguments, message", [
    (["st-tniy"], "did you mean 'st-tiny'"), (["st-tiny", "--config", "x.toml"], "not both"), (["--data", "x"], "need a recipe"),
    (["st-tiny", "--nproc", "0"], "--nproc must be 1 or more"), (["st-tiny", "--set", "train.stps=3"], "did you mean 'steps'")
])
def test_misuse(arguments, message, capsys):
    assert main(["doctor", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_an_unexpected_exception_is_a_line():
    def check():
        yield graded("first", "fine", "")
        raise KeyError("lost")

    lines = []
    exam = Examination(lambda verdict: lines.append(verdict.line()))
    assert not exam.ask("second", check) and exam.failed == ["second"]
    assert lines[0].startswith("ok    first") and "KeyError: 'lost'" in lines[1] and "\n" not in lines[1]
    assert "1 of 2 checks failed (second)" in exam.sentence()


def test_a_signal_ends_it_and_leaves_nothing(tmp_path):
    command = [sys.executable, "-m", "hwm", "doctor", "masked-hwm-base-tiny", "--out", str(tmp_path), "--set", "train.steps=5"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in child.stdout:
        if "settings" in line:  # what follows takes seconds
            break
    time.sleep(0.5)
    began = time.monotonic()
    child.send_signal(signal.SIGTERM)
    told = child.communicate(timeout=20)[1]
    assert child.returncode == 128 + signal.SIGTERM and "SIGTERM" in told and told.count("\n") == 1
    assert time.monotonic() - began < 10 and list(tmp_path.iterdir()) == []
