"""The compression track's tables: scores, curves and the memory of attention, ours beside the published."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from hwm.config import changed
from hwm.doctor.costs import attention_pairs
from hwm.evaluate.protocols import AUTOREGRESSIVE, TEACHER_FORCED
from hwm.evaluate.scores import ALL_GRIDS, TOKENS, Scores
from hwm.experiments.carry_out import carry_out
from hwm.experiments.declared.compression_table import CURVES, Options, curves_table, declare, memory_table
from hwm.experiments.published import LEADERBOARD
from hwm.recipes import recipe

SMALL = ("model.num_layers=1", "model.width=24", "model.num_heads=2", "train.batch_size=2", "train.validate_every=1",
         "train.log_every=1", "train.validate_clips=2", "train.sample_every=0")  # fmt: skip


@pytest.fixture(scope="module")
def page(recordings, tmp_path_factory):
    plan = Options(out=tmp_path_factory.mktemp("compression"), data=recordings, clips=2, steps=5, set=SMALL)
    return plan, carry_out("compression-table", declare(plan), plan)


def rows_of(text, first):
    """Head and rows of the Markdown table whose head begins with this word."""
    lines = text.partition(f"| {first} |")[2].splitlines()
    table = [f"| {first} |{lines[0]}", *lines[2:]]
    until = next((i for i, line in enumerate(table) if not line.startswith("|")), len(table))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[:until]]


@pytest.mark.timeout(600)
@pytest.mark.full
def test_scores_stand_beside_the_published_ones(page):
    plan, _ = page
    text, record = (plan.out / "compression.md").read_text(), json.loads((plan.out / "compression.json").read_text())
    found = Scores.from_json(record["scorings"]["st-demo"])
    head, row = rows_of(text, "run")
    place = {"reference": TOKENS, "span": ALL_GRIDS}
    for words, name in (("autoregressive", AUTOREGRESSIVE), ("teacher-forced", TEACHER_FORCED)):
        assert row[head.index(f"cross-entropy, {words}")] == found.of(name, "cross-entropy", **place).text(3)
    assert row[head.index("published cross-entropy, autoregressive")] == "4.92"
    assert row[head.index("published top-500 cross-entropy")] == "6.64"
    assert float(row[head.index("uniform")]) == pytest.approx(11.066, abs=1e-3)  # ln 64 000
    assert [line[0] for line in rows_of(text, "team")[1:]] == [e.team for e in LEADERBOARD if e.track == "compression"]
    assert "Autoregressive lies" in text and "published curves end +0.5 apart" in text


@pytest.mark.full
def test_the_curves_are_those_of_the_runs_log(page):
    plan, file = page
    head, *rows = rows_of((plan.out / "compression.md").read_text(), "steps")
    log = [json.loads(line) for line in (plan.out / "runs/st-demo/metrics.jsonl").read_text().splitlines()]
    assert head == ["steps", *(name for curve in CURVES for name in (curve, "published"))]
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5"]
    for curve, name in CURVES.items():
        logged = {r["step"]: r[name] for r in log if r.get(name) is not None}
        assert [row[head.index(curve)] for row in rows] == [f"{logged[step]:.3f}" for step in range(1, 6)]
    assert rows[-1][head.index(curve) + 1] == "4.8" and file.read_text().count("data:image/png") == 1


def test_training_is_averaged_between_the_rows_and_what_is_not_logged_is_left_open():
    log = {"cross_entropy": [(n, 10.0 - n) for n in range(1, 11)], "val/ce_teacher": [(10, 2.5)], "val/ce_auto": []}
    table = curves_table(SimpleNamespace(history=lambda run, name: log[name]), "run")
    assert [row[0] for row in table.rows] == ["2", "4", "6", "8", "10"]
    assert [row[1] for row in table.rows] == ["8.500", "6.500", "4.500", "2.500", "0.500"]
    assert [row[3] for row in table.rows] == ["–"] * 4 + ["2.500"] and {row[5] for row in table.rows} == {"–"}


def test_the_pairs_that_the_model_compares_are_those_of_the_formula():
    small = changed(recipe("st-tiny"), {"model.grid": [4, 6], "model.context_grids": 2, "model.future_grids": 3})
    T, S = 4, 24
    assert attention_pairs(small) == T * S**2 + T**2 * S
    assert attention_pairs(changed(small, {"model.attention": "full"})) == T * (T + 1) // 2 * S**2 + T**2 * S


def test_the_slides_table_is_met_by_the_published_model():
    head, rows = (table := memory_table(recipe("st-revontuli"))).head, table.rows
    full, factorised = rows  # the run is the published one: it has no second pair of lines
    assert full[1] == "5 x 1024" and full[2:4] == ["26.2e6", "26.2e6"] and full[4:6] == ["100.0%", "100%"]
    assert factorised[2:6] == ["5.27e6", "5.26e6", "20.1%", "20%"]
    assert factorised[head.index("pairs counted in the model")] == "5.27e6"
    assert float(full[-1]) > float(factorised[-1])


def test_every_size_names_its_recipe():
    names = {size: list(declare(Options(out=Path("o"), size=size)).runs) for size in ("tiny", "medium", "full")}
    assert names == {"tiny": ["st-demo"], "medium": ["st-medium"], "full": ["st-revontuli"]}
