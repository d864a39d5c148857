"""A run that was stopped, damaged or prolonged ends exactly where an undisturbed one ends."""

import os
import signal
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from families import FAMILIES, batch_of
from PIL import Image
from refusing import refused
from tiny_training import CONFIG, VALIDATION, build, checkpoint_bytes, clips, run, stopping_at, trace

from hwm.config import override
from hwm.contracts import Batch
from hwm.models.build import build_model
from hwm.training import checkpoint
from hwm.training.loop import fit
from hwm.training.stored import load_weights


def last(out: Path) -> dict[str, bytes]:
    return {k: v for k, v in checkpoint_bytes(out).items() if k.startswith("step-12/")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    assert run(out).step == 12
    return out


def test_the_run_learns_and_describes_itself(alone):
    losses = [line["loss"] for line in trace(alone) if "loss" in line]
    assert len(losses) == 12 and losses[-1] < losses[0] - 0.2
    assert [line["step"] for line in trace(alone) if "val/ce_auto" in line] == [4, 8, 12]
    assert {p.name for p in alone.iterdir()} == {".lock", "config.toml", "metrics.jsonl", "checkpoints", "DONE"}
    state = checkpoint.load_state(checkpoint.find(alone, which="last"))
    scores = {line["step"]: line["val/ce_auto"] for line in trace(alone) if "val/ce_auto" in line}
    assert state["best"] == min(scores.values()) and scores[state["best_step"]] == state["best"]


@pytest.mark.parametrize("micro_step", [0, 5, 13, 22])
def test_a_stopped_run_loses_no_step_and_ends_bit_equal(alone, tmp_path, micro_step):
    stopped = run(tmp_path, train_batch=stopping_at(micro_step))
    assert (stopped.stopped, stopped.signal, stopped.step) == (True, signal.SIGTERM, (micro_step + 1) // 2)
    if stopped.step:  # in the first micro-step there is nothing yet to save
        assert checkpoint.step_of(checkpoint.find(tmp_path, which="last")) == stopped.step
    finished = run(tmp_path)
    assert (finished.stopped, finished.step) == (False, 12)
    assert last(tmp_path) == last(alone) and trace(tmp_path) == trace(alone)


def four_and_two(place: Path, config, prepare=lambda model: model) -> dict[str, bytes]:
    """Train four steps at once, and two and two; the bytes of the last checkpoint, which are the same."""
    batches = partial(batch_of, config.model)

    def learn(name: str, source) -> int:
        return fit(prepare(build_model(config)), config, place / name, train_batch=source, log=lambda line: None).step

    assert learn("four", batches) == 4
    assert learn("two", stopping_at(3, source=batches)) == 2 and learn("two", batches) == 4
    four, two = (checkpoint_bytes(place / name) for name in ("four", "two"))
    assert all(two[k] == v for k, v in four.items() if k.startswith("step-4/"))
    assert trace(place / "four") == trace(place / "two")
    return {k: v for k, v in four.items() if k.startswith("step-4/")}


FOUR = replace(CONFIG, train=replace(CONFIG.train, steps=4, validate_every=0))


@pytest.mark.parametrize("name", FAMILIES)
def test_two_steps_and_two_more_are_four_of_every_family(name, tmp_path):
    four_and_two(tmp_path, replace(FOUR, model=FAMILIES[name]))


def test_two_steps_and_two_more_are_four_also_by_muon_in_bfloat16_and_of_weights_in_channels_last_order(tmp_path):
    saved = four_and_two(tmp_path, override(FOUR, ["train.precision=bfloat16", "train.optimizer=muon"]))
    files = ("model.safetensors", "optimizer.safetensors", "ema.safetensors", "state.json", "manifest.json")
    assert set(saved) == {f"step-4/{file}" for file in files}

    def channels_last(model):
        assert any(not p.is_contiguous() for p in model.to(memory_format=torch.channels_last).parameters())
        return model

    four_and_two(tmp_path / "last", replace(FOUR, model=FAMILIES["fsq"]), channels_last)


def test_a_stop_inside_validation_is_made_good_on_return(alone, tmp_path):
    class Interrupted(tuple):
        def __getitem__(self, index):
            if index == 0:
                os.kill(os.getpid(), signal.SIGINT)
            return super().__getitem__(index)

    assert run(tmp_path, validation_batches=Interrupted(VALIDATION)).signal == signal.SIGINT
    assert not any("val/ce_auto" in line for line in trace(tmp_path))
    run(tmp_path)
    assert last(tmp_path) == last(alone) and trace(tmp_path) == trace(alone)


def test_a_stop_inside_a_preview_loses_nothing(alone, tmp_path):
    def preview(model):
        assert not model.training and not torch.is_grad_enabled()
        os.kill(os.getpid(), signal.SIGTERM)
        return Image.new("RGB", (4, 4))

    stopped = run(tmp_path, "train.sample_every=4", preview=preview)
    assert stopped.stopped and (tmp_path / "samples" / "step-4.png").exists()
    run(tmp_path)
    assert last(tmp_path) == last(alone) and trace(tmp_path) == trace(alone)


def test_a_second_interrupt_quits_at_once(alone, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, train_batch=lambda i: (os.kill(os.getpid(), signal.SIGINT), stopping_at(i, signal.SIGINT)(i))[1])
    run(tmp_path)
    assert last(tmp_path) == last(alone) and trace(tmp_path) == trace(alone)


def test_handlers_random_state_and_threads_are_the_callers_again(tmp_path):
    before = signal.getsignal(signal.SIGTERM), torch.get_rng_state().clone(), torch.get_num_threads()
    run(tmp_path, "train.steps=1")
    assert signal.getsignal(signal.SIGTERM) == before[0] and torch.get_num_threads() == before[2]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_training_outside_the_main_thread(alone, tmp_path):
    thread = threading.Thread(target=run, args=(tmp_path,))
    thread.start()
    thread.join()
    assert last(tmp_path) == last(alone)


def test_another_configuration_is_refused_by_the_first_key_that_differs(alone, tmp_path):
    run(tmp_path, "train.steps=2")
    before = checkpoint_bytes(tmp_path)
    for change, pattern in [
        ("seed=1", r"seed = 0, not 1"), ("model.width=32", r"model.width = 16, not 32"),
        ("train.lr=0.1", r"train.lr = 0.01, not 0.1"),
        ("train.steps=4", r"train.steps = 2, not 4: only a complete run, or one of train.schedule = 'constant', can be prolonged")
    ]:
        assert "config.toml" in refused(pattern, run, tmp_path, *dict.fromkeys(["train.steps=2", change]))
    assert checkpoint_bytes(tmp_path) == before
    run(tmp_path, "train.steps=2", "train.log_every=5", "train.checkpoint_every=1", "train.keep_checkpoints=9")


def test_a_constant_schedule_can_be_prolonged(tmp_path):
    run(tmp_path / "grown", "train.schedule=constant", "train.steps=6", "train.validate_every=0")
    run(tmp_path / "grown", "train.schedule=constant", "train.steps=12", "train.validate_every=0")
    run(tmp_path / "whole", "train.schedule=constant", "train.steps=12", "train.validate_every=0")
    assert last(tmp_path / "grown") == last(tmp_path / "whole")
    assert trace(tmp_path / "grown") == trace(tmp_path / "whole")


def test_a_finished_run_is_left_as_it_is(alone):
    before = checkpoint_bytes(alone), (alone / "metrics.jsonl").read_bytes()
    assert run(alone).step == 12
    assert (checkpoint_bytes(alone), (alone / "metrics.jsonl").read_bytes()) == before


def test_accumulation_equals_one_larger_batch(tmp_path):
    """Mean of the means of equal micro-batches is the mean of all: the same training, up to rounding."""

    def all_four(index: int) -> Batch:
        halves = clips(2 * index), clips(2 * index + 1)
        return Batch(states_BFA=torch.cat([h.states_BFA for h in halves]), tokens_BTHW=torch.cat([h.tokens_BTHW for h in halves]))

    still = ["model.dropout=0.0", "train.steps=3", "train.validate_every=0"]
    run(tmp_path / "two", *still)
    run(tmp_path / "one", *still, "train.accumulate=1", train_batch=all_four)
    losses = [[line["loss"] for line in trace(tmp_path / name)] for name in ("two", "one")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_validation_without_clips_and_pictures_without_a_tokenizer(tmp_path):
    refused(r"no validation clips: give --val FOLDER", run, tmp_path / "a", validation_batches=None)
    said = []
    assert run(tmp_path / "b", "train.sample_every=2", "train.steps=2", log=said.append).step == 2
    assert any("no pictures are drawn while training" in line and "--tokenizer" in line for line in said)
    assert not (tmp_path / "b" / "samples").exists()
    refused("validation has no clips", run, tmp_path / "c", validation_batches=())


@pytest.mark.parametrize("seconds, kept", [(0.0, {1, 2, 3}), (600.0, {3})])
def test_a_checkpoint_is_also_written_when_the_last_one_is_old(tmp_path, monkeypatch, seconds, kept):
    monkeypatch.setattr("hwm.training.loop.SAVE_SECONDS", seconds)
    rare = ["train.steps=3", "train.validate_every=0", "train.checkpoint_every=1000", "train.keep_checkpoints=9"]
    run(tmp_path / "a", *rare)
    assert {int(folder.name[5:]) for folder in (tmp_path / "a" / "checkpoints").glob("step-*")} == kept


def test_validation_is_the_mean_over_clips_not_over_batches(tmp_path):
    model = build()
    run(tmp_path, "train.steps=4", "train.ema=0.0", model=model)
    generator = torch.Generator()
    model.eval()
    scores = [model.validate(batch, generator=generator)["ce_teacher"] for batch in VALIDATION]
    mean = torch.cat(scores).mean().item()
    assert [line["val/ce_teacher"] for line in trace(tmp_path) if "val/ce_teacher" in line] == [pytest.approx(mean, rel=1e-6)]


def test_validation_sees_the_averaged_weights(tmp_path):
    model = build()
    run(tmp_path, "train.schedule=constant", "train.validate_every=12", model=model)
    logged = next(line["val/ce_teacher"] for line in trace(tmp_path) if "val/ce_teacher" in line)

    def mean(model) -> float:
        with torch.no_grad():
            return torch.cat(
                [model.eval().validate(b, generator=torch.Generator())["ce_teacher"] for b in VALIDATION]
            ).mean().item()

    averaged = build()
    folder = checkpoint.find(tmp_path)
    load_weights(checkpoint.stored(folder), averaged, where=folder)
    assert mean(averaged) == pytest.approx(logged, rel=1e-6)
    assert abs(mean(model) - logged) > 1e-3
