import dataclasses
import itertools
import math

import pytest
import torch
from refusing import refused
from seeds import gen

from hwm.contracts import Batch, Sampling
from hwm.model_config import MaskedConfig
from hwm.models.masked import MaskedHWM

TINY = MaskedConfig(
    vocab_size=40, grid=(3, 4), num_layers=3, num_heads=2, width=16, unshared_blocks=1, dropout=0.0, num_states=18,
    visibility="causal",
)
SPLIT = dataclasses.replace(TINY, attention="split", sharing="full", unshared_blocks=0)
TWO = {"context_grids": 2, "future_grids": 2, "num_states": 18}
LONG = {"context_grids": 1, "future_grids": 3, "steps": 3, "num_states": 18}
OURS = {"factors": (5, 8), "state_modulation": True, "state_changes": True, "code_loss": 3.0}


def build(config=TINY, *, dtype=torch.float64, std=0.3):
    torch.manual_seed(0)
    model = MaskedHWM(config).to(dtype)
    if std:
        torch.manual_seed(8)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=std)
    return model


def variant(base=TINY, **options):
    return dataclasses.replace(base, **options)


def clips(config=TINY, num=3, seed=7):
    g, num_grids = gen(seed), config.context_grids + config.future_grids
    tokens = torch.randint(config.vocab_size, (num, num_grids, *config.grid), generator=g)
    return Batch(states_BFA=torch.randn(num, config.num_states, 25, generator=g), tokens_BTHW=tokens)


def split(model, batch):
    return batch.tokens_BTHW.tensor_split([model.context_grids], 1)


def outputs(model, tokens_BTHW, states_BFA, masked_BTHW=None):
    """Inputs of the head of all future grids, (T, B, S, D)."""
    masked = torch.zeros_like(tokens_BTHW, dtype=torch.bool) if masked_BTHW is None else masked_BTHW
    with torch.no_grad():
        tokens = tokens_BTHW.flatten(2)
        return model.trunk(tokens, masked.flatten(2), model.actions(states_BFA), newest=model.future_grids)


def watch(model, monkeypatch):
    """What goes into and comes out of every pass: batch, mask of the predicted grid (R, S), its outputs (R, S, D)."""
    passes, trunk = [], model.trunk

    def watched(tokens_BTS, masked_BTS, state_BGD, *, newest, **options):
        out = trunk(tokens_BTS, masked_BTS, state_BGD, newest=newest, **options)
        passes.append((tokens_BTS.shape, masked_BTS[:, -newest].clone(), out[0]))
        return out

    monkeypatch.setattr(model, "trunk", watched)
    return passes


# Size


@pytest.mark.parametrize(("options", "millions"), [
    ({"sharing": "modality"}, 237.3), ({"sharing": "full"}, 195.3),
    ({"attention": "split", "sharing": "full", "unshared_blocks": 0}, 220.5)
])
def test_published_sizes(options, millions):
    with torch.device("meta"):
        model = MaskedHWM(MaskedConfig(**options))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=1e-3)


def test_published_size_by_part():
    with torch.device("meta"):
        model = MaskedHWM(MaskedConfig())
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    attention, mlp, norm = 4 * 512**2 + 512, 8 * 512**2 + 5 * 512, 2 * 512
    assert counts["vocabulary"] == 2 * 64000 * 512 + 64000
    assert counts["blocks"] == 24 * (2 * attention + 4 * mlp + 6 * norm)
    assert counts["actions"] == 25 * 512 + 512 + mlp + norm + 17 * 512
    assert model.positions.numel() == 3 * 1024 * 512 and model.mask.shape == (512,)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(321.4, rel=1e-3)


# What sees what


SPANS = ((0, 1), (1, 9), (9, 17), (17, 18))
ROUNDING = 1e-12
"""Of float64: some processors compute one row of a batch a bit unlike the next; what reaches an output moves it by 1e-5."""


def reach(config):
    """Whether output of future grid t moves with the tokens of grid u and with the states of grid u, bool (T, G) each.

    All places and all frames of a grid must agree.
    """
    model, clip = build(config), clips(config, num=1)
    tokens, states = clip.tokens_BTHW.repeat(23, 1, 1, 1), clip.states_BFA.repeat(23, 1, 1)
    # One copy of the clip each: a token of a grid changed, a frame's states changed, and nothing changed.
    for grid in range(4):
        tokens[grid, grid, 1, 2] = (tokens[grid, grid, 1, 2] + 1) % 40
    for frame in range(18):
        states[4 + frame, frame] += 1
    out = outputs(model, tokens, states)
    moved = ((out - out[:, -1:]).abs() > ROUNDING).any(-1)
    assert (moved == moved[:, :, :1]).all()
    by_token, by_frame, _ = moved[:, :, 0].split([4, 18, 1], 1)
    by_state = [by_frame[:, first:end] for first, end in SPANS]
    assert all((part == part[:, :1]).all() for part in by_state)
    return by_token, torch.stack([part[:, 0] for part in by_state], 1)


@pytest.mark.parametrize("base", [TINY, SPLIT])
@pytest.mark.parametrize("grids", [TWO, LONG])
@pytest.mark.parametrize("modulated", [False, True])
def test_a_future_place_reacts_to_every_action_that_causes_it_and_to_none_later(base, grids, modulated):
    config = variant(base, **grids, state_modulation=modulated)
    tokens, states = reach(config)
    future = torch.arange(config.context_grids, 4)[:, None]
    assert torch.equal(states, torch.arange(4) <= future)
    assert torch.equal(tokens, torch.arange(4) <= future)


@pytest.mark.parametrize("base", [TINY, SPLIT])
def test_with_full_visibility_everything_reacts_to_everything(base):
    tokens, states = reach(variant(base, **TWO, visibility="full"))
    assert tokens.all() and states.all()


@pytest.mark.parametrize("base", [TINY, SPLIT])
def test_as_released_no_place_sees_an_action(base):
    tokens, states = reach(variant(base, **TWO, visibility="released"))
    assert not states.any() and torch.equal(tokens, torch.arange(4) <= torch.arange(2, 4)[:, None])


def test_split_past_knows_nothing_of_the_future_even_where_all_is_visible():
    model = build(variant(SPLIT, **TWO, visibility="full"))
    batch, seen = clips(model.config), []
    for block in model.blocks:
        block.cross.register_forward_pre_hook(lambda _, args: seen.append(args[0][:2]))
    outputs(model, batch.tokens_BTHW, batch.states_BFA)
    changed = batch.tokens_BTHW.clone()
    changed[:, 2:] = 0
    outputs(model, changed, batch.states_BFA + torch.arange(18)[:, None].ge(9))
    for a, b in zip(seen[:3], seen[3:]):
        assert torch.equal(a, b)


def test_a_masked_token_is_not_seen():
    model, batch = build(), clips()
    masked = torch.zeros_like(batch.tokens_BTHW, dtype=torch.bool)
    masked[:, 2, 1:] = True
    base = outputs(model, batch.tokens_BTHW, batch.states_BFA, masked)
    for row, seen in ((0, True), (1, False)):
        tokens = batch.tokens_BTHW.clone()
        tokens[:, 2, row] = (tokens[:, 2, row] + 1) % 40
        assert torch.equal(outputs(model, tokens, batch.states_BFA, masked), base) != seen


def test_state_modulation_starts_without_effect():
    plain, modulated = build(std=0), build(variant(state_modulation=True), std=0)
    modulated.load_state_dict(plain.state_dict(), strict=False)
    batch = clips()
    a, b = (outputs(m, batch.tokens_BTHW, batch.states_BFA) for m in (plain, modulated))
    torch.testing.assert_close(a, b)
    assert [n for n, _ in modulated.named_parameters() if "modulation" in n]


@pytest.mark.parametrize("base", [TINY, SPLIT])
@pytest.mark.parametrize("options", [
    {"num_layers": 2}, {"num_heads": 1}, {"mlp_ratio": 2}, {"sharing": "modality", "unshared_blocks": 0}, {"qk_norm": True},
    {"learned_positions": False}, {"state_modulation": True}, {"factors": (5, 8)}, {"visibility": "full"},
    {"max_corruption": 1.0}, {"init_std": 0.5}, {"dropout": 0.5}
])
def test_every_option_changes_the_model(base, options):
    losses = []
    for config in (base, variant(base, **options)):
        model, batch = build(config, std=0), clips(config)
        if options == {"state_modulation": True}:
            for name, parameter in model.named_parameters():
                torch.nn.init.normal_(parameter, std=0.3) if "modulation" in name else None
        losses.append(model.loss(batch, generator=gen())["loss"].item())
    assert losses[0] != losses[1]


# Training


def test_mask_vector_and_head_start_by_xavier_and_all_else_normal():
    model = build(variant(vocab_size=4000, width=64), std=0)
    assert model.vocabulary.head.weight.std().item() == pytest.approx(math.sqrt(2 / 4064), rel=0.05) == model.head_std
    assert model.mask.std().item() == pytest.approx(math.sqrt(2 / 65), rel=0.3)
    assert model.vocabulary.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert build(variant(factors=(5, 8)), std=0).vocabulary.head.weight.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("config", [variant(visibility="full", qk_norm=True), SPLIT, variant(**OURS, sharing="modality")])
def test_overfits_one_clip(config):
    config = dataclasses.replace(config, width=48, num_layers=2, max_corruption=0.05, init_std=0.1)
    model, batch = build(config, dtype=torch.float32, std=0), clips(config, num=1)
    optimiser = torch.optim.AdamW(model.parameter_groups(0.0), lr=5e-3, betas=(0.9, 0.95), fused=True)
    falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=60)
    generator = gen(1)
    for _ in range(60):
        optimiser.zero_grad()
        model.loss(batch, generator=generator)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        falling.step()
    scores = model.validate(batch, generator=gen())
    assert scores["ce_masked"].item() < 0.4 and scores["accuracy"].item() == 1.0


# Prediction


ALL = [
    variant(**LONG), variant(**TWO, remask="confidence", steps=4, state_modulation=True),
    variant(SPLIT, **LONG, state_modulation=True), variant(SPLIT, **TWO, visibility="full", qk_norm=True),
    variant(**TWO, visibility="full"), variant(SPLIT, **TWO, visibility="released")
]


@pytest.mark.parametrize("config", ALL)
@pytest.mark.parametrize("teacher_forced", [False, True])
def test_what_is_computed_once_equals_computing_everything_again(config, teacher_forced, monkeypatch):
    model, batch = build(config), clips(config)
    context, future = split(model, batch)

    def predict():
        return model.predict(
            context, batch.states_BFA, generator=gen(), num_samples=3, sampling=Sampling(temperature=1.0), targets_BTHW=future,
            teacher_forced=teacher_forced, top_k_logits=4, codes_VC=torch.randn(40, 2, generator=gen(3))
        )

    passes = watch(model, monkeypatch)
    quick, shapes = predict(), [shape for shape, _, _ in passes]
    monkeypatch.setattr(model, "_reach", lambda grid: (model.num_grids, 0))
    passes.clear()
    slow = predict()
    for name in ("tokens_BKTHW", "nll_BTHW", "top_indices_BTHWK", "top_values_BTHWK", "entropy_BTHW", "codes_BTHWC"):
        torch.testing.assert_close(getattr(quick, name), getattr(slow, name))
    steps = sum(shape[0] * shape[1] for shape in shapes)
    assert len(shapes) == len(passes) and all(shape[1] == model.num_grids for shape, _, _ in passes)
    shared = config.visibility == "causal" or config.attention == "split"
    assert (steps < sum(shape[0] * shape[1] for shape, _, _ in passes)) == shared
    # The first grid is predicted from one batch; the samples differ from its second pass on.
    assert shapes[0][0] == 3 and shapes[1][0] == 9
    if config.visibility == "causal":
        assert shapes[0][1] == model.context_grids + 1 and shapes[1][1] == 1
        first_of_second_grid = shapes[len(model._passes())]
        assert first_of_second_grid[:2] == ((3, 2) if teacher_forced else (9, 2))


@pytest.mark.parametrize("base", [TINY, variant(SPLIT, **OURS)])
@pytest.mark.parametrize("remasking", ["random", "confidence"])
def test_every_pass_decides_its_share_for_good(base, remasking, monkeypatch):
    config = variant(base, steps=4, remask=remasking)
    model, batch = build(config), clips(config)
    passes = watch(model, monkeypatch)
    prediction = model.predict(split(model, batch)[0], batch.states_BFA, generator=gen())
    counts = [12, *(math.ceil(math.cos(math.pi / 8 * k) * 12) for k in (1, 2, 3))]
    # The first step would leave all twelve masked; it is no pass.
    assert counts == [12, 12, 9, 5]
    masks = [mask for _, mask, _ in passes]
    assert [mask.sum(1).tolist() for mask in masks] == [[n] * 3 for n in (12, 9, 5)]
    assert all((later <= earlier).all() for earlier, later in itertools.pairwise(masks))
    tokens = prediction.tokens_BKTHW[:, 0].flatten(1)
    for mask, later, (_, _, out) in zip(masks, [*masks[1:], torch.zeros_like(masks[0])], passes):
        log_p = model.vocabulary.log_probabilities(out.flatten(0, 1)).view(3, 12, 40)
        decided = mask & ~later
        assert torch.equal(tokens[decided], log_p.argmax(-1)[decided])
        if remasking == "confidence":
            sure = log_p.amax(-1)
            worst_kept = sure.masked_fill(~decided, torch.inf).amin(1)
            assert (sure.masked_fill(~later, -torch.inf).amax(1) <= worst_kept).all()


def test_remasking_is_as_configured():
    batch = clips()
    tokens = {}
    for remasking in ("random", "confidence"):
        model = build(variant(remask=remasking))
        predict = [
            model.predict(split(model, batch)[0], batch.states_BFA, generator=gen(s), num_samples=3).tokens_BKTHW for s in (0, 1)
        ]
        tokens[remasking] = predict[0]
        # Greedy samples differ only by chance in re-masking.
        assert torch.equal(*predict) == (remasking == "confidence")
        assert (predict[0] == predict[0][:, :1]).all() == (remasking == "confidence")
    assert not torch.equal(tokens["random"][:, 0], tokens["confidence"][:, 0])


@pytest.mark.parametrize("config", [variant(steps=4), variant(SPLIT, steps=3, factors=(5, 8)), variant(**LONG)])
def test_fields_describe_the_first_pass_and_codes_the_deciding_one(config, monkeypatch):
    model, batch = build(config), clips(config)
    context, future = split(model, batch)
    codes = torch.randn(40, 2, generator=gen(3))
    passes = watch(model, monkeypatch)
    prediction = model.predict(
        context, batch.states_BFA, generator=gen(), num_samples=2, sampling=Sampling(temperature=1.0), targets_BTHW=future,
        top_k_logits=4, codes_VC=codes
    )
    per_grid = len(passes) // config.future_grids
    for t in range(config.future_grids):
        said, expected = None, None
        for _, mask, out in passes[t * per_grid : (t + 1) * per_grid]:
            log_p = model.vocabulary.log_probabilities(out[:3].flatten(0, 1)).view(3, 12, 40)
            said = log_p if said is None else said
            fresh = log_p.exp() @ codes.double()
            expected = fresh if expected is None else torch.where(mask[:3, :, None], fresh, expected)
        top = said.topk(4)
        nll = -said.gather(2, future[:, t].flatten(1)[:, :, None])[..., 0]
        torch.testing.assert_close(prediction.nll_BTHW[:, t].flatten(1), nll)
        torch.testing.assert_close(prediction.entropy_BTHW[:, t].flatten(1), -(said.exp() * said).sum(-1))
        torch.testing.assert_close(prediction.top_values_BTHWK[:, t].flatten(1, 2), top.values)
        assert torch.equal(prediction.top_indices_BTHWK[:, t].flatten(1, 2), top.indices)
        torch.testing.assert_close(prediction.codes_BTHWC[:, t].flatten(1, 2), expected)


def test_teacher_forcing_feeds_the_true_grids_and_says_what_it_predicts():
    config = variant(**TWO, steps=1)
    model, batch = build(config), clips(config)
    context, future = split(model, batch)
    masked = torch.zeros_like(batch.tokens_BTHW, dtype=torch.bool)
    masked[:, 3] = True
    out = outputs(model, batch.tokens_BTHW, batch.states_BFA, masked)[1]
    log_p = model.vocabulary.log_probabilities(out.flatten(0, 1)).view(3, 3, 4, 40)
    prediction = model.predict(context, batch.states_BFA, generator=gen(), targets_BTHW=future, teacher_forced=True)
    torch.testing.assert_close(prediction.nll_BTHW[:, 1], -log_p.gather(3, future[:, 1, ..., None])[..., 0])
    assert torch.equal(prediction.tokens_BKTHW[:, 0, 1], log_p.argmax(-1))
    before = batch.tokens_BTHW.clone()
    scores = model.validate(batch, generator=gen())
    assert torch.equal(batch.tokens_BTHW, before)
    torch.testing.assert_close(scores["ce_masked"], prediction.nll_BTHW.mean((1, 2, 3)))
    assert scores["accuracy"].mean() < 0.5 and not torch.allclose(scores["ce_auto"], scores["ce_masked"])


def test_a_temperature_that_is_asked_for_replaces_the_configurations():
    model, batch = build(variant(steps=2)), clips()

    def predict(sampling, temperature=0.0):
        model.config = variant(steps=2, temperature=temperature)
        return model.predict(split(model, batch)[0], batch.states_BFA, generator=gen(), sampling=sampling).tokens_BKTHW

    warm, hot = (predict(Sampling(temperature=temperature)) for temperature in (0.5, 4.0))
    assert torch.equal(warm, predict(None, 0.5)) and not torch.equal(warm, hot) and torch.equal(hot, predict(None, 4.0))
    assert not torch.equal(warm, predict(None))


def test_user_mistakes_are_named():
    model, batch = build(), clips()
    with pytest.raises(ValueError, match="teacher forcing needs"):
        model.predict(batch.tokens_BTHW[:, :2], batch.states_BFA, generator=gen(), teacher_forced=True)
    refused("num_states 9 leaves a grid.*raise it to 17", MaskedHWM, variant(num_states=9))
    refused("divisible by 4", MaskedHWM, variant(width=12))
