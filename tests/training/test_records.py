"""The metrics file, the progress lines, and seeds."""

import importlib.util
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusing import refused

from hwm.training.device import seed_of
from hwm.training.run_folder import MetricsLog, read_metrics
from hwm.work.files import write_text
from hwm.work.progress import Counter, clock_text


def test_metrics_beyond_the_checkpoint_and_torn_lines_are_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path, step=0, validated=0) as log:
        for step in (1, 2):
            log.write({"step": step, "loss": 1.0 / step, "seconds": step * 1.0})
        log.write({"step": 2, "val/ce": float("nan"), "seconds": 2.5})
        log.write({"step": 3, "loss": 0.3, "seconds": 3.0})
    whole = path.read_text().splitlines(keepends=True)
    assert list(read_metrics(path))[2] == {"step": 2, "val/ce": None, "seconds": 2.5}
    path.write_text("".join(whole) + whole[3][:12])

    with MetricsLog(path, step=3, validated=2) as log:
        assert log.seconds == 3.0
    assert path.read_text() == "".join(whole)
    with MetricsLog(path, step=2, validated=1) as log:
        assert log.seconds == 2.0
    assert path.read_text() == "".join(whole[:2])
    with MetricsLog(path, step=0, validated=0) as log:
        assert log.seconds == 0.0
    assert path.read_text() == ""


@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=20), st.binary(max_size=20)), max_size=5))
def test_garbage_in_the_metrics_is_dropped_never_raised(tmp_path_factory, pieces):
    path = tmp_path_factory.getbasetemp() / "garbage.jsonl"
    good = b'{"step": 1, "loss": 2.0, "seconds": 1.5}\n'
    path.write_bytes(good + b"\n".join(p if isinstance(p, bytes) else p.encode("utf-8", "replace") for p in pieces))
    with MetricsLog(path, step=1, validated=0) as log:
        assert log.seconds == 1.5
    assert path.read_bytes().startswith(good)
    for line in path.read_text().splitlines():
        assert json.loads(line)["step"] <= 1


def test_a_damaged_line_of_the_metrics_is_left_out_and_said(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path, step=0, validated=0) as log:
        for step in (1, 2, 3):
            log.write({"step": step, "loss": 2.5 / step, "seconds": 1.5})
    path.write_text(path.read_text().replace('"loss": 1.25', '"loss": 1.35'))
    assert [record["step"] for record in read_metrics(path)] == [1, 3]
    MetricsLog(path, step=3, validated=0)
    assert capsys.readouterr().err == f"{path}: 1 damaged lines are left out\n"
    assert [record["step"] for record in read_metrics(path)] == [1, 3]


def test_plain_progress_lines_show_loss_rate_speed_and_time_left():
    lines: list[str] = []
    progress = Counter("training", unit="step", log=lines.append)
    progress.start = 40
    with progress:
        progress.began -= 20  # Twenty seconds ago, at step 40.
        progress.show(50, 100, "loss 1.2500  lr 3.00e-04  12.3 clips/s")
        progress.move(51, 100)
        progress.say("an event")
    assert lines == ["step 50/100  loss 1.2500  lr 3.00e-04  12.3 clips/s  1:40 left", "an event"]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3600, "1:00:00"), (90061, "25:01:01")])
def test_clock_text(seconds, text):
    assert clock_text(seconds) == text


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_seeds_of_different_streams_differ_and_fit_torch(one, two):
    assert 0 <= seed_of(one, two) < 2**63 and seed_of(one, two) == seed_of(one, two)
    assert (seed_of(0, one) == seed_of(0, two)) == (one == two)
    assert seed_of("a", one) != seed_of("b", one) and seed_of(one) != seed_of(one, two)


def test_text_is_replaced_whole(tmp_path):
    write_text(tmp_path / "a", "old")
    write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["a"]
    with pytest.raises(ValueError, match=r"a/b: cannot write: .* GB free"):
        write_text(tmp_path / "a" / "b", "x")  # below a file


def test_tensorboard_events_follow_the_metrics(tmp_path):
    if importlib.util.find_spec("tensorboard") is None:
        with pytest.raises(ValueError, match=r"pip install 'humanoid-world-models\[tensorboard\]'"):
            MetricsLog(tmp_path / "metrics.jsonl", step=0, validated=0, tensorboard=tmp_path / "tensorboard")
        return
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricsLog(tmp_path / "metrics.jsonl", step=0, validated=0, tensorboard=tmp_path / "tensorboard") as log:
        for step in (1, 2):
            log.write({"step": step, "loss": 1.0 / step, "val/ce": None})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 1.0), (2, 0.5)]
    assert events.Tags()["scalars"] == ["loss"]


def test_what_is_no_file_or_no_record(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = ['{"step": 1, "loss": 2.0, "seconds": 1.5}\n', '{"step": 2, "seconds": "x"}\n', "[1]\n", '{"step": "2"}\n', "{"]
    path.write_text("".join(lines))
    with MetricsLog(path, step=2, validated=0) as log:
        assert log.seconds == 1.5
    assert path.read_text() == lines[0]
    path.unlink()
    os.mkfifo(path)
    refused("metrics.jsonl: is no file; remove it", MetricsLog, path, step=2, validated=0)
