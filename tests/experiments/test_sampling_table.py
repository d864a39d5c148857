"""The grid of the sampling table: what is asked of which run, and the whole experiment on tiny runs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hwm.cli.use import experiment
from hwm.config import override
from hwm.data.writers import RawShardWriter, write_dataset_metadata
from hwm.evaluate_old.sampling_results import mean_of
from hwm.experiments import sampling_grid
from hwm.experiments.plan import Plan
from hwm.experiments.published import SAMPLING
from hwm.experiments.sampling_cells import name_of, verdict
from hwm.experiments.sampling_grid import Sizes, Subject, grid
from hwm.experiments.sampling_scores import score_all
from hwm.experiments.sampling_table import sampling_table, twins
from hwm.prepare import encoded
from hwm.recipes import recipe
from hwm.runs import train

SMALL = Sizes(samples=4, many_steps=1, most=6)
WAN = ("num_layers=1", "num_heads=2", "head_width=12", "mlp_width=24", "time_width=16", "state_hidden=16")


def subject(name, label="", *changes):
    return Subject(label or name, Path(label or name), override(recipe(name), list(changes)))


# --- the grid --------------------------------------------------------------------------------------------------------


def test_the_published_grid_needs_nine_scorings_of_two_wan_runs():
    found = grid([subject("wan-tiny"), subject("wan-tiny", "plain", "model.condition_dropout=0.0")], Sizes())
    asked = [(row.block, row.key, row.samples) for row in found.rows]
    assert asked[:3] == [(1, ("plain", 20, 1.0), n) for n in (1, 5, 20)]
    assert [key[1:] for _, key, _ in asked[3:]] == [(20, 2.0), (20, 1.5), (100, 1.5), (100, 1.0)]
    assert {key[0] for _, key, _ in asked[3:]} == {"wan-tiny"}
    assert found.study == ("plain", 20, 1.0) and found.members[found.study] == (1, 5, 10, 20, 50)
    assert len(found.members) == 1 + 5 + 4  # block 1; guidance and steps; 1, 2, 4 and 8 steps
    assert [key[1] for key in found.steps] == [1, 2, 4, 8, 20, 100] and all(10 in found.members[key] for key in found.steps)
    assert sorted(key[1:] for key in found.guidance) == [(20, 1.0), (20, 1.5), (20, 2.0), (100, 1.0), (100, 1.5)]


def test_rows_stand_beside_the_published_rows_of_the_same_settings():
    found = grid([subject("wan-tiny"), subject("wan-tiny", "plain", "model.condition_dropout=0.0")], Sizes())
    for row in found.rows:
        printed = SAMPLING[row.published]
        guidance = row.key[2] if row.block > 1 else None
        assert (printed.block, printed.steps, printed.samples, printed.guidance) == (row.block, row.key[1], row.samples, guidance)


def test_blocks_without_a_run_are_left_out():
    dropped = grid([subject("wan-tiny")], Sizes())
    assert {row.block for row in dropped.rows} == {2, 3} and dropped.study == ("wan-tiny", 20, 1.0)
    plain = grid([subject("wan-tiny", "plain", "model.condition_dropout=0.0")], Sizes())
    assert {row.block for row in plain.rows} == {1} and not plain.guidance
    assert [key[1] for key in plain.steps] == [1, 2, 4, 8, 20, 100]


@pytest.mark.parametrize(
    "name, changes, steps",
    [("flow-hwm-base-tiny", ("model.steps=20",), 20), ("masked-hwm-base-tiny", (), 2), ("st-demo", (), None)],
)
def test_another_family_alone_gives_the_first_block(name, changes, steps, tmp_path):
    one = subject(name)
    found = grid([one], Sizes())
    assert [(row.block, row.samples) for row in found.rows] == [(1, 1), (1, 5), (1, 20)]
    scoring = found.scorings(Plan(out=tmp_path), tmp_path)[found.study]
    assert scoring.changes == changes and one.own_steps == steps
    assert bool(found.steps) == (steps is not None) and not found.guidance


def test_every_scoring_sees_the_same_clips(tmp_path):
    found = grid([subject("wan-tiny"), subject("st-demo")], Sizes()).scorings(Plan(out=tmp_path, clips=48), tmp_path)
    assert len({(s.clips, s.tuning_clips, s.seed, s.data) for s in found.values()}) == 1
    assert len({s.out for s in found.values()}) == len(found)


def test_twins_are_trained_with_and_without_condition_dropout():
    found = twins(("wan", "masked"), size="tiny", variant="full")
    assert found["wan-tiny"] == ("wan-tiny", ())
    assert found["wan-tiny-plain"] == ("wan-tiny", ("model.condition_dropout=0.0",))
    assert set(found) == {"wan-tiny", "wan-tiny-plain", "masked-hwm-full-tiny"}
    with pytest.raises(ValueError, match="no medium twin of wan, st: .*--runs"):
        twins(("wan", "st", "flow"), size="medium", variant="base")


def test_sizes_that_leave_no_rows_apart_are_refused():
    with pytest.raises(ValueError, match="at least 4"):
        Sizes(samples=3)
    with pytest.raises(ValueError, match="most at least samples"):
        Sizes(samples=20, most=10)


def test_options_of_the_sampling_table_are_refused_elsewhere(tmp_path):
    with pytest.raises(ValueError, match="--samples: only with sampling-table"):
        experiment("flow-steps", out=tmp_path, samples=5)
    with pytest.raises(ValueError, match="with --runs nothing is"):
        experiment("sampling-table", out=tmp_path, runs=(tmp_path,), families=("wan",))


# --- the experiment --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Recordings of a square that moves with the first state."""
    root, rng = tmp_path_factory.mktemp("sampling"), np.random.default_rng(0)
    for name, segments in (("train", 2), ("val", 2), ("val_unseen", 7)):
        folder = root / "data" / f"{name}_v2.0_raw"
        with RawShardWriter(folder, shard=0, height=64, width=64) as writer:
            for segment in range(segments):
                states = rng.normal(size=(80, 25)).astype(np.float32).cumsum(0) * 0.1
                frames = np.full((80, 64, 64, 3), 90, np.uint8)
                for frame, state in zip(frames, states):
                    x = int(np.clip(24 + 12 * state[0], 0, 48))
                    frame[16:32, x : x + 16] = 200
                writer.append(frames, states, segment)
        write_dataset_metadata(folder, num_shards=1, num_images=80 * segments)
    return root


def trained(data, label, name, *changes):
    """A run of two steps."""
    config = recipe(name)
    sets = encoded(data / "data", data / "encoded" / config.tokenizer, tokenizer=config.tokenizer)
    values = (*changes, "train.steps=2", "train.batch_size=2", "train.validate_clips=2", "train.sample_every=0")
    config = override(config, [*values, f'data.train="{sets.train}"', f'data.val="{sets.val}"'])
    train(config, data / "runs" / label)
    return data / "runs" / label


@pytest.fixture(scope="module")
def page(data):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    small = [f"model.{change}" for change in WAN]
    runs = [
        trained(data, "dropped", "wan-tiny", *small),
        trained(data, "plain", "wan-tiny", *small, "model.condition_dropout=0.0"),
    ]
    torch.set_num_threads(before)
    plan = Plan(out=data / "out", data=data / "data", clips=2, workers=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling_grid, "FEW_STEPS", (1,))
        return plan, runs, sampling_table(plan, runs=runs, sizes=SMALL)


def test_the_page_holds_table_curves_and_families(page):
    plan, _, file = page
    record = json.loads((plan.out / "sampling.json").read_text())
    assert [(row["run"], row["steps"], row["samples"], row["guidance"]) for row in record["rows"]] == [
        *(("plain", 20, n, None) for n in (1, 2, 4)),
        *(("dropped", 20, 4, g) for g in (2.0, 1.5)),
        *(("dropped", 1, 4, g) for g in (1.5, 1.0)),
    ]
    results = json.loads((plan.out / "scores" / "plain" / "sampling-20-steps" / "results_sampling.json").read_text())
    by_name = {row["name"]: row for row in results["rows"]}
    for row in record["rows"][:3]:
        assert row["psnr"] == by_name[mean_of(row["samples"])]["psnr"] and row["seconds"] > 0
    assert [row["label"] for row in record["families"]] == ["dropped", "plain"]
    gain = record["families"][0]["mean"]["psnr"]["mean"] - record["copy"]["psnr"]["mean"]
    assert record["families"][0]["over_copy"]["mean"] == pytest.approx(gain, abs=1e-6)
    assert len({json.dumps(place["examples"][0]["clip"]) for place in record["pictures"]}) == 1
    html = file.read_text()
    assert html.count("data:image/png") == 5 and html.count("data:image/jpeg") == 2 * (9 + 4)  # a column each of two clips
    assert "<script" not in html and 'src="http' not in html
    for link in record["reports"].values():
        assert (plan.out / link).is_file() and f'href="{link}"' in html
    text = (plan.out / "sampling.md").read_text()
    assert text.index("| ours |") < text.index("Published: 1X") and "| 25.53 | 23.04 | 0.773 | 0.158 | 69.25 |" in text


def test_what_was_scored_is_not_scored_again_until_the_weights_or_settings_change(page):
    plan, runs, _ = page
    scorings = grid([Subject("plain", runs[1], recipe("wan-tiny"))], SMALL).scorings(plan, plan.unseen())
    scoring = scorings["plain", 20, 1.0]
    own = replace(scoring, members=(1, 2, 4, 6), changes=("model.steps=20", "model.guidance=1"))
    assert own.finished()
    before = (own.out / "results_sampling.json").stat().st_mtime_ns
    score_all([own], parallel=1)
    assert (own.out / "results_sampling.json").stat().st_mtime_ns == before
    assert not replace(own, seed=1).finished() and not replace(own, run=runs[0]).finished()


def test_a_failed_scoring_names_its_folder_and_reason(tmp_path):
    nowhere = Subject("st", tmp_path / "nowhere", recipe("st-demo"))
    first = next(iter(grid([nowhere], SMALL).scorings(Plan(out=tmp_path), tmp_path).values()))
    with pytest.raises(ValueError, match="scores/st/sampling-own-steps: scoring failed: .*nowhere: not a run folder"):
        score_all([first], parallel=1)


def test_the_verdict_compares_the_rows_with_the_published_ones():
    def row(number, psnr):
        return {"published": number, "psnr": {"mean": psnr}}

    record = {
        "rows": [row(0, 20.0), row(2, 21.5)],
        "published": [{"val_psnr": printed.val_psnr} for printed in SAMPLING],
        "settings": {"samples": 20, "many_steps": 100},
        "study": {"run": "a", "results": {"saturation": {"clipped": True}}},
    }
    assert verdict(record) == ["Averaging 20 samples instead of one changes PSNR by +1.50 dB (published rows: +2.25)."]


def test_rows_are_named_by_what_they_vary():
    assert name_of({"steps": 20, "samples": 1, "guidance": None}) == "20 steps, 1 sample"
    assert name_of({"steps": None, "samples": 5, "guidance": None}) == "5 samples"
    assert name_of({"steps": 100, "samples": 20, "guidance": 1.5}) == "100 steps, 20 samples, guidance 1.5"
