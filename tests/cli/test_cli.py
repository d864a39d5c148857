"""The command line: quick help, errors of one line."""

import json
import subprocess
import sys

import pytest

from hwm.cli import VERBS, function_of, main, usage
from hwm.recipes import RECIPES


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "hwm", *arguments], capture_output=True, text=True)


def test_every_verb_is_listed_and_helps(capsys):
    for verb in VERBS:
        function = function_of(verb)
        assert f"\n  {verb} " in usage()
        with pytest.raises(SystemExit) as leaving:
            main([verb, "--help"])
        assert leaving.value.code == 0 and function.__doc__.splitlines()[0][:30] in capsys.readouterr().out


@pytest.mark.parametrize("arguments, message", [
    (["trian"], "did you mean 'train'"), (["train", "st-dmeo", "--out", "x"], "did you mean 'st-demo'"),
    (["train", "st-tiny", "--out", "x", "--set", "train.stps=3"], "did you mean 'steps'"),
    (["train", "st-tiny", "--out", "x"], "data.train is empty"),
    (["train", "st-tiny", "--out", "x", "--data", "nowhere"], "nowhere"), (["train", "--out", "x"], "give either a recipe"),
    (["evaluate", "nowhere", "--data", "x"], "no run folder"), (["tokenize", "nowhere", "x"], "nowhere"),
    (["export", "nowhere", "x"], "no run folder")
])
def test_a_mistake_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_recipes_as_json(monkeypatch, capsys):
    few = [entry for entry in RECIPES if entry.name in ("st-revontuli", "st-tiny", "wan-tiny", "direct-tiny")]
    monkeypatch.setattr("hwm.recipes.RECIPES", few)  # all of them take ten seconds
    assert main(["recipes", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == [entry.name for entry in few]
    assert rows["st-revontuli"]["parameters"] == pytest.approx(136.1e6, rel=5e-4)
    assert all(set(row) == {"name", "family", "parameters", "trainable_parameters", "summary"} for row in rows.values())


def test_recipes_are_listed_at_once_by_what_they_are_trained_on():
    code = "from hwm.cli import main; import sys; main(['recipes']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    *lines, torch = done.stdout.splitlines()
    heads = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    trained_on = ["two CPU cores:", "one GPU:", "several GPUs, as published:"]
    assert heads == [*trained_on, "tokenizers:", "readers:", "twins:"] and torch == "False"
    assert max(map(len, lines)) <= 110 and any(line.startswith("  st-demo ") for line in lines[: lines.index("one GPU:")])
    assert lines[-1].startswith("Start with `hwm train st-demo`.")


def test_a_shell_completes_verbs_options_and_recipes(capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out

    def completed(*words):
        ask = f'{script}\nCOMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}; _hwm; echo "${{COMPREPLY[@]}}"'
        return subprocess.run(["bash", "-c", ask], capture_output=True, text=True).stdout.split()

    assert completed("hwm", "tr") == ["train"] and completed("hwm", "train", "st-d") == ["st-demo"]
    assert completed("hwm", "evaluate", "r", "--bat") == ["--batch-size"]
    assert completed("hwm", "predict", "r", "--dev") == ["--device"] and completed("hwm", "experiment", "ste") == ["steps"]
    assert main(["completion", "zsh"]) == 0 and "bashcompinit" in capsys.readouterr().out


def test_what_a_recipe_needs(capsys):
    assert main(["recipes", "st-tiny"]) == 0
    text = capsys.readouterr().out
    assert "training memory, micro-batch 32" in text and "20 steps of 4 x 1 clips" in text
    assert main(["recipes", "st-tiny", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    costs = row["costs"]
    kept = costs["activations_kept"]
    state = sum(costs["state"][name] for name in ("frozen_weights", "trained_weights", "gradients", "moments", "average"))
    assert costs["memory_bytes"] == pytest.approx(1.2 * (state + kept["fixed_bytes"] + 4 * kept["clip_bytes"]), abs=1)
    assert costs["recomputed"] is None and costs["hours"] is None  # it has no checkpointing and computes in float32
    assert main(["recipes", "st-tinny"]) == 2


def test_wan_recipes_are_listed_without_the_extra(capsys, monkeypatch):
    from hwm.cli.train import _line
    from hwm.recipes import RECIPES

    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert main(["recipes", "wan-tiny", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["parameters"] is None and row["costs"] is None and "extra wan" in row["summary"]
    lines = [_line(entry, costs=False) for entry in RECIPES if entry.name in ("wan-tiny", "st-tiny")]
    assert "needs the extra wan" in lines[1] and "0.05 M" in lines[0]
    assert main(["recipes", "wan-tiny"]) == 2
    assert "[wan]" in capsys.readouterr().err


def test_version_and_no_arguments():
    assert run("--version").stdout.strip() and run("--version").returncode == 0
    assert run().returncode == 2
