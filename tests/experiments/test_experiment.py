"""Declarations: found by themselves, carried out from raw video to tables and pages, and gone on with."""

import json
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from refusing import refused

from hwm.cli import main
from hwm.config import override
from hwm.evaluate.intervals import Interval
from hwm.evaluate.protocols import LIKELY_TOKENS, SAMPLED_LATENTS, STILL_LATENTS
from hwm.evaluate.scores import ALL, RECONSTRUCTION, Cost, Difference, Row, Score, Scores
from hwm.experiments import declared
from hwm.experiments.carry_out import carry_out, declarations
from hwm.experiments.compare import Column, Compare
from hwm.experiments.declared import families, hwm_tables
from hwm.experiments.experiment import Found, Train
from hwm.experiments.published import TABLES
from hwm.recipes import recipe
from hwm.runs import train
from hwm.work.jobs import Job, run_jobs
from hwm.work.signals import Stopped

LENGTHS = '''"""Two lengths of training side by side."""
from hwm.experiments.compare import Column, Compare
from hwm.experiments.experiment import Experiment, Plan, Score, Section, Train


def declare(plan: Plan) -> Experiment:
    runs = {f"{steps}-steps": Train("st-demo", (f"train.steps={steps}", "train.batch_size=2")) for steps in (1, 2)}
    columns = [Column("PSNR, dB"), Column("over copying, dB", over="copy"), Column("parameters, M", "parameters", scale=1e6)]
    table = Compare("lengths", {run: [run] for run in runs}, columns)
    return Experiment("Lengths", "lengths", runs, {run: Score(run) for run in runs}, [Section("Lengths", tables=[table])])
'''


@pytest.fixture
def lengths(tmp_path, monkeypatch):
    """A new experiment is one file."""
    (tmp_path / "lengths_of_training.py").write_text(LENGTHS)
    monkeypatch.setattr(declared, "__path__", [*declared.__path__, str(tmp_path)])
    yield "lengths-of-training"
    sys.modules.pop("hwm.experiments.declared.lengths_of_training", None)


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_new_file_is_an_experiment_that_goes_on_where_it_was(lengths, recordings, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["experiment", "--help"])
    assert "Two lengths of training side by side." in capsys.readouterr().out
    out = tmp_path / "out"
    command = ["experiment", lengths, "--out", str(out), "--data", str(recordings), "--clips", "2"]
    assert main(command) == 0 and f"page: {out / 'lengths.html'}" in capsys.readouterr().out
    record, text = json.loads((out / "lengths.json").read_text()), (out / "lengths.md").read_text()
    assert {run: about["training_steps"] for run, about in record["runs"].items()} == {"1-steps": 1, "2-steps": 2}
    scores = Scores.from_json(json.loads((out / "scores/2-steps/results.json").read_text()))
    value = scores.of(scores.headline, "psnr").text(2)
    assert f"| 2-steps | {value} |" in text and "| copy last frame |" in text
    assert "Two lengths" not in text and 'href="scores' not in (out / "lengths.html").read_text()
    assert all(not re.match(r"frame \d", s["span"]) for s in record["scorings"]["1-steps"]["scores"])

    # One scoring is lost: it is done again, with the same numbers; all else stays.
    kept = out / "scores/1-steps/results.json"
    before, trained = kept.stat().st_mtime_ns, (out / "runs/2-steps/metrics.jsonl").stat().st_mtime_ns
    (out / "scores/2-steps/results.json").unlink()
    assert main(command) == 0
    assert kept.stat().st_mtime_ns == before and (out / "runs/2-steps/metrics.jsonl").stat().st_mtime_ns == trained
    assert "holds these very scores already" in (out / "scores/1-steps/log").read_text()
    assert f"| 2-steps | {value} |" in (out / "lengths.md").read_text()

    assert main([*command, "--seed", "1"]) == 2  # the runs there are of another seed
    assert "seed" in capsys.readouterr().err


def test_options_are_of_the_experiments_in_which_they_act(capsys):
    for option in (["steps", "--samples", "5"], ["hwm-tables", "--many-steps", "2"]):
        assert main(["experiment", option[0], "--out", "x", *option[1:]]) == 2 and option[1] in capsys.readouterr().err
    assert main(["experiment", "hwm-table", "--out", "x"]) == 2
    assert "did you mean 'hwm-tables'" in capsys.readouterr().err


def test_declarations_are_read_without_torch():
    code = "import sys\nfrom hwm.experiments.carry_out import declarations\nprint(*declarations(), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    files = (file for folder in declared.__path__ for file in Path(folder).glob("*.py") if "\ndef declare(" in file.read_text())
    assert done.stdout.split() == [*sorted(file.stem.replace("_", "-") for file in files), "False"], done.stderr


def test_all_are_listed_with_a_line_each(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["experiment", "--list"])
    lines = capsys.readouterr().out.splitlines()
    assert ended.value.code == 0 and [line.split()[0] for line in lines] == list(declarations())
    assert all(line.endswith(".") for line in lines) and {"demo", "hwm-tables"} <= set(declarations())


def test_a_room_holds_at_most_twenty_files():
    for room in ("hwm/experiments", "hwm/experiments/declared"):
        assert len([file for file in Path(room).iterdir() if file.is_file() and file.stat().st_size]) <= 20  # empty: none


# --- Jobs ------------------------------------------------------------------------------------------------------------


def fail(text):
    raise ValueError(text)


def wait_for_a_stop():
    from hwm.work.signals import StopFlag

    with StopFlag() as stop:
        print("waiting", flush=True)
        while not stop:
            signal.pause()
    print("saved")
    return 143


def job(folder, run):
    return Job(folder / "run", folder / "run.log", run, 1, lambda: 0)


def test_a_failed_job_names_its_place_and_reason(tmp_path):
    with pytest.raises(ValueError, match="run: training failed: no luck$"):
        run_jobs([job(tmp_path, partial(fail, "no\nluck"))], parallel=1, what="training", unit="steps", every=0.1)
    with pytest.raises(ValueError, match=r"run: scoring was ended by signal 9 \(was it short of memory\?\)"):
        run_jobs([job(tmp_path, partial(signal.raise_signal, signal.SIGKILL))], parallel=1, what="scoring", unit="clips")


def test_a_stop_is_passed_on_and_waited_for(tmp_path):
    def stop_when_it_waits():
        log = tmp_path / "run.log"
        if log.is_file() and "waiting" in log.read_text():
            signal.raise_signal(signal.SIGTERM)
        return 0

    waiting = Job(tmp_path / "run", tmp_path / "run.log", wait_for_a_stop, 1, stop_when_it_waits)
    with pytest.raises(Stopped):
        run_jobs([waiting], parallel=1, what="training", unit="steps", every=0.1)
    assert "saved" in (tmp_path / "run.log").read_text()


# --- Tables ----------------------------------------------------------------------------------------------------------


def scores(psnr):
    """By hand: PSNR of rows, with what a prediction costs."""
    rows = [Row("model, a", "model"), Row("model, b", "model"), Row("copied", "baseline")]
    found = [Score(row.name, "psnr", RECONSTRUCTION, ALL, Interval(v, v - 1, v + 1)) for row, v in zip(rows, psnr)]
    gain = Difference("model, a", "copied", "psnr", RECONSTRUCTION, ALL, Interval(1.5), 1.0)
    settings = {"span": ALL, "reference": RECONSTRUCTION, "copy": "copied", "control": "model, a", "controls": {}}
    cost = Cost(2_000_000, 8_000_000, "cpu", {"samples/s": 12.0}, None, "", "")
    return Scores("hwm", "model, a", settings, rows, found, [gain], cost=cost)


def test_a_table_selects_from_the_scores():
    found = {"one": scores(psnr=(20.0, 19.0, 18.5)), "two": scores(psnr=(21.0, 22.0, 18.5))}
    columns = [Column("PSNR"), Column("of a sample", row="sample", interval=False), Column("gain", over="copy")]
    columns += [Column("FID", "FID"), Column("M", "parameters", scale=1e6, digits=1), Column("peak", "peak_bytes")]
    columns.append(Column("rate", lambda s: 0.5))
    table = Compare("t", {"4": ["one", "two"]}, columns, groups=("plain", "new"), head="steps")
    made = table(found)
    assert made.head[:3] == ["steps", "plain: PSNR", "plain: of a sample"] and "plain: FID" not in made.head
    assert made.rows[0][:6] == ["4", "20.00 [19.00, 21.00]", "19.00", "+1.50", "2.0", "0.50"]
    assert made.rows[0][6:] == ["21.00 [20.00, 22.00]", "22.00", "+1.50", "2.0", "0.50"]
    assert made.rows[1][:4] == ["copied", "18.50 [17.50, 19.50]", "18.50", ""]
    assert Column("loss", row="copy", over="model, a").value(found["one"]).mean == -1.5  # whichever was subtracted
    assert table.number(found, "4", columns[0], 1) - table.number(found, "4", columns[0]) == 1
    beside = Compare("t", {"4": ["one"]}, [replace(columns[0], printed={"4": "9.0"}), replace(columns[3], printed={"5": "1"})])
    assert beside(found).head == ["run", "PSNR", "published PSNR", "FID", "published FID"]
    assert beside(found).rows[0] == ["4", "20.00 [19.00, 21.00]", "9.0", "", ""] and beside(found).rows[1][2] == ""
    for plot in (table.dots(columns[2], columns[4]), table.curves("steps", columns[0])):
        assert plot(found).startswith(b"\x89PNG")


# --- The tables of the documents -------------------------------------------------------------------------------------


SMALL = ("model.num_layers=1", "model.unshared_blocks=0", "model.width=24", "model.num_heads=2", "train.batch_size=2",
         "train.validate_clips=2", "train.sample_every=0")  # fmt: skip


@pytest.fixture(scope="module")
def tables(recordings, tmp_path_factory):
    """Both families' twins, one of them trained elsewhere, as the paper's tables."""
    out = tmp_path_factory.mktemp("tables")
    elsewhere = out / "elsewhere"
    tokens = shutil.copytree(recordings / "tokens", out / "tokens")
    values = (f'data.train="{tokens}/train_v2.0"', f'data.val="{tokens}/val_v2.0"', "train.steps=1", "train.threads=1")
    train(override(recipe("masked-hwm-full-tiny"), [*SMALL, *values]), elsewhere)
    plan = hwm_tables.Options(
        out=out / "out", data=recordings, steps=2, clips=2, workers=2, variants=("full",), runs=(str(elsewhere),), set=SMALL
    )
    return plan, carry_out("hwm-tables", hwm_tables.declare(plan), plan)


@pytest.mark.timeout(600)
def test_tables_hold_ours_and_the_published_figures_apart(tables):
    plan, page = tables
    out, record = plan.out, json.loads((plan.out / "tables.json").read_text())
    assert list(record["runs"]) == ["masked-hwm-full-tiny", "flow-hwm-full-tiny"]
    assert list(record["scorings"]) == [name + key for name in record["runs"] for key in ("/as-published", "")]
    text = (out / "tables.md").read_text()
    for family, flow in (("masked", "Masked-HWM"), ("flow", "Flow-HWM")):
        part, figures = text.partition(f"## {flow}")[2].partition("\n## ")[0], TABLES[family]["full"]
        lines = {line.split(" | ")[0]: line.split(" | ") for line in reversed(part.splitlines())}
        head, row = lines["| variant"], lines["| full"]
        assert len(head) == len(row)
        assert row[head.index("published FID")] == f"{figures.fid:.2f}" and not row[head.index("FID")]
        assert row[head.index("published PSNR, dB")] == f"{figures.psnr_db:.2f}" != row[head.index("PSNR, dB")]
        found = Scores.from_json(record["scorings"][f"{family}-hwm-full-tiny/as-published"])
        assert row[head.index("PSNR, dB")] == found.of(found.headline, "psnr").text(2)
        assert "TFD of a sample" in part and "over permuted states, dB" in part
    html = page.read_text()
    assert html.count("data:image/png") == 2 and "<script" not in html and 'src="http' not in html
    assert 'href="scores/flow-hwm-full-tiny/report.html"' in html
    assert (out / "scores/flow-hwm-full-tiny/as-published/report.html").is_file()


def test_the_first_table_scores_samples_drawn_as_the_paper_draws_them(tables):
    plan, _ = tables
    scorings = json.loads((plan.out / "tables.json").read_text())["scorings"]
    sample, readings = scorings["flow-hwm-full-tiny/as-published"], scorings["flow-hwm-full-tiny"]
    assert sample["headline"] == SAMPLED_LATENTS and readings["headline"] == STILL_LATENTS
    assert "--set model.steps=50 model.guidance=3.0" in sample["command"] and "--set" not in readings["command"]
    assert scorings["masked-hwm-full-tiny/as-published"]["headline"] == LIKELY_TOKENS
    assert sample["cost"]["figures"]["samples/s"] < readings["cost"]["figures"]["samples/s"]  # 50 guided steps against one


def test_a_run_trained_elsewhere_is_used_and_not_trained(tables):
    plan, _ = tables
    assert not (plan.out / "runs/masked-hwm-full-tiny").exists() and (plan.out / "runs/flow-hwm-full-tiny/DONE").is_file()
    record = json.loads((plan.out / "tables.json").read_text())
    assert [run["training_steps"] for run in record["runs"].values()] == [1, 2]
    wanted = {"a": Train("masked-hwm-full-tiny"), "b": Train("masked-hwm-full-tiny"), "c": Train("flow-hwm-full-tiny")}

    def given(*runs):
        return hwm_tables.Options(out="o", runs=runs).given(wanted)

    elsewhere = plan.runs[0]
    assert given(f"b={elsewhere}") == wanted | {"b": Path(elsewhere)}
    refused("which run is it.*NAME=FOLDER with one of a, b, c", given, elsewhere)
    refused("c is of flow on blocks", given, f"c={elsewhere}")
    refused("gives a twice", given, f"a={elsewhere}", f"a={elsewhere}/../elsewhere")
    refused("not a run folder", given, "b=nowhere")


def test_full_size_takes_data_as_they_are_and_says_what_is_missing(tables):
    plan, _ = tables
    folder = plan.out.parent  # holds tokens in a folder of it, and neither latents nor video
    twins = Found(hwm_tables.declare(hwm_tables.Options(out=Path("out"))), hwm_tables.Options(out=Path("out"), data=folder))
    assert twins.sets("masked-hwm-full-tiny").train == folder / "tokens/train_v2.0"
    refused("holds no dataset called train_v", twins.sets, "flow-hwm-full-tiny")
    full = hwm_tables.Options(out=Path("out"), size="full", data=folder)
    experiment = hwm_tables.declare(full)
    assert list(experiment.runs) == [f"{f}-hwm-{v}" for f in ("masked", "flow") for v in ("split", "base", "modality", "full")]
    assert full.clips == 0  # all
    refused("flow-hwm-base: is of latents by a tokenizer that it does not name", Found(experiment, full).sets, "flow-hwm-base")
    supplies = Found(experiment, replace(full, tokenizers=("continuous-8x8x8", "fsq-8x8x8"))).supplies
    assert supplies.tokenizer(recipe("masked-hwm-base")) == "fsq-8x8x8"
    assert supplies.tokenizer(recipe("flow-hwm-base")) == "continuous-8x8x8"
    assert supplies.tokenizer(recipe("wan-tiny")) == "continuous-4x8x8"  # its own: none of those given is by its clock


# --- Families side by side -------------------------------------------------------------------------------------------


def test_families_stand_in_one_table_by_their_own_protocol():
    found = families.declare(families.Options(out="out", frame_76=True))
    assert list(found.scorings) == ["st-demo/compression", "st-demo/sampling", "direct-tiny/compression", "direct-tiny/sampling"]
    assert [section.title for section in found.sections] == ["Compression track", "Sampling track"]
    assert [len(section.tables) for section in found.sections] == [2, 1] and list(found.sections[0].links) == list(found.runs)
    assert found.scorings["st-demo/compression"].recorded and not found.scorings["st-demo/sampling"].recorded
    mixed = families.declare(families.Options(out="out", recipes=("st-demo", "masked-hwm-base-tiny", "direct-tiny")))
    assert [key for key in mixed.scorings if key.startswith("direct")] == ["direct-tiny/compression", "direct-tiny/hwm"]


def test_a_recipe_stands_beside_itself_without_what_it_adds_to_the_published_form(capsys):
    asked = families.Options(out="out", recipes=("st-demo", "wan-tiny"), changes=("train.ema=0",), ablate=True)
    found = families.declare(asked)
    ablated = [label for label, run in found.runs.items() if run.recipe == "st-demo" and run.changes[:1] != ("train.ema=0",)]
    assert ablated == ["st-demo", *(f"st-demo-{words}" for words in (
        "init_std-0.02", "code_loss-0.0", "state_injection-add", "loss_on-future", "scheduled_sampling-0.0"
    ))]  # fmt: skip
    assert "wan-tiny-output-velocity" in found.runs and "wan-tiny-ema-0" in found.runs and "st-demo-ema-0" in found.runs
    assert families.departures("st-revontuli") == [] and not any("base" in label for label in found.runs)
    assert [len(section.links) for section in found.sections] == [7, 5]
    with pytest.raises(ValueError, match="layers"):
        families.declare(families.Options(out="out", changes=("model.layers=3",)))


@pytest.mark.full
@pytest.mark.timeout(600)
def test_doubts_are_scored_in_other_worlds_with_intervals_learned_on_validation_data(recordings, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["experiment", "uncertainty", "--out", str(out), "--data", str(recordings), "--recipes", "st-tiny", "--steps", "1"]
    command += ["--clips", "4", "--samples", "2", "--workers", "1"]
    assert main([*command, "--shifted", f"moved={recordings}"]) == 0
    text, record = (out / "uncertainty.md").read_text(), json.loads((out / "uncertainty.json").read_text())
    assert set(record["scorings"]) == {"st-tiny/doubt", "st-tiny/doubt-moved"}
    usual, moved = (Scores.from_json(json.loads((out / f"scores/{key}/results.json").read_text())) for key in record["scorings"])
    # The same recordings under another name score alike.
    assert moved.scores == usual.scores
    assert set(usual.facts["doubt"]) == set(usual.names("doubt")) >= {"MC dropout", "token entropy"}
    assert "| way of doubting | unseen rooms | moved |" in text and text.count("\n| ensemble spread |") == 6
    assert "st-tiny: " in record["verdict"][0] and "in unseen rooms" in record["verdict"][0]
    page = (out / "uncertainty.html").read_text()
    assert page.count("image/jpeg") >= 2 * 8 and "token entropy" in page
    for extra in (["--shifted", "moved"], ["--shifted", "a=b", "a=c"]):
        assert main([*command, *extra]) == 2 and "--shifted takes NAME=FOLDER" in capsys.readouterr().err
