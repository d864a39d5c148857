"""Wrong configurations are refused before anything heavy is imported, and so are questions for help answered."""

import math
import resource
import subprocess
import sys

import pytest
from tiny_line import ENVIRONMENT, ROOT

from hwm.cli import VERBS
from hwm.config import RunConfig, changed, override, to_dict, to_toml
from hwm.recipes import RECIPES

CALL = """
import sys
from hwm.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as ended:
    code = ended.code
print("torch" in sys.modules, file=sys.__stdout__)
sys.exit(code)
"""


def call(*arguments: str) -> tuple[int, str, bool, float]:
    """Exit code, text, whether torch was imported, and seconds of processor time of `hwm` with these arguments."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = used()
    done = subprocess.run([sys.executable, "-c", CALL, *arguments], env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True)
    *lines, torch = done.stdout.splitlines() or [""]
    assert torch in ("True", "False"), done.stderr
    return done.returncode, "\n".join(lines) + done.stderr, torch == "True", used() - before


# --- B9 --------------------------------------------------------------------------------------------------------------

REFUSED = "exit code 2, one line with the nearest name, no torch before it (<= 1 s)"
BAD = {
    "unknown key": (["--set", "train.stps=5"], "unknown key 'train.stps'; did you mean 'steps'?"),
    "unknown table": (["--set", "trian.steps=5"], "did you mean 'train'?"),
    "wrong type": (["--set", "train.steps=many"], "expected int, got 'many'"),
    "1e-4 as text": (["--set", 'train.lr="1e-4"'], "expected float, got '1e-4'"),
    "negative steps": (["--set", "train.steps=-3"], "steps"), "batch 0": (["--set", "train.batch_size=0"], "batch_size"),
    "heads and width": (["--set", "model.num_heads=3"], "model.width 32 is not divisible by model.num_heads 3"),
    "no heads": (["--set", "model.num_heads=0"], "model.num_heads must be 1 or more, got 0"),
    "not a number": (["--set", "model.init_std=nan"], "model.init_std must be a finite number"),
    "wrong choice": (["--set", "train.schedule=linaer"], "did you mean 'linear'?"),
    "wrong recipe": ([], "did you mean 'st-demo'?"), "wrong option": (["--sett", "train.steps=5"], "--set")
}


def refused(name: str) -> tuple[bool, float]:
    arguments, message = BAD[name]
    recipe = "st-dmeo" if name == "wrong recipe" else "st-tiny"
    code, text, torch, seconds = call("train", recipe, "--out", "nowhere", "--data", "nowhere", *arguments)
    assert code == 2 and message in " ".join(text.split()) and "Traceback" not in text, text
    assert name == "wrong option" or text.count("\n") == 1, text
    assert not (ROOT / "nowhere").exists()
    return torch, seconds


@pytest.mark.fault("B9", REFUSED)
@pytest.mark.parametrize("name", ["unknown key", "1e-4 as text", "heads and width", "wrong option"])
def test_a_wrong_setting_is_one_line_before_torch(name):
    assert refused(name)[0] is False


@pytest.mark.full
@pytest.mark.fault("B9", REFUSED)
def test_every_wrong_setting_is_one_line_in_a_second(record_property):
    told = [refused(name) for name in BAD]
    slowest = max(seconds for _, seconds in told)
    record_property("measured", f"{len(BAD)} of {len(BAD)} refused, torch never imported, at most {slowest:.2f} s of processor")
    assert not any(torch for torch, _ in told) and slowest <= 1


@pytest.mark.fault("B9", REFUSED)
def test_1e_4_without_quotes_is_a_number_in_a_file_and_on_the_command_line(tmp_path):
    assert override(RunConfig(), ["train.lr=1e-4"]).train.lr == 1e-4
    text = to_toml(RunConfig())
    (tmp_path / "c.toml").write_text(text.replace("lr = 0.0008", "lr = 1e-4"))
    code, told, _, _ = call("train", "--config", str(tmp_path / "c.toml"), "--out", str(tmp_path / "run"), "--set", "train.lr=x")
    assert code == 2 and "expected float, got 'x'" in told
    (tmp_path / "c.toml").write_text(text.replace("lr = 0.0008", 'lr = "1e-4"'))
    code, told, torch, _ = call("train", "--config", str(tmp_path / "c.toml"), "--out", str(tmp_path / "run"))
    assert code == 2 and "c.toml: train.lr: expected float, got '1e-4'" in told and not torch


def numbers(table: dict, prefix: str = "") -> list[tuple[str, object]]:
    found = []
    for key, value in table.items():
        found += numbers(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return [(key, value) for key, value in found if not isinstance(value, str | bool)]


FAMILIES = {entry.build().model.family: entry for entry in RECIPES}


@pytest.mark.fault("B9", REFUSED)
def test_no_number_of_a_model_is_taken_that_none_can_have(record_property):
    tried = 0
    for family, entry in FAMILIES.items():
        config = entry.build()
        for key, value in numbers(to_dict(config.model)):
            if key == "state_offset":  # may be any whole number
                continue
            for number in [math.nan, math.inf, -math.inf] if isinstance(value, float) else [-(10**6)]:
                tried += 1
                with pytest.raises(ValueError, match=r"model\.\w+") as caught:
                    changed(config, {f"model.{key}": [number] * max(1, len(value)) if isinstance(value, list) else number})
                assert "\n" not in str(caught.value), (family, key)
    record_property("measured", f"{tried} of {tried} impossible numbers of {len(FAMILIES)} families refused")
    assert tried > 100


@pytest.mark.fault("B9", REFUSED)
@pytest.mark.parametrize(
    "setting", ["train.lr=nan", "train.betas=[0.9,-1.0]", "train.weight_decay=nan", "train.clip_norm=-1.0", "data.image_size=-1"]
)
def test_no_number_of_the_optimisation_is_taken_that_none_can_have(setting):
    with pytest.raises(ValueError):
        override(RunConfig(), [setting])


@pytest.mark.fault("B9", REFUSED)
@pytest.mark.parametrize(
    ("family", "setting", "message"),
    [("flow", "model.patch=5", "not divisible by model.patch 5"), ("flow", "model.patch=0", "model.patch must be 1 or more"),
     ("wan", "model.patch=7", "not divisible by model.patch 7")],
)  # fmt: skip
def test_an_image_that_patches_do_not_tile(family, setting, message):
    with pytest.raises(ValueError, match=message):
        override(FAMILIES[family].build(), [setting])


@pytest.mark.fault("B9", "context longer than a clip: exit code 2, one line")
def test_a_context_longer_than_a_clip(tmp_path, capsys):
    from tiny_line import token_data, train_command

    from hwm.cli import main

    command = train_command(tmp_path, token_data(tmp_path / "data"), "model.context_grids=9")
    assert main(command[3:]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "raise num_states" in told


# --- L8 --------------------------------------------------------------------------------------------------------------

QUICK_HELP = "`hwm --help` <= 0.4 s, `hwm train --help` <= 0.6 s of processor, torch not imported by any verb's"


@pytest.mark.fault("L8", QUICK_HELP)
@pytest.mark.parametrize("arguments", [(), ("train",), ("simulate",), ("evaluate",)])
def test_help_does_not_import_torch(arguments):
    code, text, torch, _ = call(*arguments, "--help")
    assert (code, torch) == (0, False) and "usage" in text


@pytest.mark.full
@pytest.mark.fault("L8", QUICK_HELP)
def test_help_is_quick_for_every_verb(record_property):
    best = {}
    for verb in ["", *VERBS]:
        taken = []
        for _ in range(5 if verb in ("", "train") else 1):  # the machine may be busy: the best counts
            code, text, torch, seconds = call(*[verb] * bool(verb), "--help")
            assert (code, torch) == (0, False) and "usage" in text, verb
            taken.append(seconds)
        best[verb] = min(taken)
    record_property("measured", f"hwm {best['']:.2f} s, hwm train {best['train']:.2f} s, {len(best) - 1} verbs without torch")
    assert best[""] <= 0.4 and best["train"] <= 0.6
