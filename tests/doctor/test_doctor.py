"""hwm doctor: a sound recipe is ready, and every fault that is built for real is seen by the check that looks for it."""

import json
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from hwm.cli import main
from hwm.clock import COSMOS
from hwm.config import DataConfig, RunConfig, TrainConfig, override
from hwm.data.onex import open_dataset
from hwm.data.writers import RawShardWriter, TokenShardWriter, write_dataset_metadata, write_tokenizer_info
from hwm.doctor import cost, data, examine, loopback, machine, place, recipe, step
from hwm.doctor.costs import recipe_costs
from hwm.doctor.expectation import first_loss
from hwm.doctor.trial import Trial
from hwm.doctor.verdict import Examination, graded
from hwm.model_config import FlowConfig, FSQConfig, MaskedConfig, STConfig, WanConfig
from hwm.models.build import build_model
from hwm.models.st_transformer import STTransformer
from hwm.nn.vocabulary import Vocabulary
from hwm.robot import EVE
from hwm.runs import open_clips
from hwm.tokenizers.autoencoder import FSQTokenizer
from hwm.tokenizers.open import load_tokenizer, save_tokenizer
from hwm.training.run_folder import settle_config

CPU = torch.device("cpu")
ST = STConfig(
    vocab_size=200, factors=(8, 5, 5), grid=(2, 2), num_layers=1, num_heads=2, width=16, mlp_ratio=2, state_hidden=16,
    num_states=34,
)  # fmt: skip
TRAIN = TrainConfig(
    steps=6, batch_size=8, lr=1e-2, validate_every=3, validate_clips=4, checkpoint_every=3, threads=1, device="cpu"
)  # fmt: skip
MASKED = MaskedConfig(vocab_size=64, grid=(2, 2), num_layers=2, num_heads=2, width=16, mlp_ratio=2, unshared_blocks=1)
FLOW = FlowConfig(channels=3, grid=(4, 4), num_layers=2, num_heads=2, width=24, mlp_ratio=2, unshared_blocks=1)
WAN = WanConfig(
    base="", channels=4, grid=(4, 4), num_layers=1, num_heads=2, head_width=12, mlp_width=32, time_width=16, text_width=8,
    text_rows=1, lora_rank=0, state_hidden=16,
)  # fmt: skip


def states_of(frames, seed):
    """Rows of states of the built-in robot's usual size, each different."""
    drawn = np.random.default_rng(seed).normal(size=(frames, 25))
    return (np.array(EVE.mean) + np.array(EVE.std) * drawn).astype(np.float32)


def write_tokens(root, seed, fingerprint, *, states=None, frames=170):
    """Two shards of random tokens, one segment each."""
    rng = np.random.default_rng(seed)
    for shard in range(2):
        rows = states_of(frames, 10 * seed + shard) if states is None else states
        tokens = rng.integers(200, size=(frames // 17, COSMOS.grids, 2, 2)).astype(np.int32)
        TokenShardWriter(root, shard).write(tokens, rows, np.full(frames, shard, np.int32))
    write_tokenizer_info(root, name="coder", fingerprint=fingerprint, vocab_size=200, grid=(2, 2), clock=COSMOS, config={})
    write_dataset_metadata(root, num_shards=2, num_images=2 * frames)
    return root


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tokenizer, and training and held-out tokens of its."""
    root = tmp_path_factory.mktemp("doctor")
    torch.manual_seed(0)
    save_tokenizer(FSQTokenizer(FSQConfig(levels=(8, 5, 5), channels=8, depth=1)), root / "coder")
    coder = load_tokenizer(root / "coder")
    for seed, name in enumerate(("train", "val")):
        write_tokens(root / name, seed, coder.fingerprint())
    return root


def config_of(home, **changes):
    given = DataConfig(train=str(home / "train"), val=str(home / "val"))
    return RunConfig(recipe="tiny", tokenizer=str(home / "coder"), model=ST, data=given, train=replace(TRAIN, **changes))


def asked(check, *arguments, **named):
    """The verdicts of one check as the page shows them, by name."""
    exam = Examination(lambda verdict: None)
    exam.ask("asked", check, *arguments, **named)
    return {verdict.name: verdict for verdict in exam.verdicts}


def the_one(verdicts, name, status):
    verdict = verdicts[name]
    assert verdict.status == status, verdict.line()
    assert bool(verdict.remedy) == (status != "ok") and "\n" not in verdict.line()
    return verdict


# The whole


def test_a_sound_recipe_is_ready(home, tmp_path, capsys):
    from hwm.config import to_toml

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
    assert found.failed == ["disk", "cache disk", "settings"] and lines[-1].startswith("\nnot ready: 3 of ")
    assert any("runs on random clips" in line for line in lines) and any("random clips  [" in line for line in lines)
    assert found.verdicts[-1].name == "peak memory" and list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_not_tried(home, tmp_path):
    model = replace(ST, vocab_size=200_000_000, factors=(), width=64)
    found = examine(replace(config_of(home), model=model, data=DataConfig()), out=tmp_path, say=lambda line: None)
    assert {"training memory", "checkpoints' disk"} <= {*found.failed} and found.verdicts[-1].name == "training step"
    assert "would not fit" in found.verdicts[-1].found


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["st-tniy"], "did you mean 'st-tiny'"),
        (["st-tiny", "--config", "x.toml"], "not both"),
        (["--data", "x"], "need a recipe"),
        (["st-tiny", "--nproc", "0"], "at least 1"),
        (["st-tiny", "--set", "train.stps=3"], "did you mean 'steps'"),
    ],
)
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


# The machine


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
    assert "diffusers 0.1 is not" in the_one(asked(place.extras, config), "extras", "FAIL").found
    the_one(asked(place.extras, config_of(home)), "extras", "ok")
    the_one(asked(place.extras, None), "extras", "ok")


def test_limits_of_the_machine(tmp_path):
    free = machine.free_memory()
    the_one(asked(machine.memory, least=free / 10), "memory", "ok")
    the_one(asked(machine.memory, least=2 * free), "memory", "warn")
    the_one(asked(machine.memory, least=10 * free), "memory", "FAIL")
    the_one(asked(place.disk, "disk", tmp_path / "a" / "b", least=1e18), "disk", "FAIL")
    the_one(asked(place.disk, "disk", tmp_path / "a" / "b", least=0), "disk", "ok")
    the_one(asked(place.open_files, needed=10**9), "open files", "FAIL")
    the_one(asked(place.shared_memory, tmp_path, least=1e18), "shared memory", "warn")
    the_one(asked(machine.cores, replace(TRAIN, threads=5000)), "cores", "warn")
    the_one(asked(machine.cores, replace(TRAIN, threads=1)), "cores", "ok")
    assert "cannot be used here" in the_one(asked(machine.device, replace(TRAIN, device="cuda:99")), "asked", "FAIL").found


def test_places_that_cannot_be_written(tmp_path):
    the_one(asked(place.writing, tmp_path), "writing", "ok")
    the_one(asked(place.writing, tmp_path / "absent"), "writing", "FAIL")
    (tmp_path / "file").touch()
    the_one(asked(place.cache_writing, tmp_path / "file" / "cache"), "cache folder", "warn")
    found = examine(None, out=tmp_path / "file" / "run", say=lambda line: None)
    assert {"asked", "writing", "file locks"} & {*found.failed} == {"writing", "file locks"}


def test_file_locks(tmp_path, monkeypatch):
    the_one(asked(place.locking, tmp_path), "file locks", "ok")
    import fcntl

    monkeypatch.setattr(fcntl, "flock", lambda *arguments: None)  # as file systems do that keep no locks
    the_one(asked(place.locking, tmp_path), "file locks", "warn")


def test_compilers(tmp_path, monkeypatch):
    if shutil.which("g++"):
        the_one(asked(place.compiler, tmp_path, cuda=False), "compiler", "ok")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no C++ compiler" in the_one(asked(place.compiler, tmp_path, cuda=False), "compiler", "FAIL").found
    (tmp_path / "g++").write_text("#!/bin/sh\necho no headers >&2\nexit 1\n")
    (tmp_path / "g++").chmod(0o755)
    assert "no headers" in the_one(asked(place.compiler, tmp_path, cuda=False), "compiler", "FAIL").found


def test_two_processes_find_each_other_or_not():
    the_one(asked(loopback.exchange), "processes", "ok")
    the_one(asked(loopback.exchange, seconds=0.05), "processes", "FAIL")


# The recipe


def test_settings_that_training_refuses(home, tmp_path):
    assert [v.status for v in recipe.settings(config_of(home), tmp_path)] == ["ok"]
    without = replace(config_of(home), data=DataConfig(train="x"))
    assert "without held-out data" in the_one(asked(recipe.settings, without, tmp_path), "settings", "FAIL").found
    settle_config(tmp_path, config_of(home))
    assert [v.status for v in recipe.settings(config_of(home), tmp_path)] == ["ok"]
    other = replace(config_of(home), seed=5)
    assert "holds a run" in the_one(asked(recipe.settings, other, tmp_path), "settings", "FAIL").found


def test_the_remedy_for_too_little_memory_is_one(home):
    config = config_of(home, batch_size=64, accumulate=2)
    costs = recipe_costs(config)
    the_one(asked(recipe.memory, costs, free=2 * costs.memory(64)), "training memory", "ok")
    the_one(asked(recipe.memory, costs, free=1.05 * costs.memory(64)), "training memory", "warn")
    the_one(asked(recipe.memory, costs, free=1.5 * costs.memory(64), nproc=2), "training memory", "FAIL")
    free = costs.memory(0) + (costs.memory(64) - costs.memory(0)) / 4
    failed = the_one(asked(recipe.memory, costs, free=free), "training memory", "FAIL")
    mended = override(config, re.findall(r"train\.\w+=\d+", failed.remedy))
    assert mended.train.batch_size * mended.train.accumulate == 128 and 4 <= mended.train.batch_size < 64
    the_one(asked(recipe.memory, recipe_costs(mended), free=free), "training memory", "ok")
    tiny = the_one(asked(recipe.memory, costs, free=costs.memory(0) / 2), "training memory", "FAIL")
    assert "fsdp" in tiny.remedy and "smaller recipe" in tiny.remedy


def test_checkpoints_need_disk(home, tmp_path):
    costs = recipe_costs(config_of(home))
    one = recipe.checkpoint_bytes(costs)
    the_one(asked(recipe.disk, costs, tmp_path, free=9 * one), "checkpoints' disk", "ok")
    the_one(asked(recipe.disk, costs, tmp_path, free=5 * one), "checkpoints' disk", "warn")
    the_one(asked(recipe.disk, costs, tmp_path, free=3 * one), "checkpoints' disk", "FAIL")


# The data


def test_states_with_nan(home, tmp_path):
    shutil.copytree(home / "train", tmp_path / "bad")
    file = next((tmp_path / "bad").rglob("states_0.bin"))
    rows = np.fromfile(file, np.float32)
    rows[123] = np.nan
    rows.tofile(file)
    for quick, name in ((False, "training data"), (True, "training data"), (True, "states")):
        if name == "states":  # nobody wrote checksums, and nobody read every byte
            shutil.rmtree(tmp_path / "bad" / "checksums")
            (tmp_path / "bad" / "checksums.json").unlink()
        config = override(config_of(home), [f"data.train={tmp_path / 'bad'}"])
        found = examine(config, out=tmp_path, quick=quick, say=lambda line: None)
        assert name in found.failed and found.verdicts[-1].name == "training step"


def test_a_flipped_bit_and_a_missing_shard(home, tmp_path):
    shutil.copytree(home / "train", tmp_path / "bad")
    file = next((tmp_path / "bad").rglob("states_1.bin"))
    content = bytearray(file.read_bytes())
    content[400] ^= 1
    file.write_bytes(content)
    found = the_one(asked(data.sound, "data", str(tmp_path / "bad"), quick=False), "data", "FAIL")
    assert "1 error," in found.found and file.name in found.found
    file.unlink()
    the_one(asked(data.sound, "data", str(tmp_path / "bad"), quick=True), "asked", "FAIL")


def test_held_out_data_that_was_trained_on(home, tmp_path):
    train, val = (open_dataset(home / name) for name in ("train", "val"))
    the_one(asked(data.held_out, train, val), "held-out data", "ok")
    the_one(asked(data.held_out, train, train), "held-out data", "FAIL")
    shutil.copytree(home / "train", tmp_path / "copy")
    the_one(asked(data.held_out, train, open_dataset(tmp_path / "copy")), "held-out data", "FAIL")
    half = np.concatenate([states_of(170, 0)[:17], states_of(170, 55)[17:]])
    partly = open_dataset(write_tokens(tmp_path / "partly", 7, "x", states=half))
    assert "10.0%" in the_one(asked(data.held_out, train, partly), "held-out data", "warn").found
    rest = np.repeat(states_of(1, 3), 170, 0)  # at rest, the same in both: no sign of a leak but for one row
    still = [open_dataset(write_tokens(tmp_path / name, 8, "x", states=rest)) for name in ("a", "b")]
    assert len(data.row_hashes(still[0])) == 1


@pytest.mark.parametrize(
    "change, status, word",
    [
        (lambda rows: rows, "ok", "0 that never"),
        (lambda rows: np.where(np.arange(25) == 3, 1, rows), "warn", "KNEE_PITCH"),
        (lambda rows: 1e4 * rows, "warn", "far from"),
        (lambda rows: 0 * rows + 1, "FAIL", "none of them"),
    ],
)
def test_states_that_say_nothing(change, status, word, tmp_path):
    dataset = open_dataset(write_tokens(tmp_path / "d", 0, "x", states=change(states_of(170, 0)).astype(np.float32)))
    assert word in the_one(asked(data.states, dataset), "states", status).found


def test_the_tokenizer_of_the_data(home, tmp_path):
    dataset = open_dataset(home / "train")
    the_one(asked(data.tokenizer, config_of(home), dataset), "tokenizer", "ok")
    other = replace(config_of(home), tokenizer="fsq-8x8x8")
    the_one(asked(data.tokenizer, other, dataset), "tokenizer", "FAIL")
    the_one(asked(data.tokenizer, replace(config_of(home), tokenizer=""), dataset), "tokenizer", "warn")
    the_one(asked(data.tokenizer, replace(config_of(home), tokenizer=str(tmp_path)), dataset), "asked", "FAIL")


def test_clips_that_do_not_fit_or_do_not_suffice(home):
    given = data.Given()
    fitting = asked(data.fits, config_of(home), given, training=True)
    assert f"{len(given.train)};" in the_one(fitting, "training clips", "ok").found
    the_one(asked(data.fits, config_of(home, batch_size=1000), data.Given(), training=True), "training clips", "warn")
    wrong = replace(config_of(home), model=replace(ST, grid=(4, 4)))
    assert "set model.grid" in the_one(asked(data.fits, wrong, data.Given(), training=True), "asked", "FAIL").line()
    the_one(asked(data.files, given), "open shards", "ok")


def test_room_for_decoded_frames(tmp_path):
    with RawShardWriter(tmp_path, shard=0, height=16, width=16) as writer:
        writer.append(np.zeros((20, 16, 16, 3), np.uint8), states_of(20, 0), 0)
    write_dataset_metadata(tmp_path, num_shards=1, num_images=20)
    dataset = open_dataset(tmp_path)
    the_one(asked(data.decoding, dataset.resized(8), free=20 * 8 * 8 * 3), "decoded frames", "ok")
    the_one(asked(data.decoding, dataset, free=20 * 8 * 8 * 3), "decoded frames", "FAIL")


# A real step


def trial(config=None, *, model=None, source=None, **train):
    config = config or RunConfig(recipe="tiny", model=ST, train=replace(TRAIN, **train))
    if model is None:
        model = build_model(config)
    return Trial(config, model, CPU, source, clips=config.train.batch_size)


def test_weights_that_start_too_large():
    start = trial()
    fine = asked(first_loss, start)
    the_one(fine, "first loss", "ok"), the_one(fine, "first loss, digits", "ok")
    nn.init.normal_(start.model.vocabulary.weight, std=2.0)
    assert "too large" in the_one(asked(first_loss, start), "first loss", "FAIL").remedy


def test_one_digit_that_starts_too_large():
    start = trial()
    with torch.no_grad():
        start.model.vocabulary.weight[8:13] *= 50  # digit 1
    assert "digit 1" in the_one(asked(first_loss, start), "first loss, digits", "FAIL").found


class Leaking(Vocabulary):
    """Knows the ids that it is asked for."""

    def loss(self, hidden_ND, ids_N, *, code_weight=0.0):
        return super().loss(hidden_ND + 200 * self.embed(ids_N), ids_N, code_weight=code_weight)


def test_a_model_that_sees_its_target():
    start = trial()
    start.model.vocabulary.__class__ = Leaking
    assert "lower than chance" in the_one(asked(first_loss, start), "first loss", "FAIL").remedy


def test_values_that_are_not_finite(home):
    start = trial()
    with torch.no_grad():
        start.model.place_positions[0, 0] = torch.nan
    assert "nan" in the_one(asked(first_loss, start), "first loss", "FAIL").found
    the_one(asked(step.gradients, start), "gradients", "FAIL")


class Jittering(STTransformer):
    """Draws from a source of its own."""

    def loss(self, batch, *, generator):
        terms = super().loss(batch, generator=generator)
        return terms | {"loss": terms["loss"] * (1 + 1e-3 * random.random())}


def test_a_step_that_is_another_the_second_time():
    the_one(asked(step.repeated, trial()), "repeated step", "ok")
    the_one(asked(step.repeated, trial(model=Jittering(ST))), "repeated step", "FAIL")


class Cut(nn.Module):
    """A state encoder whose output is lost on the way."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.shift_scale = encoder, encoder.shift_scale

    def forward(self, states_BFA):
        return 0 * self.encoder(states_BFA)


def test_states_that_reach_nothing():
    sound, cut = trial(), build_model(RunConfig(model=ST, train=TRAIN))
    cut.states = Cut(cut.states)
    cut = trial(model=cut)
    for start, status in ((sound, "ok"), (cut, "FAIL")):
        found = asked(step.learning, start, steps=3)
        the_one(found, "learning", "ok")
        for name in ("gradient everywhere", "gradient of states"):
            the_one(found, name, status)
        the_one(asked(step.states_used, start), "states used", status)


def test_a_weight_that_takes_no_part():
    model = build_model(RunConfig(model=ST, train=TRAIN))
    model.spare = nn.Linear(3, 3)
    start = trial(model=model)
    assert "spare" in the_one(asked(step.gradients, start), "gradients", "FAIL").found
    the_one(asked(step.learning, start, steps=2), "gradient everywhere", "FAIL")


def test_a_learning_rate_that_is_too_high():
    the_one(asked(step.learning, trial(lr=30.0), steps=4), "learning", "FAIL")


def test_a_checkpoint_that_cannot_be_written(tmp_path):
    start = trial()
    start.learn(1)
    the_one(asked(step.round_trip, start, tmp_path / "a"), "checkpoint", "ok")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        found = asked(step.round_trip, start, tmp_path / "b")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "cannot write" in the_one(found, "asked", "FAIL").found


class Slow:
    """Clips on a disk that takes its time."""

    def __init__(self, clips):
        self.clips, self.dataset = clips, clips.dataset

    def __len__(self):
        return len(self.clips)

    def batch(self, indices):
        time.sleep(0.2)
        return self.clips.batch(indices)


def test_data_that_starve_the_device(home):
    config = config_of(home)
    clips = open_clips(config, config.data.train, training=True)
    for source, status in ((clips, "ok"), (Slow(clips), "warn")):
        start = trial(config, source=source)
        start.learn(3)
        found = asked(cost.cost, start, recipe_costs(config), nproc=2)
        the_one(found, "reading", status)
        assert "an estimate" in the_one(found, "whole recipe", "ok").found
        assert "share these cores" in found["many processes"].found


def test_a_step_that_takes_hours_is_not_tried():
    config = RunConfig(model=ST, train=TRAIN)
    costs = recipe_costs(config)
    assert cost.affordable(config, costs, device=CPU, quick=True) == TRAIN.batch_size
    slow = replace(costs, plain=replace(costs.plain, clip_flop=10**14))
    with pytest.raises(ValueError, match="the whole recipe .* (h|days); train it on a faster device"):
        cost.affordable(config, slow, device=CPU, quick=True)


VARIANTS = [
    replace(MASKED, sharing=sharing, unshared_blocks=blocks) for sharing, blocks in (("stream", 1), ("modality", 1), ("full", 0))
]
VARIANTS += [replace(MASKED, attention="split", sharing="full", unshared_blocks=0), replace(ST, factors=(), dropout=0.0)]
VARIANTS += [replace(FLOW, **options) for options in ({}, {"output": "data"}, {"target": "change", "relative_loss": True})]
VARIANTS += [replace(WAN, **options) for options in ({}, {"output": "data", "target": "change", "relative_loss": True})]


@pytest.mark.parametrize("model", VARIANTS, ids=lambda m: m.family)
def test_every_family_passes_and_is_known(model):
    """The expected loss at the start, the weights that lie idle by design, and states behind zero gates."""
    if model.family == "wan":
        pytest.importorskip("diffusers")
        pytest.importorskip("peft")
    start = trial(RunConfig(model=model, train=replace(TRAIN, lr=3e-3)))
    found = asked(first_loss, start) | asked(step.gradients, start) | asked(step.learning, start, steps=4)
    found |= asked(step.states_used, start)
    assert [v.line() for v in found.values() if v.status != "ok"] == [] and "gradient of states" in found


@pytest.mark.parametrize("model", [FLOW, replace(FLOW, output="data")], ids=lambda m: m.output)
def test_latent_models_that_start_wrong(model):
    start = trial(RunConfig(model=model, train=TRAIN))
    nn.init.normal_(start.model.network.final.weight, std=1.0)
    the_one(asked(first_loss, start), "first loss", "FAIL")


def test_a_tokenizer_of_video():
    model = FSQConfig(levels=(8, 5, 5), channels=8, depth=1)
    start = trial(RunConfig(model=model, data=DataConfig(clip="blocks", image_size=16), train=replace(TRAIN, batch_size=2)))
    found = asked(first_loss, start) | asked(step.gradients, start) | asked(step.states_used, start)
    assert [v.status for v in found.values()] == ["ok"] * 3
    nn.init.normal_(start.model.patch_out.weight, std=3.0)
    the_one(asked(first_loss, start), "first loss", "FAIL")
