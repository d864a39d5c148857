"""Scoring, watching and submitting from outside: kills, stops, shares of several processes, predictions that are no numbers."""

import json
import os
import random
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from kill_evaluation import scored
from official_tests import write_compression_test_set
from refusing import refused
from tiny_line import COMMAND, ENVIRONMENT, start, token_data, tokenizer, train_command
from tiny_training import MODEL

from hwm.cli import main
from hwm.evaluate import submission
from hwm.evaluate.submission import README_KEYS, predict_samples, write_compression_submission
from hwm.experiments.carry_out import steps_done
from hwm.models.st_transformer import STTransformer
from hwm.tokenizers.open import load_tokenizer
from hwm.training import checkpoint
from hwm.work.jobs import Job, run_jobs
from hwm.work.signals import Stopped

SCRIPT = Path(__file__).parent / "kill_evaluation.py"
BATCH = 4
SAME = "same numbers to the last bit, at most one batch redone"
STOP = "saved and exited within 10 s with code 128 + signal, nothing half-written, the next start loses nothing"
REFUSED = "no invalid submission is written; the file is read again and checked"


# --- L9, as a process of the library: quick --------------------------------------------------------------------------


def parts(out: Path) -> dict[str, int]:
    """The finished parts and when each was written."""
    return {file.name: file.stat().st_mtime_ns for file in out.glob(".parts-*/part-*.bin")}


def killed(command: list[str], out: Path, *, wanted: int, pause: float) -> int:
    """Run until `wanted` parts are there and some seconds longer, then SIGKILL; parts there before that were made again."""
    before = parts(out)
    process = start(command)
    while process.poll() is None and len(parts(out)) < wanted:
        time.sleep(0.002)
    time.sleep(pause)
    process.kill()
    process.communicate()
    after = parts(out)
    assert len(after) >= min(wanted, len(before) + 1), "it ended before it was killed"
    return sum(after[name] != written for name, written in before.items())


def finished(command: list[str], **options) -> str:
    process = start(command, **options)
    output = process.communicate(timeout=900)[0]
    assert process.returncode == 0, output
    return output


@pytest.mark.fault("L9", SAME)
def test_forty_rollouts_killed(tmp_path, record_property):
    command = [sys.executable, str(SCRIPT), str(tmp_path), "40"]
    redone = killed(command, tmp_path, wanted=7, pause=0.0)
    made = parts(tmp_path)
    assert 7 <= len(made) < 20
    process = start(command)
    while process.poll() is None and len(parts(tmp_path)) == len(made):
        time.sleep(0.002)
    later = parts(tmp_path)
    assert process.communicate(timeout=100) and process.returncode == 0
    redone += sum(later[name] != written for name, written in made.items())
    assert (tmp_path / "numbers").read_text() == scored(None, 40) and redone == 0
    record_property("measured", f"40 rollouts, killed after {len(made)} of 20 batches, equal numbers, {redone} finished redone")


# --- the command line ------------------------------------------------------------------------------------------------


def tokens_of(root: Path, coder: Path, *, clips: int, side: int = 2) -> Path:
    """Clips of grids of the tokenizer's words, about ten to a segment."""
    segments = [340] * (clips // 10) + [34 * (clips % 10)] * (clips % 10 > 0)
    return token_data(root, shards=1, segments=segments, side=side, fingerprint=load_tokenizer(str(coder)).fingerprint())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A trained run, its tokenizer and 40 held-out clips."""
    root = tmp_path_factory.mktemp("evaluating")
    tokenizer(root / "coder", levels=(4, 4, 2))
    data = tokens_of(root / "data", root / "coder", clips=40)
    command = train_command(root, data, "train.steps=2", "train.validate_every=0", "train.checkpoint_every=2")
    assert main([*command[len(COMMAND) :], "--tokenizer", str(root / "coder")]) == 0
    return root


def evaluating(place: Path, out: Path, *, clips: int = 40, data: str = "data", batch: int = BATCH) -> list[str]:
    options = ["--clips", str(clips), "--batch-size", str(batch), "--out", str(out), "--tokenizer", str(place / "coder")]
    return [*COMMAND, "evaluate", str(place / "run"), "--data", str(place / data), *options]


def numbers(out: Path) -> str:
    """results.json without what may differ: times, costs and how it was called."""
    record = json.loads((out / "results.json").read_text())
    for key in ("seconds", "cost", "command", "written", "sha256"):
        record.pop(key)
    return json.dumps(record)


@pytest.mark.full
@pytest.mark.fault("L9", SAME)
@pytest.mark.timeout(1800)
def test_a_thousand_rollouts_killed_at_random_times(place, tmp_path, record_property):
    tokens_of(place / "many", place / "coder", clips=1000)
    rng, kills, redone, killed_out = random.Random(0), 12, 0, tmp_path / "killed"
    command = evaluating(place, killed_out, clips=1000, data="many")
    for _ in range(kills):
        wanted = len(parts(killed_out)) + rng.randint(1, 12)
        assert wanted < 250
        redone += killed(command, killed_out, wanted=wanted, pause=rng.random() * 0.1)
    made = len(parts(killed_out))
    finished(command)
    finished(evaluating(place, tmp_path / "whole", clips=1000, data="many"))
    assert numbers(killed_out) == numbers(tmp_path / "whole") and redone == 0
    for out in (killed_out, tmp_path / "whole"):
        assert sorted(file.name for file in out.iterdir()) == ["report.html", "results.json"]
    record_property(
        "measured", f"1,000 rollouts in 250 batches, {kills} kills in the first {made}, equal numbers, {redone} finished redone"
    )


@pytest.mark.full
@pytest.mark.fault("L9", SAME)
@pytest.mark.timeout(600)
def test_shared_by_torchrun_or_a_slurm_array_it_gives_the_numbers_of_one(place, tmp_path, record_property):
    finished(evaluating(place, tmp_path / "alone"))
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "hwm"]
    told = finished([sys.executable, *run, *evaluating(place, tmp_path / "torchrun")[len(COMMAND) :]])
    assert "report: " in told
    for task in (3, 1, 2):
        array = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "3"}
        told = finished(evaluating(place, tmp_path / "array"), env=ENVIRONMENT | array)
        assert ("report: " in told) == (task == 2) and ("share 3 of 3" in told) == (task == 3)
    assert "is there already" in finished(evaluating(place, tmp_path / "array"), env=ENVIRONMENT | array)
    for name in ("torchrun", "array"):
        assert numbers(tmp_path / name) == numbers(tmp_path / "alone")
        assert sorted(file.name for file in (tmp_path / name).iterdir()) == ["report.html", "results.json"]
    record_property("measured", "torchrun of 2, array of 3 and one process: equal numbers")


# --- F5: stops -------------------------------------------------------------------------------------------------------


def stopped(command: list[str], number: int, *, when) -> float:
    """Send the signal once `when()` holds; seconds until it ended as it should."""
    process = start(command)
    while process.poll() is None and not when():
        time.sleep(0.01)
    process.send_signal(number)
    begun = time.monotonic()
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + number and "Traceback" not in output, output
    assert f"stopped by {signal.Signals(number).name}; run the same command again to go on" in output
    return time.monotonic() - begun


@pytest.mark.fault("F5", STOP)
def test_scoring_stops_between_batches(place, tmp_path, record_property):
    seconds = stopped(evaluating(place, tmp_path, batch=1), signal.SIGTERM, when=lambda: len(parts(tmp_path)) >= 2)
    made = parts(tmp_path)
    assert seconds <= 10 and 2 <= len(made) < 40
    assert {file.name for file in tmp_path.rglob("*") if file.is_file()} == set(made)
    record_property("measured", f"evaluate: {seconds:.1f} s")


@pytest.mark.full
@pytest.mark.fault("F5", STOP)
def test_scoring_stopped_by_every_signal_ends_in_the_same_numbers(place, tmp_path, record_property):
    command, seconds, made = evaluating(place, tmp_path / "stopped", batch=1), [], {}
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        before = len(made)
        seconds.append(stopped(command, number, when=lambda: len(parts(tmp_path / "stopped")) >= before + 2))  # noqa: B023
        assert made.items() <= parts(tmp_path / "stopped").items()
        made = parts(tmp_path / "stopped")
    finished(command)
    finished(evaluating(place, tmp_path / "whole", batch=1))
    assert numbers(tmp_path / "stopped") == numbers(tmp_path / "whole") and max(seconds) <= 10
    record_property("measured", f"evaluate: up to {max(seconds):.1f} s, equal numbers")


@pytest.mark.full
@pytest.mark.fault("F5", STOP)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("verb", ["predict", "submit"])
def test_watching_and_submitting_leave_nothing_half_written(place, tmp_path, verb, number, record_property):
    out = tmp_path / "out" / {"predict": "clip.mp4", "submit": "submission.zip"}[verb]
    if verb == "predict":
        fingerprint = load_tokenizer(str(place / "coder")).fingerprint()
        data = token_data(tmp_path / "data", shards=1, segments=[170_000], side=2, fingerprint=fingerprint)
        command = [*COMMAND, verb, str(place / "run"), "--out", str(out), "--data", str(data), "--frames", "150000"]
    else:
        data = tokens_of(tmp_path / "data", place / "coder", clips=4, side=32)  # as the challenge has it
        steps = ("train.steps=2", "train.validate_every=0", "train.checkpoint_every=2")
        assert main(train_command(tmp_path, data, "model.grid=[32,32]", *steps)[len(COMMAND) :]) == 0
        tokens = np.random.default_rng(0).integers(32, size=(60, 3, 32, 32)).astype(np.int32)
        write_compression_test_set(tmp_path / "tests", tokens_NTHW=tokens, states_NFA=np.zeros((60, 64, 25), np.float32))
        command = [*COMMAND, verb, str(tmp_path / "run"), "--out", str(out), "--data", str(tmp_path / "tests")]
        command += ["--team", "Us", "--authors", "A, B", "--email", "a@b.org"]
    begun = time.monotonic()

    def busy() -> bool:
        return any(out.parent.glob(".*")) if verb == "submit" else time.monotonic() - begun > 15

    seconds = stopped(command, number, when=busy)
    assert seconds <= 10 and not (out.parent.exists() and list(out.parent.iterdir()))
    record_property("measured", f"{verb}: {seconds:.1f} s")


@pytest.mark.full
@pytest.mark.fault("F5", STOP)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_experiment_ends_its_trainings_and_goes_on(place, tmp_path, number, record_property):
    command = train_command(tmp_path, place / "data", "train.steps=100000", "train.checkpoint_every=50000")
    out, log = tmp_path / "run", tmp_path / "run.log"
    training = Job(out, log, partial(main, command[command.index("train") :]), 100000, partial(steps_done, out))
    told = []

    def tell() -> None:
        while training.done() < 3:
            time.sleep(0.05)
        told.append(time.monotonic())
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=tell)
    thread.start()
    with pytest.raises(Stopped) as caught:
        run_jobs([training], parallel=1, what="training", unit="steps", every=0.2)
    seconds = time.monotonic() - told[0]
    thread.join()
    assert caught.value.signal == number and seconds <= 10 and checkpoint.find(out, which="last"), log.read_text()
    record_property("measured", f"experiment: {seconds:.1f} s")


# --- B12: submissions ------------------------------------------------------------------------------------------------


@pytest.mark.fault("B12", REFUSED)
def test_a_model_whose_logits_are_no_numbers_submits_nothing(tmp_path):
    model = STTransformer(MODEL)
    with torch.no_grad():
        for weights in model.parameters():
            weights.fill_(1e30)  # finite, as a checkpoint must be
    tokens, states = np.zeros((2, 3, *MODEL.grid), np.int64), np.zeros((2, 64, 25), np.float32)
    samples = predict_samples(model, range(2), tokens, states, top_k=5)
    sizes = {"num_samples": 2, "shape": (3, *MODEL.grid, 5), "vocab_size": MODEL.vocab_size}
    given = (tmp_path / "submission.zip", samples, dict.fromkeys(README_KEYS, "x"))
    refused("submission.zip: sample 0: values must be finite", write_compression_submission, *given, **sizes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault("B12", REFUSED)
def test_what_was_damaged_while_it_was_written_is_found_before_it_gets_its_name(tmp_path, monkeypatch):
    """A disk that loses a bit between writing and reading: the earlier submission stays."""
    rng, path = np.random.default_rng(0), tmp_path / "submission.zip"
    path.write_bytes(b"earlier")
    shape = (3, 2, 2, 4)

    def samples():
        for number in range(3):
            indices = rng.permuted(np.broadcast_to(np.arange(9), (3, 2, 2, 9)), axis=-1)[..., :4]
            yield number, indices, -np.sort(rng.exponential(size=shape), -1)

    check = submission.validate_compression_submission

    def after_a_loss(temporary, **options):
        content = bytearray(temporary.read_bytes())
        content[2000] ^= 16
        temporary.write_bytes(content)
        return check(temporary, **options)

    monkeypatch.setattr(submission, "validate_compression_submission", after_a_loss)
    readme = dict.fromkeys(README_KEYS, "x")
    refused(None, write_compression_submission, path, samples(), readme, num_samples=3, shape=shape, vocab_size=9)
    assert path.read_bytes() == b"earlier" and [file.name for file in tmp_path.iterdir()] == [path.name]
