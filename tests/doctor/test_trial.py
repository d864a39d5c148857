"""Faults of models that only a real step can tell."""

import random
import statistics
import time
from dataclasses import replace

import pytest
import torch
from damage import largest_file
from tiny_doctor import CPU, ST, TRAIN, WAN, asked, config_of, the_one
from torch import nn

from hwm.config import DataConfig, RunConfig
from hwm.doctor import trial
from hwm.doctor.costs import recipe_costs
from hwm.doctor.expectation import first_loss
from hwm.doctor.trial import Trial
from hwm.model_config import DirectConfig, FlowConfig, FSQConfig, MaskedConfig
from hwm.models.build import build_model
from hwm.models.st_transformer import STTransformer
from hwm.nn.vocabulary import Vocabulary
from hwm.runs import open_clips

MASKED = MaskedConfig(vocab_size=64, grid=(2, 2), num_layers=2, num_heads=2, width=16, mlp_ratio=2, unshared_blocks=1)
FLOW = FlowConfig(channels=3, grid=(4, 4), num_layers=2, num_heads=2, width=24, mlp_ratio=2, unshared_blocks=1)
DIRECT = DirectConfig(
    grid=(8, 8), patch=4, context_grids=3, future_grids=2, num_states=5, num_layers=2, num_heads=2, width=16, map_hidden=16,
    map_channels=4,
)  # fmt: skip


def start_of(config=None, *, model=None, source=None, **train):
    config = config or RunConfig(recipe="tiny", model=ST, train=replace(TRAIN, **train))
    if model is None:
        model = build_model(config)
    return Trial(config, model, CPU, source, clips=config.train.batch_size)


def test_weights_that_start_too_large():
    start = start_of()
    fine = asked(first_loss, start)
    the_one(fine, "first loss", "ok"), the_one(fine, "first loss, digits", "ok")
    nn.init.normal_(start.model.vocabulary.weight, std=2.0)
    assert "too large" in the_one(asked(first_loss, start), "first loss", "FAIL").remedy


def test_what_training_prints_is_told_where_it_is_more_than_the_main_term():
    start = start_of(RunConfig(recipe="tiny", model=replace(ST, code_loss=10.0), train=TRAIN))
    total, main = (term.item() for term in list(start.terms().values())[:2])
    told = the_one(asked(first_loss, start), "training loss", "ok").found
    assert told.startswith(f"{total:.3f} is what training prints") and total > main + 0.1
    assert "training loss" not in asked(first_loss, start_of())


def test_one_digit_that_starts_too_large():
    start = start_of()
    with torch.no_grad():
        start.model.vocabulary.weight[8:13] *= 50  # digit 1
    assert "digit 1" in the_one(asked(first_loss, start), "first loss, digits", "FAIL").found


class Leaking(Vocabulary):
    """Knows the ids that it is asked for."""

    def loss(self, hidden_ND, ids_N, *, code_weight=0.0):
        return super().loss(hidden_ND + 200 * self.embed(ids_N), ids_N, code_weight=code_weight)


def test_a_model_that_sees_its_target():
    start = start_of()
    start.model.vocabulary.__class__ = Leaking
    assert "lower than chance" in the_one(asked(first_loss, start), "first loss", "FAIL").remedy


def test_values_that_are_not_finite(home):
    start = start_of()
    with torch.no_grad():
        start.model.place_positions[0, 0] = torch.nan
    assert "nan" in the_one(asked(first_loss, start), "first loss", "FAIL").found
    the_one(asked(trial.gradients, start), "gradients", "FAIL")


class Jittering(STTransformer):
    """Draws from a source of its own."""

    def loss(self, batch, *, generator):
        terms = super().loss(batch, generator=generator)
        return terms | {"loss": terms["loss"] * (1 + 1e-3 * random.random())}


def test_a_step_that_is_another_the_second_time():
    the_one(asked(trial.repeated, start_of()), "repeated step", "ok")
    the_one(asked(trial.repeated, start_of(model=Jittering(ST))), "repeated step", "FAIL")


class Cut(nn.Module):
    """A state encoder whose output is lost on the way."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.shift_scale = encoder, encoder.shift_scale

    def forward(self, states_BFA):
        return 0 * self.encoder(states_BFA)


def test_states_that_reach_nothing():
    sound, cut = start_of(), build_model(RunConfig(model=ST, train=TRAIN))
    cut.states = Cut(cut.states)
    cut = start_of(model=cut)
    for start, status in ((sound, "ok"), (cut, "FAIL")):
        found = asked(trial.learning, start, steps=3)
        the_one(found, "learning", "ok")
        for name in ("gradient everywhere", "gradient of states"):
            the_one(found, name, status)
        the_one(asked(trial.states_used, start), "states used", status)


def test_a_weight_that_takes_no_part():
    model = build_model(RunConfig(model=ST, train=TRAIN))
    model.spare = nn.Linear(3, 3)
    start = start_of(model=model)
    assert "spare" in the_one(asked(trial.gradients, start), "gradients", "FAIL").found
    the_one(asked(trial.learning, start, steps=2), "gradient everywhere", "FAIL")


def test_a_learning_rate_that_is_too_high():
    the_one(asked(trial.learning, start_of(lr=30.0), steps=4), "learning", "FAIL")


def test_a_checkpoint_that_cannot_be_written(tmp_path):
    start = start_of()
    start.learn(1)
    the_one(asked(trial.round_trip, start, tmp_path / "a"), "checkpoint", "ok")
    with largest_file(10_000):
        found = asked(trial.round_trip, start, tmp_path / "b")
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


def test_data_that_starve_the_device(home, monkeypatch):
    config = config_of(home)
    clips = open_clips(config, config.data.train, training=True)
    assert trial.read_seconds(start_of(config, source=Slow(clips))) >= 0.2
    start = start_of(config, source=clips)
    start.learn(3)
    step = statistics.median(start.step_seconds)
    for share, status in ((0.1, "ok"), (10.0, "warn")):  # of a step: what a busy machine measures may be anything
        monkeypatch.setattr(trial, "read_seconds", lambda _, seconds=share * step: seconds)
        found = asked(trial.measured, start, recipe_costs(config), nproc=2)
        the_one(found, "reading", status)
        assert "an estimate" in the_one(found, "whole recipe", "ok").found
        assert "share these cores" in found["many processes"].found


def test_a_step_that_takes_hours_is_not_tried():
    config = RunConfig(model=ST, train=TRAIN)
    costs = recipe_costs(config)
    assert trial.affordable(config, costs, device=CPU, quick=True) == TRAIN.batch_size
    slow = replace(costs, plain=replace(costs.plain, clip_flop=10**14))
    with pytest.raises(ValueError, match="the whole recipe .* (h|days); train it on a faster device"):
        trial.affordable(config, slow, device=CPU, quick=True)


VARIANTS = [
    replace(MASKED, sharing=sharing, unshared_blocks=blocks) for sharing, blocks in (("stream", 1), ("modality", 1), ("full", 0))
]
VARIANTS += [replace(MASKED, attention="split", sharing="full", unshared_blocks=0), replace(ST, factors=(), dropout=0.0)]
VARIANTS += [replace(FLOW, **options) for options in ({}, {"output": "data"})]
VARIANTS += [replace(WAN, **options) for options in ({}, {"output": "data"})]
VARIANTS += [DIRECT, replace(DIRECT, warp=False)]


@pytest.mark.parametrize("model", VARIANTS, ids=lambda m: m.family)
def test_every_family_passes_and_is_known(model):
    """The expected loss at the start, the weights that lie idle by design, and states behind zero gates."""
    if model.family == "wan":
        pytest.importorskip("diffusers")
        pytest.importorskip("peft")
    start = start_of(RunConfig(model=model, train=replace(TRAIN, lr=3e-3)))
    found = asked(first_loss, start) | asked(trial.gradients, start) | asked(trial.learning, start, steps=4)
    found |= asked(trial.states_used, start)
    assert [v.line() for v in found.values() if v.status != "ok"] == [] and "gradient of states" in found


@pytest.mark.parametrize("model", [FLOW, replace(FLOW, output="data")], ids=lambda m: m.output)
def test_latent_models_that_start_wrong(model):
    start = start_of(RunConfig(model=model, train=TRAIN))
    nn.init.normal_(start.model.network.final.weight, std=1.0)
    the_one(asked(first_loss, start), "first loss", "FAIL")


def test_a_tokenizer_of_video():
    model = FSQConfig(levels=(8, 5, 5), channels=8, depth=1)
    start = start_of(RunConfig(model=model, data=DataConfig(clip="blocks", image_size=16), train=replace(TRAIN, batch_size=2)))
    found = asked(first_loss, start) | asked(trial.gradients, start) | asked(trial.states_used, start)
    assert {v.status for v in found.values()} == {"ok"} and {"first loss", "gradients"} <= {*found}
    nn.init.normal_(start.model.patch_out.weight, std=3.0)
    the_one(asked(first_loss, start), "first loss", "FAIL")
