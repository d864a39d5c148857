"""Declarations about how models are built and trained: attention, sharing, what narrows the autoregressive gap."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hwm.evaluate.intervals import Interval
from hwm.evaluate.protocols import AUTOREGRESSIVE, TEACHER_FORCED
from hwm.evaluate.scores import ALL_GRIDS, RECONSTRUCTION, TOKENS, Cost, Difference, Row, Score, Scores
from hwm.experiments.declared import attention, crossing, sharing, teacher_auto
from hwm.experiments.experiment import Found, Train, config_of


def scores(forced, auto, *, gain=0.5, millions=1.0):
    """By hand: cross-entropies, what is gained over copying, what a prediction costs."""
    rows = [Row("model, a", "model"), Row(TEACHER_FORCED, "model"), Row(AUTOREGRESSIVE, "model"), Row("copied", "baseline")]
    place = {"reference": TOKENS, "span": ALL_GRIDS}
    nats, psnr = {TEACHER_FORCED: forced, AUTOREGRESSIVE: auto}, {"model, a": 20 + gain, "copied": 20.0}
    found = [Score(row, "cross-entropy", **place, value=Interval(value)) for row, value in nats.items()]
    found += [Score(row, "psnr", RECONSTRUCTION, "all frames", Interval(value)) for row, value in psnr.items()]
    differences = [
        Difference("model, a", "copied", "psnr", RECONSTRUCTION, "all frames", Interval(gain, gain - 0.1, gain + 0.1), 1.0),
        Difference(AUTOREGRESSIVE, TEACHER_FORCED, "cross-entropy", **place, value=Interval(auto - forced), share_higher=1.0),
    ]
    settings = {"span": "all frames", "reference": RECONSTRUCTION, "copy": "copied", "control": "model, a", "controls": {}}
    cost = Cost(int(millions * 1e6), 4, "cpu", {"samples/s": 12.0}, 5_000_000, "", "")
    return Scores("compression", "model, a", settings, rows, found, differences, cost=cost)


class ByHand(Found):
    """What was found, with scores and histories that are given; only `kept` writes."""

    def __init__(self, experiment, plan, scores, history=lambda label, name: []):
        super().__init__(experiment, plan)
        self._scores, self.history = scores, history


def test_attention_is_one_recipe_with_another_value_and_its_step_grows_as_reckoned(tmp_path):
    plan = attention.Options(out=tmp_path, grids=(2,), sides=(2,))
    experiment = attention.declare(plan)
    factorised, full = (config_of(run).model for run in experiment.runs.values())
    assert list(experiment.runs) == ["st-demo", "st-demo-full"] and full == replace(factorised, attention="full")
    found = ByHand(experiment, plan, {"st-demo": scores(3.0, 4.0), "st-demo-full": scores(2.9, 3.8)})
    verdict = experiment.verdict(found)[0]
    assert "-0.100 nats teacher-forced and -0.200 autoregressive; at 2 grids of 64 places" in verdict
    small, large = json.loads((tmp_path / "attention-steps.json").read_text())["found"]
    assert small["scores"] == {"spatio-temporal": 5 * 16 + 25 * 4, "full": 15 * 16 + 25 * 4}
    assert all(seconds > 0 for step in (small, large) for seconds in step["seconds"].values())
    assert [row[:2] for row in experiment.sections[1].tables[0](found).rows] == [["5", "4"], ["2", "64"]]
    (plot,) = experiment.sections[1].plots.values()
    assert plot(found).startswith(b"\x89PNG")


def test_what_is_worked_out_is_kept_for_the_same_options(tmp_path):
    plan, calls = attention.Options(out=tmp_path), []
    found = ByHand(attention.declare(plan), plan, {})
    make = lambda: calls.append(1) or len(calls)  # noqa: E731
    assert [found.kept("x", make), found.kept("x", make)] == [1, 1]
    other = replace(plan, seed=1)
    assert ByHand(attention.declare(other), other, {}).kept("x", make) == 2


def test_unshared_blocks_run_from_none_to_all_and_share_the_runs_of_the_tables():
    plan = sharing.Options(out="out", families=("masked",))
    experiment = sharing.declare(plan)
    blocks = {label: config_of(run).model.unshared_blocks for label, run in experiment.runs.items()}
    tables = [f"masked-hwm-{name}-tiny" for name in ("full", "modality", "base", "split")]
    assert [label for label in blocks if "unshared" not in label] == tables
    assert all(experiment.runs[label] == Train(label) for label in tables)
    assert [number for label, number in blocks.items() if label.endswith("-tiny-0-unshared")] == [0, 0]
    with pytest.raises(ValueError, match="--unshared 9 is more than the 4 blocks"):
        sharing.declare(replace(plan, unshared=(9,)))
    by_label = {label: scores(3.0, 4.0, gain=0.1 * n, millions=1 + n) for n, label in enumerate(experiment.runs)}
    found = ByHand(experiment, plan, by_label, lambda label, name: [(1, 5.0), (2, 4.0)] if name == "val/ce_masked" else [])
    table, losses = (part(found) for part in experiment.sections[0].tables)
    assert [row[0] for row in table.rows][:4] == ["0", "2", "4", "split attention"]
    assert losses.rows[0] == ["0", "4.0000", "4.0000"] and losses.rows[3] == ["split attention", "4.0000", ""]
    assert "Masked-HWM with 0 unshared blocks and one set of weights for all has 20% of" in experiment.verdict(found)[0]
    (plot,) = experiment.sections[0].plots.values()
    assert plot(found).startswith(b"\x89PNG")


def test_the_gap_is_judged_by_what_is_left_of_it_and_what_it_costs():
    plan = teacher_auto.Options(out="out", steps=400)
    experiment = teacher_auto.declare(plan)
    models = {label: config_of(run).model for label, run in experiment.runs.items()}
    assert {(m.scheduled_sampling, m.own_grids, m.max_corruption) for m in models.values()} == {
        (0, 0, 0), (0.5, 0, 0), (0, 0, 0.2), (0.5, 1, 0), (0.5, 2, 0), (0.5, 2, 0.2)
    }
    assert {config_of(run).train.validate_every for run in experiment.runs.values()} == {40}
    by_label = {label: scores(3.0, 4.0) for label in models}
    history = lambda label, name: [(40 * n, 5.0 - n) for n in range(1, 4)]  # noqa: E731
    for forced, auto, words in ((3.0, 3.4, "leaves 40% of that gap"), (3.0, 3.8, "leaves 80%"), (3.1, 3.2, "")):
        by_label["st-demo-own-predictions-2-grids"] = scores(forced, auto)
        found = ByHand(experiment, plan, by_label, history)
        plain, best = experiment.verdict(found)
        assert "costs 1.000 nats more" in plain and words in best and ("reaches the goal" in best) == (auto == 3.4)
        assert best.startswith("Own predictions, 2 grids") == (forced == 3.0)  # what costs nothing comes first
    assert "+1.000" in experiment.sections[1].tables[0](found).rows[0][3]
    for plot in (*experiment.sections[0].plots.values(), *experiment.sections[1].plots.values()):
        assert plot(found).startswith(b"\x89PNG")


def test_scenes_of_known_motion_are_made_for_training_and_for_a_test_of_each_speed(tmp_path):
    plan = crossing.Options(out=tmp_path, crossings=(0, 3), scenes=8, clips=2)
    experiment = crossing.declare(plan)
    found = ByHand(experiment, replace(plan, data=experiment.makes()), {})
    factorised, full = (config_of(run).model for run in experiment.runs.values())
    assert full == replace(factorised, attention="full") and not factorised.scheduled_sampling
    for label in experiment.runs:
        config = found.training(label)
        assert config.train.steps == crossing.STEPS and [Path(p).name for p in config.data.train] == ["train_v2.0"]
        assert ByHand(experiment, replace(found.plan, steps=7), {}).training(label).train.steps == 7
    tests = {key: found.scoring(key)[1]["data"] for key in experiment.scorings}
    assert len(tests) == 4 and {key.split("/")[1] for key in tests} == {"0", "3"}
    assert all(path.parent.name == f"moves-{key.split('/')[1]}" for key, path in tests.items())
    with pytest.raises(ValueError, match="makes its own scenes"):
        crossing.declare(replace(plan, data=tmp_path))


def test_the_factorisation_breaks_where_the_intervals_part():
    plan = crossing.Options(out=Path("out"), crossings=(0, 1, 2))
    experiment, wide = crossing.declare(plan), 0.1

    def verdict(**nats):
        by_key = {}
        for kind, values in nats.items():
            for n, value in enumerate(values):
                key = f"crossing-together-2-{'spatio-temporal' if kind == 'own' else kind}/{n}"
                by_key[key] = scores(0.0, value)
                by_key[key].scores[1] = replace(by_key[key].scores[1], value=Interval(value, value - wide, value + wide))
        found = ByHand(experiment, plan, by_key, lambda label, name: [(100, 4.0), (200, 1.0)])
        assert [row[0] for row in experiment.sections[0].tables[0](found).rows[:3]] == ["0", "1", "2"]
        assert all(plot(found).startswith(b"\x89PNG") for plot in experiment.sections[0].plots.values())
        return experiment.verdict(found)[0]

    broken = verdict(own=(0.0, 0.3, 2.0), full=(0.0, 0.2, 0.5))
    assert "falls behind full attention from 2 places crossed a grid on; it loses most at 2: 2.00 nats against 0.50" in broken
    assert "is not shown to fall behind" in verdict(own=(0.0, 0.3, 0.4), full=(0.0, 0.2, 0.5))
    wide = 1e-5
    assert "is not shown to fall behind" in verdict(own=(1e-3, 0.03, 0.03), full=(0.0, 0.02, 0.02))  # apart, by next to nothing
