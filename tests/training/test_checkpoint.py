"""Checkpoints are whole and verified, or refused; weights fit exactly, or are refused."""

import random
import shutil
from pathlib import Path

import pytest
import torch
from refusing import refused
from safetensors.torch import load_file, save_file
from tiny_training import build, checkpoint_bytes, run, stopping_at
from torch import nn

from hwm.nn.units import Units
from hwm.training import checkpoint
from hwm.training.stored import Stored, load_weights, write_whole
from hwm.work.files import sealed


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    run(out, "train.steps=6", "train.validate_every=0", "train.checkpoint_every=2", "train.keep_checkpoints=3")
    return out


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def resume(out: Path, said: list[str]):
    return run(
        out, "train.steps=6", "train.validate_every=0", "train.checkpoint_every=2", "train.keep_checkpoints=3", log=said.append
    )


def test_a_damaged_checkpoint_is_reported_replaced_and_training_ends_bit_equal(trained, copy):
    for step in (4, 6):
        file = copy / "checkpoints" / f"step-{step}" / "optimizer.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
    said: list[str] = []
    resume(copy, said)
    warnings = [line for line in said if "WARNING" in line]
    assert len(warnings) == 2 and "step-6" in warnings[0] and "step-4" in warnings[1]
    assert any("continuing from" in line and line.endswith("step-2") for line in said)
    assert checkpoint_bytes(copy) == checkpoint_bytes(trained)


def test_a_lost_newest_checkpoint_is_noticed(trained, copy):
    shutil.rmtree(copy / "checkpoints" / "step-6")
    said: list[str] = []
    resume(copy, said)
    assert any("step-6: missing, though LATEST names it" in line for line in said)
    assert checkpoint_bytes(copy) == checkpoint_bytes(trained)


def test_training_never_starts_over_because_all_checkpoints_are_damaged(copy):
    for folder in (copy / "checkpoints").glob("step-*"):
        (folder / "manifest.json").write_text("{}")
    refused("no checkpoint in it is whole", resume, copy, [])
    for folder in (copy / "checkpoints").glob("step-*"):
        shutil.rmtree(folder)
    refused("no checkpoint in it is whole", resume, copy, [])


def test_leftovers_of_a_kill_are_cleaned_and_a_half_made_replacement_is_undone(trained, copy):
    checkpoints = copy / "checkpoints"
    (checkpoints / ".tmp-step-8").mkdir()
    (checkpoints / ".tmp-step-8" / "model.safetensors").write_bytes(b"half")
    shutil.copytree(checkpoints / "step-2", checkpoints / ".old-step-2.dropped")
    (checkpoints / "step-6").rename(checkpoints / ".old-step-6")
    said: list[str] = []
    resume(copy, said)
    assert any(line.endswith("step-6") for line in said)
    assert checkpoint_bytes(copy) == checkpoint_bytes(trained)


def test_the_newest_and_the_best_are_kept(tmp_path):
    for step in range(1, 8):
        state = {"step": step, "best_step": 2 if step >= 2 else 0}
        checkpoint.save(tmp_path, state, {"model": {"w": torch.tensor(float(step))}}, keep=3)
    assert {p.name for p in tmp_path.iterdir()} == {"step-2", "step-5", "step-6", "step-7", "LATEST", "BEST"}
    assert (tmp_path / "LATEST").read_text() == "step-7\n" and (tmp_path / "BEST").read_text() == "step-2\n"


def test_find(tmp_path):
    run(tmp_path, "train.steps=4")
    state = checkpoint.load_state(checkpoint.find(tmp_path, which="last"))
    assert checkpoint.find(tmp_path).name == f"step-{state['best_step']}"
    assert checkpoint.step_of(checkpoint.find(tmp_path, which="step-3")) == 3
    refused(r"no checkpoint 'step-7'; there are best, last, step-4, step-3", checkpoint.find, tmp_path, which="step-7")
    refused("no checkpoint in it", checkpoint.find, tmp_path / "elsewhere")
    (tmp_path / "checkpoints" / "step-3" / "manifest.json").write_text("x")
    refused("manifest.json: damaged", checkpoint.find, tmp_path, which="step-3")


def test_a_lost_best_checkpoint_is_reported_and_chosen_anew(tmp_path):
    changes = ["train.keep_checkpoints=1", "train.checkpoint_every=1"]
    run(tmp_path, *changes, train_batch=stopping_at(11))
    state = checkpoint.load_state(checkpoint.find(tmp_path, which="last"))
    assert (state["step"], state["best_step"]) == (6, 4)
    shutil.rmtree(tmp_path / "checkpoints" / "step-4")
    refused("no checkpoint 'step-4'", checkpoint.find, tmp_path)
    said: list[str] = []
    result = run(tmp_path, *changes, log=said.append)
    assert any("best checkpoint is lost" in line for line in said)
    assert result.best is not None and checkpoint.step_of(checkpoint.find(tmp_path)) in (8, 12)


def load(file: Path, model: nn.Module) -> None:
    load_weights(Stored([file]), model, where=file)


def test_loading_weights_prefers_the_average(trained):
    folder, averaged = trained / "checkpoints" / "step-6", build()
    load_weights(checkpoint.stored(folder), averaged, where=folder)
    ema, model = load_file(folder / "ema.safetensors"), load_file(folder / "model.safetensors")
    assert all(torch.equal(averaged.state_dict()[n], t) for n, t in (model | ema).items())
    assert any(not torch.equal(ema[n], model[n]) for n in ema)


def test_a_file_without_tensors_is_refused(tmp_path):
    save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors: does not fit the model .*2 missing: bias, weight"):
        load(tmp_path / "model.safetensors", nn.Linear(2, 1))


def test_files_that_are_no_weights(tmp_path):
    model = nn.Linear(2, 2)
    refused("no such file", load, tmp_path / "none.safetensors", model)
    chance = random.Random(2)
    write_whole(tmp_path / "model.safetensors", model.state_dict())
    whole = (tmp_path / "model.safetensors").read_bytes()
    for damaged in [b"", b"text", bytes(1000), *(whole[: chance.randrange(len(whole))] for _ in range(20))]:
        (tmp_path / "model.safetensors").write_bytes(damaged)
        refused("model.safetensors: not a whole safetensors file", load, tmp_path / "model.safetensors", model)


def test_statistics_that_no_model_keeps_any_more_are_passed_over(tmp_path):
    model, other = (Units(channels=2, state_dim=3) for _ in range(2))
    model.set_latents(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))
    kept = {f"units.{name}": tensor for name, tensor in model.state_dict().items()}
    write_whole(tmp_path / "model.safetensors", kept | {"units.change_std_C": torch.ones(2)})
    load(tmp_path / "model.safetensors", nn.ModuleDict({"units": other}))
    assert torch.equal(other.mean_C, model.mean_C) and torch.equal(other.std_C, model.std_C)


def test_tied_weights_come_back_tied(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.head.weight = self.table.weight

    model, other = Tied(), Tied()
    write_whole(tmp_path / "model.safetensors", model.state_dict())
    load(tmp_path / "model.safetensors", other)
    assert torch.equal(other.table.weight, model.table.weight) and other.head.weight is other.table.weight


def test_a_manifest_of_another_format_or_folder_says_so(copy):
    checkpoints = copy / "checkpoints"
    (checkpoints / "step-6").rename(checkpoints / "step-5")
    refused("belongs to step 6", checkpoint.verify, checkpoints / "step-5")
    body = checkpoint._manifest(checkpoints / "step-4")
    (checkpoints / "step-4" / "manifest.json").write_text(sealed(body | {"schema": 2}))
    refused("written in format 2, this version reads 1", checkpoint.verify, checkpoints / "step-4")


def test_a_manifest_guards_itself(copy):
    path = copy / "checkpoints" / "step-6" / "manifest.json"
    path.write_text(path.read_text().replace('"torch": "', '"torch": "9'))
    refused(r"step-6/manifest.json: damaged", checkpoint.verify, path.parent)
