"""A published folder of every family: the same model again, its card, and nothing of it taken on trust."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from damage import contents, edit_json, edit_run, reseal
from families import FAMILIES, run_of
from refusing import refused
from test_identity import configured
from tiny_line import raw_data, token_data, tokenizer

from hwm.cli import main
from hwm.cli.use import _own_folder
from hwm.config import RunConfig
from hwm.model_config import FSQConfig
from hwm.publish.card import Said, command
from hwm.publish.export import export
from hwm.publish.folder import read_published
from hwm.publish.trained import fingerprint, open_trained
from hwm.recipes import recipe
from hwm.robot import EVE, ROBOTS, read_embodiment
from hwm.runs import load_run, train
from hwm.tokenizers.open import load_tokenizer, open_tokenizer
from hwm.training import checkpoint


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_the_same_again_and_nearly_so_in_half_the_bytes(name, tmp_path):
    config = RunConfig(recipe="x", model=FAMILIES[name])
    run = run_of(config, tmp_path / "run")
    whole, told = export(run, tmp_path / "whole")
    small, rounded = export(run, tmp_path / "small", narrow=True)
    wanted = load_run(run).model.state_dict()
    for folder in (whole, small):
        again = load_run(folder)
        assert (again.step, again.config.model) == (7, config.model) and not again.model.training
        found = again.model.state_dict()
        assert {n: (t.shape, t.dtype) for n, t in found.items()} == {n: (t.shape, t.dtype) for n, t in wanted.items()}
        learned = {n for n, _ in again.model.named_parameters()}
        for key, value in wanted.items():
            exact = folder == whole or key not in learned
            torch.testing.assert_close(found[key], value, rtol=0 if exact else 2**-11, atol=0 if exact else 2**-25)
    assert told == "" and "stored as float16; the largest change is" in rounded and rounded in (small / "README.md").read_text()
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (whole, small)]
    assert sizes[1] < 0.75 * sizes[0]
    again, _ = export(whole, tmp_path / "again")  # what was published can be published again
    assert fingerprint(open_trained(again).tensors()) == fingerprint(open_trained(run).tensors())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Tokens, a run that learned them, its scores, and both published."""
    root = tmp_path_factory.mktemp("published")
    coder = tokenizer(root / "coder", levels=(4, 4, 2))
    token_data(root / "d", fingerprint=load_tokenizer(coder).fingerprint())
    config = configured(root / "d", tokenizer=str(coder), train__ema=0.9, data__val=str(root / "d"))
    train(config, root / "r")
    export(root / "r", root / "bare")
    data = ["--data", str(root / "d"), "--device", "cpu"]  # of the folder, not of the run: once is dear enough
    assert main(["evaluate", str(root / "bare"), *data, "--clips", "4", "--out", str(root / "r")]) == 0
    export(root / "r", root / "out", said=Said(licence="apache-2.0", data="made up | for tests", hardware="one core"))
    return root


def test_the_card_says_what_the_run_knows_and_what_its_maker_said(place):
    card, sums = (place / "out/README.md").read_text(), json.loads((place / "out/checksums.json").read_text())
    head = dict(line.split(": ", 1) for line in card.split("---")[1].strip().splitlines())
    assert json.loads(head["license"]) == "apache-2.0" and json.loads(head["pipeline_tag"]) == "robotics"
    metrics = {m["type"]: m for m in json.loads(head["model-index"])[0]["results"][0]["metrics"]}
    assert "psnr" in metrics and isinstance(metrics["psnr"]["value"], float)
    scored = json.loads((place / "r/results.json").read_text())
    psnr = next(s["value"]["mean"] for s in scored["scores"] if (s["row"], s["metric"]) == (scored["headline"], "psnr"))
    assert f"{psnr:.2f}" in card and "copy last frame" in card
    for text in (
        "made up \\| for tests", "one core", "seed 0, step 1 of 1", "| 24 |", EVE.names[7], "in tokenizer/", "random weights",
        "hwm predict THIS_FOLDER", "Known limits: not said", *sums.values()
    ):  # fmt: skip
        assert text in card, text
    assert str(place) not in card + (place / "out/config.json").read_text()
    assert set(sums) == {
        "config.json", "model.safetensors", "robot.toml", "unigram.json",
        *(f"tokenizer/{name}" for name in ("config.json", "model.safetensors", "checksums.json"))
    }  # fmt: skip
    assert read_embodiment(place / "out/robot.toml") == EVE


def test_a_published_folder_stands_where_a_run_does(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(place / "out", "model")
    before = contents(Path("model"))
    data = ["--data", str(place / "d"), "--device", "cpu"]
    assert _own_folder(Path("model"), "model") == Path("runs/model") and _own_folder(place / "r", "r") == place / "r"
    for name in ("model", str(place / "r")):
        assert main(["predict", name, *data, "--frames", "17", "--out", f"{Path(name).name}.mp4"]) == 0
    assert Path("model.mp4").read_bytes() == Path("r.mp4").read_bytes()
    capsys.readouterr()
    train(configured(place / "d", init="model", train__lr=1e-9, seed=5), "tuned")
    assert "starting from model (step 1 of custom" in capsys.readouterr().out
    assert main(["predict", "model", *data, "--out", "model/x.mp4"]) == 2
    assert contents(Path("model")) == before


def test_every_file_is_guarded_and_only_its_own_folder_is_read(place, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(place / "out", folder)
    sums = (folder / "checksums.json").read_text()
    for name in json.loads(sums):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        refused(f"{name}: (is not as it was written|not valid JSON)", load_run, folder)
        (folder / name).unlink()
        refused(rf"(no run folder|{name}: missing)", load_run, folder)
        (folder / name).write_bytes(kept)
    (folder / "README.md").write_text("edited")
    load_run(folder)
    (folder / "other.json").write_text("{}")
    refused("other.json: is not in checksums.json", load_run, folder)
    (folder / "other.json").unlink()
    for name, told in (("../r/config.toml", "leads out of the folder"), ("/etc/passwd", "leads out"), ("gone.json", "missing")):
        edit_json(folder / "checksums.json", **{name: "0" * 64})
        refused(told, load_run, folder)
        (folder / "checksums.json").write_text(sums)
    (folder / "unigram.json").unlink()
    (folder / "unigram.json").symlink_to(place / "out/unigram.json")
    refused("unigram.json.*leads out of the folder", load_run, folder)
    (folder / "checksums.json").unlink()
    refused("checksums.json: no such", load_run, folder)


def test_a_configuration_that_does_not_fit_or_asks_for_too_much_is_one_line(place, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(place / "out", folder)
    whole = (folder / "config.json").read_text()
    for changes, told in (
        ({"model__width": 32}, "does not fit the model"), ({"model__num_layers": 10**9}, "model.num_layers must be"),
        ({"model__num_layers": 1000, "model__width": 65536}, "asks for more than|model.safetensors"),
        ({"model__family": "none"}, "model.family must be one of"), ({"extra": 1}, "config.json: unknown key 'extra'"),
    ):  # fmt: skip
        edit_run(folder, **changes)
        refused(told, load_run, folder)
        (folder / "config.json").write_text(whole)
    for key, value in (("schema", 2), ("step", -1), ("step", "1"), ("run", []), ("identity", None)):
        edit_json(folder / "config.json", **{key: value})
        reseal(folder)
        refused("config.json", read_published, folder)
        (folder / "config.json").write_text(whole)
    edit_json(folder / "config.json", format="other")
    refused("no run folder|no tokenizer|config.toml", load_run, folder)


def test_a_tokenizers_run_is_published_and_encodes_as_the_run_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw_data(Path("raw"), frames=34)
    tiny = ["train.steps=1", "train.validate_every=0"]
    assert main(["train", "fsq-tiny", "--out", "run", "--data", "raw", "--set", *tiny]) == 0
    assert main(["export", "run", "coder"]) == 0
    coder = open_tokenizer("coder")
    assert coder.name == "coder" and coder.fingerprint() == load_run("run").model.fingerprint()
    assert isinstance(read_published("coder").config.model, FSQConfig) and not Path("coder/robot.toml").exists()
    text = Path("coder/README.md").read_text()
    assert "hwm tokenize RAW OUT --tokenizer THIS_FOLDER" in text and "Causal video tokenizer (tokens)" in text
    assert main(["train", "fsq-tiny", "--init", "coder", "--out", "tuned", "--data", "raw", "--set", *tiny]) == 0
    world, _ = export(run_of(RunConfig(model=FAMILIES["st"]), Path("w")), "x")
    refused("holds a world model, not a tokenizer", load_tokenizer, world)


def test_what_float16_cannot_hold_is_refused_and_nothing_stays(tmp_path):
    run = run_of(RunConfig(recipe="x", model=FAMILIES["fsq"]), tmp_path / "run")
    place = checkpoint.find(run)
    state, tensors = checkpoint.load_state(place), checkpoint.stored(place)
    ema = tensors.read("ema")
    name = next(iter(ema))
    checkpoint.save(run / "checkpoints", state, {"model": tensors.read("model"), "ema": ema | {name: ema[name] + 1e6}}, keep=1)
    refused(f"{name} holds 1e\\+06, too large for float16; export in float32", export, run, tmp_path / "out", narrow=True)
    assert not (tmp_path / "out").exists() and len(list(tmp_path.iterdir())) == 1
    refused("already exists", export, run, run)


def test_the_command_of_a_card_makes_the_same_configuration(monkeypatch):
    from hwm.cli.train import _configured
    config = replace(recipe("fsq-tiny"), seed=4)
    config = replace(config, train=replace(config.train, lr=0.02, betas=(0.5, 0.75)), model=replace(config.model, levels=(8, 8)))
    words = shlex.split(command(config))
    sets = words[words.index("--set") + 1 : words.index("--out")]
    again = _configured("fsq-tiny", None, sets, data="", val="", device="auto", seed=4)
    assert again == config and words[:3] == ["hwm", "train", "fsq-tiny"]
    robot = read_embodiment(ROBOTS / "franka.toml")
    fitted = replace(recipe("direct-tiny"), model=recipe("direct-tiny").model.for_robot(robot))
    assert "model.state_dim=8" in command(fitted) and "model." not in command(fitted, robot)
