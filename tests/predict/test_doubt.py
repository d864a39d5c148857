"""Ways of doubting against closed forms, on every family, and what a doubt means in pixels."""

import math

import numpy as np
import pytest
import torch
from refusing import refused

from hwm.clock import COSMOS
from hwm.model_config import DirectConfig, FlowConfig, FSQConfig, MaskedConfig, STConfig
from hwm.models.direct import Direct
from hwm.models.flow import FlowHWM
from hwm.models.masked import MaskedHWM
from hwm.models.st_transformer import STTransformer
from hwm.nn import flow_matching as flow
from hwm.predict.doubt import DOUBTS, HOT, LEVELS, PASSES, SAMPLES, Evidence, Scale, ask
from hwm.tokenizers.autoencoder import ContinuousTokenizer, FSQTokenizer
from hwm.tokenizers.open import PIXELS

SMALL = {"grid": (2, 2), "num_layers": 2, "num_heads": 2, "width": 16}
OF_TOKENS = {"vocab_size": 64, **SMALL}
FAMILIES = {
    "st": lambda: (
        STTransformer(STConfig(**OF_TOKENS, num_states=34, state_hidden=8, dropout=0.3)),
        FSQTokenizer(FSQConfig(levels=(4, 4, 4), channels=8, depth=1)),
    ),
    "masked": lambda: (
        MaskedHWM(MaskedConfig(**OF_TOKENS, unshared_blocks=1)),
        FSQTokenizer(FSQConfig(levels=(4, 4, 4), channels=8, depth=1)),
    ),
    "flow": lambda: (
        FlowHWM(FlowConfig(**SMALL, channels=3, patch=1, steps=3, guidance=2.0, unshared_blocks=1)),
        ContinuousTokenizer(FSQConfig(levels=(5, 5, 5), channels=8, depth=1, continuous=True)),
    ),
    "direct": lambda: (Direct(DirectConfig(grid=(16, 16), patch=8, num_layers=1, num_heads=2, width=16, map_hidden=8)), PIXELS),
}  # fmt: skip
COMMON = {"none", "predicted change", "ensemble spread"}
OF_GRIDS = COMMON | {"spread of hot samples", "round trip", "round trip / motion", "seeds", "seeds / motion"}
THERE = {
    "st": OF_GRIDS | {"MC dropout", "token entropy"}, "masked": OF_GRIDS | {"MC dropout", "token entropy"},
    "flow": OF_GRIDS | {"flow unrest", "flow unrest / motion"}, "direct": COMMON,
}  # fmt: skip


def asked(family, num_samples=3, seed=0, clips=2):
    torch.manual_seed(4)
    model, tokenizer = FAMILIES[family]()
    g = torch.Generator().manual_seed(5)
    if family == "direct":
        context = torch.randint(256, (clips, 9, 16, 16, 3), generator=g, dtype=torch.uint8)
    else:
        context = torch.randint(256, (clips, model.context_grids, 2, 2), generator=g)
        context = context % 64 if family != "flow" else torch.randn(clips, 2, 3, 2, 2, generator=g).clamp(-1, 1)
    states = torch.randn(clips, 40, 25, generator=g)
    generator = torch.Generator().manual_seed(seed)
    return ask(model.eval(), tokenizer, context, states, num_samples=num_samples, generator=generator, step_frames=4)


def maps(evidence):
    found = {doubt.name: doubt.of(evidence) for doubt in DOUBTS}
    return {name: x for name, x in found.items() if x is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_doubts_in_the_ways_it_has(family):
    evidence = asked(family)
    found = maps(evidence)
    assert set(found) == THERE[family]
    shape = evidence.mean_BFHWC.shape
    assert shape == (2, {"st": 17, "masked": 8, "flow": 8, "direct": 4}[family], 16, 16, 3)
    for name, x in found.items():
        assert x.shape == shape[:-1] and bool(torch.isfinite(x).all()) and x.min() >= 0, name
    again = maps(asked(family))
    assert all(torch.equal(x, again[name]) for name, x in found.items()), "the generator decides all"


def test_equal_members_have_no_spread():
    """Before training `direct` copies the last frame, every time."""
    assert not any(x.any() for x in maps(asked("direct")).values())


def test_the_maps_are_what_they_say():
    g = torch.Generator().manual_seed(0)
    samples = torch.randint(256, (2, 4, 8, 8, 8, 3), generator=g, dtype=torch.uint8)
    latents, past = torch.randn(2, 4, 1, 5, 2, 2, generator=g), torch.randn(2, 5, 2, 2, generator=g)
    there, again = torch.randn(2, 1, 5, 2, 2, generator=g), torch.randn(2, 1, 5, 2, 2, generator=g)
    last = torch.randint(256, (2, 8, 8, 3), generator=g, dtype=torch.uint8)
    entropy = torch.rand(2, 1, 2, 2, generator=g)
    evidence = Evidence(
        {SAMPLES: samples, HOT: samples // 2, PASSES: samples[:, :1].expand(-1, 4, -1, -1, -1, -1)}, last, torch.zeros(8).long(),
        entropy, latents, past, there, again, entropy / 2,
    )  # fmt: skip
    found = maps(evidence)
    deviation = samples.double().div(255).var(1).mean(-1).sqrt().float()
    torch.testing.assert_close(found["ensemble spread"], deviation)
    assert not found["MC dropout"].any()
    cells = {
        "token entropy": entropy, "flow unrest": entropy / 2, "seeds": latents.var(1).mean(2).sqrt(),
        "round trip": (there - again).square().mean(2).sqrt(),
    }  # fmt: skip
    motion = (latents.mean(1)[:, 0] - past).square().flatten(1).mean(1).sqrt()
    for name, cell in cells.items():
        torch.testing.assert_close(found[name][:, 3, ::4, ::4], cell[:, 0])
        assert torch.equal(found[name][:, 0, 1::4, 2::4], found[name][:, 7, ::4, ::4])
        if name != "token entropy":
            torch.testing.assert_close(found[f"{name} / motion"], found[name] / motion[:, None, None, None])


def test_frames_have_the_doubt_of_their_grid():
    by_grid = {"st": [0] + 8 * [1] + 8 * [2], "flow": 8 * [0]}
    assert {family: asked(family).grid_of_F.tolist() for family in by_grid} == by_grid
    assert [COSMOS.grid_of(f) for f in range(17)] == by_grid["st"]


def test_an_uncertain_model_has_full_entropy():
    model, tokenizer = FAMILIES["st"]()
    torch.nn.init.zeros_(model.vocabulary.weight)
    context = torch.zeros(1, 3, 2, 2, dtype=torch.int64)
    found = ask(model, tokenizer, context, torch.zeros(1, 34, 25), num_samples=2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.entropy_BTHW, torch.ones(1, 3, 2, 2))
    refused("at least 2 samples, got 1", ask, model, tokenizer, context, torch.zeros(1, 34, 25), num_samples=1, generator=None)


def test_a_straight_flow_is_at_rest_and_a_bent_one_moves_as_far_as_computed():
    goal, x = torch.tensor([[2.0, -1.0]]), torch.zeros(1, 2)

    def moved(velocity, num):
        watch = flow.Watch()
        flow.euler(flow.watched(velocity, watch), x, flow.Steps(num))
        return watch.moved

    assert moved(lambda x, k, level: (goal - x) / level, 5).abs().max() < 1e-10
    # dx/dt = t at steps of 1/2: goals 0 + 1 * 0 and 0 + 1/2 * 1/2.
    torch.testing.assert_close(moved(lambda x, k, level: torch.full_like(x, 1 - level), 2), torch.full((1, 2), 1 / 16))
    assert moved(lambda x, k, level: x, 1) is None


# --- What a doubt means in pixels ------------------------------------------------------------------------------------


def gaussian(num, seed):
    rng = np.random.default_rng(seed)
    sigma = rng.uniform(0.01, 0.2, num)
    return (7 * sigma).astype(np.float32), np.abs(rng.normal(0, sigma)).astype(np.float32), sigma


def test_intervals_hold_what_they_say_on_fresh_draws_of_a_known_gaussian():
    doubts, errors, _ = gaussian(200_000, 0)
    scale = Scale.fit(doubts, errors)
    new, truth, sigma = gaussian(200_000, 1)
    widths = {level: scale.half_width(torch.from_numpy(new), level).numpy() for level in LEVELS}
    assert {level: (truth <= half).mean() for level, half in widths.items()} == pytest.approx({p: p for p in LEVELS}, abs=0.01)
    # Narrow where it is sure: each level's own quantile of the normal distribution, to within the width of a bin.
    for level, z in zip(LEVELS, (0.6745, 1.2816, 1.96)):
        inside = sigma > 0.03
        assert np.abs(widths[level][inside] / sigma[inside] / z - 1).max() < 0.25
    expected = scale.error(torch.from_numpy(new)).numpy()
    assert np.corrcoef(expected, sigma)[0, 1] > 0.99
    assert math.sqrt(np.square(expected).mean()) == pytest.approx(math.sqrt(np.square(truth).mean()), rel=0.02)
    assert Scale.from_json({"edges": list(scale.edges), "rms": list(scale.rms), "widths": [*map(list, scale.widths)]}) == scale


def test_equal_doubts_stay_together_and_hold_their_share():
    doubts = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2, 2], np.float32)
    errors = np.arange(10, dtype=np.float32) / 10
    scale = Scale.fit(doubts, errors, num_bins=5)
    assert scale.edges == (1, 2) and scale.widths[LEVELS.index(0.5)] == pytest.approx((0.3, 0.7, 0.9))
    assert scale.rms == pytest.approx([np.sqrt(np.mean(np.square(part))) for part in np.split(errors, [6, 8])])
    assert scale.error(torch.tensor([[-1.0, 0, 0.5, 1, 5]]))[0].tolist() == pytest.approx([scale.rms[i] for i in (0, 0, 0, 1, 2)])
    constant = Scale.fit(np.zeros(100, np.float32), np.linspace(0, 1, 100).astype(np.float32))
    assert constant.edges == () and constant.half_width(torch.zeros(2, 3), 0.8).unique().item() == pytest.approx(0.8, abs=0.011)
    refused("as many doubts as errors", Scale.fit, doubts, errors[:-1])
