"""Experiments on how runs predict: what each asks of which run, runs that are shared, and their pages on the smallest twins."""

import json
from dataclasses import replace

import pytest
import torch
from refusing import refused

from hwm.cli import main
from hwm.evaluate.protocols import EXPECTED_CODE, ONE_SAMPLE, SURE_SHARPNESS, Scoring, mean_of
from hwm.evaluate.scores import Scores
from hwm.experiments.carry_out import _training, carry_out
from hwm.experiments.declared import decoding, ensemble_size, gate, guidance, sharpness, states, steps
from hwm.experiments.experiment import Found, Train

MASKED, FLOW, WAN = "masked-hwm-base-tiny", "flow-hwm-base-tiny", "wan-tiny"
pytestmark = pytest.mark.timeout(600)  # whichever comes first makes the pages
SMALL = ("train.batch_size=2", "train.validate_clips=2", "train.sample_every=0")


def declared(module, **options):
    return module.declare(module.Options(out="out", **options))


# --- What is asked ---------------------------------------------------------------------------------------------------


def test_states_are_one_scoring_a_run_with_all_controls():
    found = declared(states, recipes=(MASKED, WAN), late=(4, 1))
    assert list(found.scorings) == [f"states/{MASKED}/true", f"states/{WAN}/true"]
    groups = ["legs", "left_arm", "right_arm", "head", "hands", "base"]
    asked = found.scorings[f"states/{MASKED}/true"].scoring
    assert asked == Scoring(controls=("late-1", "late-4", *(f"permuted:{name}" for name in groups)))
    assert found.scorings[f"states/{WAN}/true"].scoring.members == (1, 5)


def test_one_sampling_serves_all_sizes_of_an_ensemble():
    found = declared(ensemble_size, recipes=(MASKED, WAN), sizes=(5, 50, 20), solver_steps=3)
    assert {score.scoring.members for score in found.scorings.values()} == {(1, 5, 20, 50)} and len(found.scorings) == 2
    assert [score.scoring.set for score in found.scorings.values()] == [(), ("model.steps=3",)]


def test_guidance_is_scaled_where_conditions_were_dropped():
    found = declared(guidance, scales=(3.0, 1.5), dropouts=(0.0, 0.3))
    assert list(found.runs) == [FLOW, WAN, *(f"{name}-condition_dropout-{rate}" for name in (FLOW, WAN) for rate in ("0", "0.3"))]
    of_run = {run: [key.rpartition("/")[2] for key, s in found.scorings.items() if s.run == run] for run in found.runs}
    assert of_run[FLOW] == of_run[f"{WAN}-condition_dropout-0.3"] == ["1", "1.5", "3"]
    assert of_run[f"{WAN}-condition_dropout-0"] == ["1"]
    scored = found.scorings[f"guidance/{FLOW}/1.5"]
    assert scored.scoring == Scoring(decode="sample", set=("model.steps=10", "model.guidance=1.5")) and scored.passes == 10
    assert found.scorings[f"guidance/{WAN}/3"].scoring.decode == "mean"  # an ensemble knows no other
    refused("st-demo knows no guidance", declared, guidance, recipes=("st-demo",))


def test_ways_of_decoding_are_values_of_one_sampling():
    found = declared(decoding, recipes=(MASKED,), temperatures=(0.5,), top_ks=(5,), top_ps=(0.9,))
    asked = {key.rpartition("/")[2]: score.scoring for key, score in found.scorings.items()}
    assert list(asked) == ["expected-code", "temperature-0.5", "top-k-5", "top-p-0.9"]  # that of the likeliest tokens is theirs
    ways = [(s.temperature, s.top_k, s.top_p, s.decode) for s in asked.values()]
    assert ways == [(0.0, 0, 1.0, "sample"), (0.5, 0, 1.0, "sample"), (1.0, 5, 1.0, "sample"), (1.0, 0, 0.9, "sample")]
    refused("wan-tiny is no model of tokens", declared, decoding, recipes=(WAN,))


def test_gates_are_scaled_of_every_start():
    found = declared(gate, recipes=("st-demo",), gates=(0.0, 4.0), starts=(0.5,))
    assert found.runs == {"st-demo": Train("st-demo"), "st-demo-state_start-0.5": Train("st-demo", ("model.state_start=0.5",))}
    assert [key for key in found.scorings if "start" in key] == [f"gate/st-demo-state_start-0.5/{g}" for g in (0, 1, 4)]
    refused("st-tiny has no modulation by the states", declared, gate, recipes=("st-tiny",))


def test_steps_are_those_of_flows_and_of_masks():
    found = declared(steps, counts=(8, 2))
    assert list(found.runs) == [MASKED, FLOW, WAN, f"{FLOW}-shortcut-0.25"]
    assert found.runs[f"{FLOW}-shortcut-0.25"] == Train(FLOW, ("model.shortcut=0.25",))
    asked = found.scorings[f"steps/{FLOW}-shortcut-0.25/8"]
    assert asked.scoring == Scoring(decode="sample", temperature=1.0, set=("model.steps=8",)) and asked.passes == 8
    assert found.measured and list(found.scorings)[:2] == [f"steps/{MASKED}/2", f"steps/{MASKED}/8"]
    refused("st-demo does not predict in steps", declared, steps, recipes=("st-demo",))
    assert "misses" in steps.sentence("a", 4, 50, -0.3, 0.0) and "-0.30 dB" in steps.sentence("a", 4, 50, -0.3, 0.0)
    assert "reaches" in steps.sentence("a", 4, 50, -0.1, 0.0)


def test_experiments_in_one_folder_share_runs_and_no_scorings():
    found = [declared(module) for module in (states, ensemble_size, guidance, decoding, gate, steps)]
    runs = [dict(experiment.runs) for experiment in found]
    together = {label: run for of_one in runs for label, run in of_one.items()}
    assert all(together[label] == run for of_one in runs for label, run in of_one.items())
    assert len(together) == 4 + 4 + 1 + 4 < sum(map(len, runs))
    keys = [key for experiment in found for key in experiment.scorings]
    assert len(keys) == len(set(keys)) and len({experiment.file for experiment in found}) == len(found)


# --- What is found ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages(recordings, tmp_path_factory):
    """The states on Masked-HWM and ensembles of Wan, trained for a step and scored on two clips, in one folder."""
    before, out = torch.get_num_threads(), tmp_path_factory.mktemp("sweeps")
    torch.set_num_threads(1)
    usual = {"out": out, "data": recordings, "clips": 2, "workers": 2, "steps": 1, "set": SMALL}
    found = {}
    own = {states: {"recipes": (MASKED,), "late": (2, 8)}, ensemble_size: {"recipes": (WAN,), "sizes": (3,), "solver_steps": 1}}
    for module, options in own.items():
        plan = module.Options(**usual, **options)
        found[module] = module.declare(plan), plan, carry_out(module.__name__.rpartition(".")[2], module.declare(plan), plan)
    torch.set_num_threads(before)
    return found


def found_of(page):
    experiment, plan, file = page
    return experiment, Found(experiment, plan), file


@pytest.mark.full
def test_the_page_of_states_says_what_each_costs(pages):
    _, found, file = found_of(pages[states])
    scores = Scores.from_json(json.loads((found.folder(f"states/{MASKED}/true") / "results.json").read_text()))
    text = file.with_suffix(".md").read_text()
    for label, row in (("2 late", "model, states 2 frames late"), ("permuted: left arm", "model, states permuted: left arm")):
        lost = scores.difference(scores.headline, row).value
        nats = scores.difference("model, autoregressive", row, "cross-entropy", reference="tokens", span="all grids").value
        cells = scores.of(row, "psnr").text(2), lost.text(2, sign=True), nats.negative().text(3, sign=True)
        assert " | ".join(("", label, *cells, "")).strip(" ") in text
    assert text.count("\n| ") == 2 + 3 + 2 + 6 + 1 and f"{MASKED} is not shown to use its states" in text
    assert file.read_text().count("data:image/png") == 2


@pytest.mark.full
def test_the_page_of_ensembles_has_a_line_a_size(pages):
    _, found, file = found_of(pages[ensemble_size])
    scores = found[f"ensemble-size/{WAN}/1"]
    text, looks = file.with_suffix(".md").read_text(), scores.of(mean_of(3), "TFD of pictures").text(4)
    gain = scores.difference(mean_of(3), ONE_SAMPLE).value.text(2, sign=True)
    assert f"| 3 | {scores.of(mean_of(3), 'psnr').text(2)} | {gain} |" in text and f"| {looks} |" in text
    assert "| samples | PSNR, dB | over one sample, dB | SSIM | sharpness | GMSD | TFD of pictures |" in text
    assert f"{WAN}: the mean of 3 gains {gain} dB over one sample" in text


@pytest.mark.full
def test_runs_of_one_experiment_serve_the_next(pages):
    _, plan, _ = pages[states]
    others = [
        declared(gate, recipes=(MASKED,), starts=()), declared(decoding, recipes=(MASKED,)),
        declared(steps, recipes=(WAN, MASKED), shortcut=0.0),
    ]  # fmt: skip
    for experiment in others:
        assert all(_training(Found(experiment, plan), label) is None for label in experiment.runs)


@pytest.mark.parametrize("module, options, run", [
    (guidance, {"recipes": (WAN,), "dropouts": ()}, WAN), (gate, {"recipes": (MASKED,), "starts": ()}, MASKED),
    (steps, {"recipes": (WAN, MASKED), "shortcut": 0.0}, WAN), (decoding, {"recipes": (MASKED,)}, MASKED),
])
@pytest.mark.full
def test_tables_plots_and_verdicts_come_from_the_scores(pages, module, options, run):
    """Of other experiments on the same runs, as if all their scorings had given the same, but for what is told apart below."""
    known = {label: found[key] for _, found, _ in map(found_of, pages.values()) for key in found.experiment.scorings
             for label in [found.experiment.scorings[key].run]}  # fmt: skip
    experiment = declared(module, **options)
    found = {key: known[score.run] for key, score in experiment.scorings.items()}
    best = list(found)[1]  # a whole decibel better than the others
    found[best] = better(found[best])
    (section,) = experiment.sections(found)
    tables = {table.title.partition(":")[0]: table for table in (make(found) for make in section.tables)}
    assert set(tables) == set(experiment.runs) and all(plot(found).startswith(b"\x89PNG") for plot in section.plots.values())
    said = next(words for words in experiment.verdict(found) if words.startswith(run))
    label = best.rpartition("/")[2].replace("temperature-", "temperature ")
    gain = next(column for column in tables[run].head if "over copying" in column)
    row = next(row for row in tables[run].rows if row[0] == label)
    if module is steps:
        assert "4 steps lie +0.00 dB in PSNR" in said
    else:
        assert label in said and row[tables[run].head.index(gain)] in said
    assert len(tables[run].rows) >= len([score for score in experiment.scorings.values() if score.run == run])


def better(scores):
    """The same with every difference of the headline a decibel more."""
    more = [replace(d, value=replace(d.value, mean=d.value.mean + (d.metric == "psnr"))) for d in scores.differences]
    return replace(scores, differences=more)


@pytest.mark.full
def test_expected_codes_are_read_where_they_are(pages):
    _, found, _ = found_of(pages[states])
    scores = found[f"states/{MASKED}/true"]
    experiment = declared(decoding, recipes=(MASKED,))
    (section,) = experiment.sections(dict.fromkeys(experiment.scorings, scores))
    rows = {row[0]: row[1] for row in section.tables[0](dict.fromkeys(experiment.scorings, scores)).rows}
    assert rows["expected code"] == scores.of(EXPECTED_CODE, "psnr").text(2)


def test_a_wrong_number_is_one_line(capsys):
    wrong = ("states --late 0", "guidance --dropouts 1.0", "decoding --top-ps 1.5", "steps --counts 0", "gate --starts 0")
    for words in map(str.split, wrong):
        assert main(["experiment", words[0], "--out", "o", *words[1:]]) == 2
        assert f"{words[1]} must be" in capsys.readouterr().err


@pytest.mark.full
def test_the_blend_is_held_against_the_mean_and_one_sample(pages):
    """Of the same ensemble of Wan, as if `direct` had scored the same."""
    _, found, _ = found_of(pages[ensemble_size])
    scores = found[f"ensemble-size/{WAN}/1"]
    experiment = declared(sharpness, samples=3, edge_losses=(0.5,))
    assert list(experiment.runs) == [WAN, "direct-tiny", "direct-tiny-edge_loss-0.5"]
    assert experiment.runs["direct-tiny-edge_loss-0.5"] == Train("direct-tiny", ("model.edge_loss=0.5",))
    assert {key: s.scoring.members for key, s in experiment.scorings.items()} == {
        f"sharpness/{WAN}/one-sample": (1, 3), "sharpness/direct-tiny/frame": (1,),
        "sharpness/direct-tiny-edge_loss-0.5/frame": (1,),
    }  # fmt: skip
    same = dict.fromkeys(experiment.scorings, scores)
    (section,) = experiment.sections(same)
    rows = {row[0]: row for row in section.tables[0](same).rows}
    assert list(rows)[:5] == ["one sample", "mean of 3", "medoid", "blend", "temperature 0"]
    assert rows["blend"][1] == scores.of("blend of 3", "psnr").text(2)
    assert rows["medoid"][3] == scores.of("medoid of 3", SURE_SHARPNESS).text(3)
    assert all(plot(same).startswith(b"\x89PNG") for plot in section.plots.values())
    blend, *others = experiment.verdict(same)
    assert blend.startswith(f"{WAN}: the blend lies ") and len(others) == 1 and "+0.00 dB against direct-tiny" in others[0]


def test_the_goal_is_the_psnr_of_the_mean_at_the_sharpness_of_a_sample():
    psnr, sure = [20.0, 22, 20.5, 21.95], [0.9, 0.5, 0.9, 0.88]
    assert "reaches" in sharpness.of_ensemble("a", *psnr, *sure) and "-0.05 dB" in sharpness.of_ensemble("a", *psnr, *sure)
    assert "misses" in sharpness.of_ensemble("a", *psnr, *sure[:3], 0.8)
    assert "misses" in sharpness.of_ensemble("a", *psnr[:3], 21.8, *sure)
