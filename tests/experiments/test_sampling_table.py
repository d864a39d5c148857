"""The grid of the sampling table: what is asked of which run, and the whole experiment on tiny runs."""

import json

import pytest
import torch
from refusing import refused

from hwm.cli import main
from hwm.config import changed, override
from hwm.evaluate.protocols import mean_of
from hwm.evaluate.scores import Scores
from hwm.experiments import sampling_grid
from hwm.experiments.carry_out import carry_out
from hwm.experiments.declared.sampling_table import declare, verdict
from hwm.experiments.experiment import Found, Train
from hwm.experiments.published import SAMPLING
from hwm.experiments.sampling_grid import Grid, Options, beyond, name_of, twins
from hwm.prepare import encoded
from hwm.recipes import recipe
from hwm.runs import train

WAN = ("num_layers=1", "num_heads=2", "head_width=12", "mlp_width=24", "time_width=16", "state_hidden=16")


def grid(**runs):
    """Of recipes and their changes, by label."""
    configs = {label: override(recipe(name), list(changes)) for label, (name, *changes) in runs.items()}
    return Grid(configs, Options(out="out", clips=48))


PLAIN = ("wan-tiny", "model.condition_dropout=0.0")


def test_the_published_grid_needs_nine_scorings_of_two_wan_runs():
    found = grid(dropped=("wan-tiny",), plain=PLAIN)
    asked = [(row.block, found.asked[row.key], row.samples) for row in found.rows]
    assert asked[:3] == [(1, ("plain", 20, 1.0), n) for n in (1, 5, 20)]
    assert [key[1:] for _, key, _ in asked[3:]] == [(20, 2.0), (20, 1.5), (100, 1.5), (100, 1.0)]
    assert {key[0] for _, key, _ in asked[3:]} == {"dropped"}
    assert found.asked[found.study] == ("plain", 20, 1.0) and found.members[found.study] == {1, 5, 10, 20, 50}
    assert len(found.members) == 1 + 5 + 4  # block 1; guidance and steps; 1, 2, 4 and 8 steps
    assert list(found.steps) == [1, 2, 4, 8, 20, 100] and all(10 in found.members[key] for key in found.steps.values())
    guided = [found.asked[key][1:] for keys in found.guidance.values() for key in keys if key]
    assert sorted(guided) == [(20, 1.0), (20, 1.5), (20, 2.0), (100, 1.0), (100, 1.5)]


def test_rows_stand_beside_the_published_rows_of_the_same_settings():
    found = grid(dropped=("wan-tiny",), plain=PLAIN)
    for row in found.rows:
        printed, (_, steps, scale) = SAMPLING[row.published], found.asked[row.key]
        guidance = scale if row.block > 1 else None
        assert (printed.block, printed.steps, printed.samples, printed.guidance) == (row.block, steps, row.samples, guidance)
        assert found.row_name(row) == name_of(printed.steps, printed.samples, printed.guidance)


def test_the_first_submission_is_of_the_run_that_learned_from_validation_data():
    configs = {label: override(recipe("wan-tiny"), ["model.condition_dropout=0.0"]) for label in ("all", "plain")}
    found = Grid(configs, Options(out="out"), {"all"})
    assert [(row.published, found.asked[row.key][0]) for row in found.rows] == [*((i, "plain") for i in range(3)), (3, "all")]
    assert found.row_name(found.rows[3]) == "20 steps, 20 samples, learned from validation data too"
    assert SAMPLING[3].remark.endswith("trained on validation data too") and found.asked[found.study][0] == "plain"
    assert not beyond(recipe("wan-tiny"))
    assert beyond(changed(recipe("wan-tiny"), {"data.train": ["a", "b"], "data.val": "b"}))


def test_blocks_without_a_run_are_left_out():
    dropped = grid(dropped=("wan-tiny",))
    assert {row.block for row in dropped.rows} == {2, 3} and dropped.asked[dropped.study] == ("dropped", 20, 1.0)
    plain = grid(plain=PLAIN)
    assert {row.block for row in plain.rows} == {1} and not plain.guidance
    assert list(plain.steps) == [1, 2, 4, 8, 20, 100]


@pytest.mark.parametrize("name, changes, steps", [
    ("flow-hwm-base-tiny", ("model.steps=20",), 20), ("masked-hwm-base-tiny", (), 2), ("st-demo", (), None)
])
def test_another_family_alone_gives_the_first_block(name, changes, steps):
    found = grid(one=(name,))
    if name.startswith("masked"):
        steps = found.configs["one"].model.steps
    assert [(row.block, row.samples) for row in found.rows] == [(1, 1), (1, 5), (1, 20)]
    assert found.scorings()[found.study].scoring.set == changes and found.steps_of(found.study) == steps
    assert bool(found.steps) == (steps is not None) and not found.guidance


def test_every_scoring_sees_the_same_clips():
    found = grid(wan=("wan-tiny",), st=("st-demo",)).scorings()
    assert {score.scoring.tuning_clips for score in found.values()} == {8} and all(score.passes >= 1 for score in found.values())
    assert {"st/sampling-own-steps", "wan/sampling-20-steps", "wan/sampling-20-steps-guidance-1.5"} <= set(found)
    assert found["wan/sampling-20-steps"].scoring.set == ("model.steps=20", "model.guidance=1")


def test_twins_are_trained_with_and_without_condition_dropout():
    found = twins(Options(out="out", families=("wan", "masked"), variants=("full",)))
    assert found["wan-tiny"] == Train("wan-tiny")
    assert found["wan-tiny-plain"] == Train("wan-tiny", ("model.condition_dropout=0.0",))
    assert found["wan-tiny-plain-all"] == Train("wan-tiny", ("model.condition_dropout=0.0",), validation=True)
    assert set(found) == {"wan-tiny", "wan-tiny-plain", "wan-tiny-plain-all", "masked-hwm-full-tiny"}
    assert set(twins(Options(out="out", families=("st", "direct")))) == {"st-demo", "direct-tiny"}
    for size, names in (("medium", ["wan-medium", "st-medium"]), ("full", ["wan-revontuli", "st-revontuli"])):
        found = twins(Options(out="out", size=size, families=("wan", "st", "flow")))
        assert [name for name in found if not name.endswith(("plain", "all"))][:2] == names
    refused("no full twin of moth: .*--runs", twins, Options(out="out", size="full", families=("wan", "moth")))


def test_options_that_leave_no_rows_apart_are_refused(tmp_path, capsys):
    refused("most must be at least --samples", declare, Options(out=tmp_path, samples=20, most=10))
    command = ["experiment", "sampling-table", "--out", str(tmp_path)]
    assert main([*command, "--runs", str(tmp_path), "--families", "wan"]) == 2
    assert "with --runs nothing is" in capsys.readouterr().err
    assert main([*command, "--runs", str(tmp_path)]) == 2
    assert "not a run folder" in capsys.readouterr().err


# --- the experiment --------------------------------------------------------------------------------------------------


def trained(recordings, root, label, name, *changes):
    """A run of two steps."""
    config = recipe(name)
    sets = encoded(recordings, root / "encoded" / config.tokenizer, tokenizer=config.tokenizer)
    values = (*changes, "train.steps=2", "train.batch_size=2", "train.validate_clips=2", "train.sample_every=0")
    config = override(config, [*values, f'data.train="{sets.train}"', f'data.val="{sets.val}"'])
    train(config, root / "runs" / label)
    return root / "runs" / label


@pytest.fixture(scope="module")
def page(recordings, tmp_path_factory):
    before, root = torch.get_num_threads(), tmp_path_factory.mktemp("sampling")
    torch.set_num_threads(1)
    small = [f"model.{change}" for change in WAN]
    runs = (
        str(trained(recordings, root, "dropped", "wan-tiny", *small)),
        str(trained(recordings, root, "plain", "wan-tiny", *small, "model.condition_dropout=0.0")),
    )
    torch.set_num_threads(before)
    plan = Options(out=root / "out", data=recordings, clips=2, workers=2, runs=runs, samples=4, many_steps=1, most=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling_grid, "FEW_STEPS", (1,))
        declared = declare(plan)
    return plan, declared, carry_out("sampling-table", declared, plan)


@pytest.mark.timeout(600)
@pytest.mark.full
def test_the_page_holds_table_curves_and_families(page):
    plan, declared, file = page
    record = json.loads((plan.out / "sampling.json").read_text())
    assert [row["name"] for row in record["rows"]] == [
        *(f"20 steps, {n} sample{'s' * (n > 1)}" for n in (1, 2, 4)),
        *(f"{steps} steps, 4 samples, guidance {g:.1f}" for steps, g in ((20, 2.0), (20, 1.5), (1, 1.5), (1, 1.0))),
    ]
    text, html = (plan.out / "sampling.md").read_text(), file.read_text()
    study = Scores.from_json(json.loads((plan.out / "scores/plain/sampling-20-steps/results_sampling.json").read_text()))
    for row in record["rows"][:3]:
        score = study.of(mean_of(row["samples"]), "psnr").text(2)
        assert f"| {row['name']} | 1 | {score} |" in text
    assert set(record["runs"]) == {"dropped", "plain"} and set(record["scorings"]) == set(declared.scorings)
    clips = [[example["clip"] for example in found["examples"]] for found in record["scorings"].values()]
    assert all(found == clips[0] for found in clips)
    assert html.count("data:image/png") == 7
    assert html.count("data:image/jpeg") == len(clips[0]) * (2 + 2 + 5 + 2 + 1 + 1)
    assert "<script" not in html and 'src="http' not in html
    for found in record["scorings"].values():
        assert (plan.out / found["report"]).is_file() and f'href="{found["report"]}"' in html
        assert found["command"].startswith("hwm evaluate ") and "--set model.steps=" in found["command"]
    assert text.index("Ours:") < text.index("Published: 1X") and "| 25.53 | 23.04 | 0.773 | 0.158 | 69.25 |" in text


@pytest.mark.full
def test_the_first_submission_learns_from_both_sets(page):
    plan, _, _ = page
    wanted = Options(out=plan.out, data=plan.out.parent / "encoded", families=("wan",))
    found, place = Found(declare(wanted), wanted), plan.out.parent / "encoded/continuous-4x8x8"
    both = (str(place / "train_v2.0"), str(place / "val_v2.0"))
    assert found.training("wan-tiny-plain-all").data.train == both and found.training("wan-tiny-plain").data.train == both[:1]


def test_the_verdict_compares_the_rows_with_the_published_ones():
    said = verdict({0: 20.0, 2: 21.5}, 20, 100, {"clipped": True}, "a")
    assert said == ["Averaging 20 samples instead of one changes PSNR by +1.50 dB (published rows: +2.25)."]
    assert verdict({}, 20, 100, {"clipped": False, "psnr_limit": 25.0}, "a") == [
        "By the fit of 1 / N averaging ends at a pooled PSNR of 25.00 dB (a)."
    ]


def test_rows_are_named_by_what_they_vary():
    assert name_of(20, 1, None) == "20 steps, 1 sample"
    assert name_of(None, 5, None) == "5 samples"
    assert name_of(100, 20, 1.5) == "100 steps, 20 samples, guidance 1.5"
