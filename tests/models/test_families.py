"""What every family promises, on a tiny model of each and of its options."""

from dataclasses import replace

import pytest
import torch
from families import FAMILIES, FLOW, MASKED, WAN, batch_of, build, gen
from refusing import refused

from hwm.config import RunConfig, TrainConfig
from hwm.contracts import Sampling
from hwm.models.build import build_model
from hwm.training.optim import optimizer_of

OURS = {"state_changes": True}
LATENTS = OURS | {"place_context": True, "output": "data"}
ALL = FAMILIES | {
    "st-modulated": replace(FAMILIES["st-sampled"], state_injection="modulate", qk_norm=False, qkv_bias=False),
    "st-full": replace(FAMILIES["st-sampled"], attention="full", own_grids=1, max_corruption=0.2),
    "masked-ours": replace(MASKED, **OURS, factors=(8, 8), state_modulation=True, code_loss=3.0, remask="confidence", steps=3),
    "masked-two": replace(MASKED, future_grids=2, num_states=18, visibility="full", sharing="modality"),
    "flow-ours": replace(FLOW, **LATENTS, state_modulation=True, condition_dropout=0.05, guidance=1.0),
    "flow-shortcut": replace(FLOW, shortcut=0.5),
    "wan-ours": replace(WAN, **LATENTS, dropout=0.2, solver="unipc"),
}
ALL.pop("wan-lora", None)
WORLD = [name for name, config in ALL.items() if config.role == "world model"]
DRAWING = [name for name in WORLD if ALL[name].kind != "video"]
FURTHER = {
    "flow-full": replace(FLOW, sharing="full"), "flow-split-context": replace(FAMILIES["flow-split"], context_sees="context"),
    "flow-context-ours": replace(FLOW, context_sees="context", place_context=True, **OURS)
}
"""Options of which only the weights are looked at."""


def config_of(name):
    config = (ALL | FURTHER)[name]
    if config.needs:
        pytest.importorskip("diffusers")
        pytest.importorskip("peft")
    return config


def grids(batch):
    return next(x for x in (batch.tokens_BTHW, batch.latents_BTCHW, batch.video_BFHWC) if x is not None)


def predict(model, batch, seed=2, **options):
    found = model.predict(grids(batch)[:, : model.context_grids], batch.states_BFA, generator=gen(seed), **options)
    return next(x for x in (found.tokens_BKTHW, found.latents_BKTCHW, found.video_BKFHWC) if x is not None)


@pytest.mark.parametrize("name", ALL)
def test_the_seed_makes_the_weights_and_nothing_else_moves(name):
    config, before = config_of(name), torch.get_rng_state()
    first, same, other = (build_model(RunConfig(model=config, seed=seed)).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", ALL)
def test_the_first_loss_is_that_of_chance(name):
    config = config_of(name)
    model, batch = build_model(RunConfig(model=config)), config.example(16, generator=gen(3), image_size=8)
    found = list(model.loss(batch, generator=gen(4)).values())[1].item()
    assert model.first_loss(batch) == pytest.approx(found, rel=0.35 if config.kind == "latents" else 0.15)


@pytest.mark.parametrize("name", [*ALL, *FURTHER])
def test_every_parameter_learns_but_those_named_idle(name):
    config = config_of(name)
    model, named = build(config), {}
    for seed in range(8):  # some clips lose their states
        model.loss(batch_of(config, seed), generator=gen(seed))["loss"].backward()
    named = dict(model.named_parameters())
    still = {key for key, parameter in named.items() if parameter.grad is None or not parameter.grad.any()}
    assert still <= set(model.idle_parameters()) <= set(named) and not (name.startswith("flow") and still)
    reading = model.state_parameters()
    assert all(named[key] is parameter for key, parameter in reading) and bool(reading) == (config.role == "world model")


@pytest.mark.parametrize("name", ALL)
def test_adamw_is_given_every_parameter_once_and_decays_matrices_only(name):
    model = build_model(RunConfig(model=config_of(name)))
    names = {id(p): key for key, p in model.named_parameters() if p.requires_grad}
    groups = optimizer_of(model, TrainConfig(weight_decay=0.1), device=torch.device("cpu")).param_groups
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(names)
    assert {group["weight_decay"] for group in groups} == {0.0, 0.1}
    decayed = {names[id(p)]: p for group in groups if group["weight_decay"] for p in group["params"]}
    assert all(p.ndim > 1 for p in decayed.values())
    free = ("norm", "bias", "positions", "mask", "step_size")
    matrices = {key for key, p in model.named_parameters() if p.ndim == 2 and key.endswith("weight") and p.requires_grad}
    assert {key for key in matrices if not any(word in key for word in free)} <= set(decayed)
    assert not [key for key in decayed if any(word in key for word in free)]


MODULATED = {
    "st-modulated": "modulation.linear", "masked-ours": "modulation.linear", "flow-ours": "state_condition",
    "wan": "states.out", "direct": "modulation.linear",
}  # fmt: skip
"""The layer that the modulation by the states comes from, by the end of its name."""


@pytest.mark.parametrize("name", MODULATED)
def test_the_gate_is_a_factor_of_the_modulation_by_the_states(name):
    """A gate of 0 is no modulation, one of 2 is that of weights twice as large; weights start where they are told to."""
    config = replace(config_of(name), state_start=0.3)
    batch, ends = batch_of(config, 5), (f"{MODULATED[name]}.weight", f"{MODULATED[name]}.bias")
    trained = build(config).eval().state_dict()
    weights = {key: value for key, value in trained.items() if key.endswith(ends)}
    assert all(value.std() == pytest.approx(0.3, rel=0.3) for key, value in weights.items() if key.endswith("weight"))
    fresh = build_model(RunConfig(model=config_of(name))).state_dict()
    assert not any(fresh[key].any() for key in weights)

    def predicted(gate, factor):
        model = build(replace(config, state_gate=gate)).eval()
        model.load_state_dict(trained | {key: factor * value for key, value in weights.items()})
        return predict(model, batch).double()

    own = predicted(1.0, 1)
    for gate in (0.0, 2.0):
        assert torch.allclose(predicted(gate, 1), predicted(1.0, gate), atol=1e-5) and not torch.equal(predicted(gate, 1), own)


def test_a_gate_without_a_modulation_is_refused():
    refused('state_gate and .* set model.state_injection="modulate"', replace, FAMILIES["st"], state_gate=2.0)
    refused("state_gate and .* set model.state_modulation=true", replace, MASKED, state_start=0.1)
    refused("state_gate and .* set model.state_modulation=true", replace, FLOW, state_gate=0.0)


@pytest.mark.parametrize("name", ALL)
def test_training_draws_from_the_given_generator_alone(name):
    config = config_of(name)
    model, batch = build(replace(config, dropout=0.3) if hasattr(config, "dropout") else config), batch_of(config, 5)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again, other = (model.loss(batch, generator=torch.Generator().manual_seed(s))["loss"].item() for s in (1, 1, 2))
    assert first == again and (first != other) == (name != "fsq")
    assert torch.equal(torch.get_rng_state(), before) and model.training


@pytest.mark.parametrize("name", WORLD)
def test_prediction_and_validation_know_no_dropout_and_repeat(name):
    config = config_of(name)
    model, batch = build(replace(config, dropout=0.5) if hasattr(config, "dropout") else config), batch_of(config, 5)
    trained, scores = predict(model, batch), model.validate(batch, generator=gen(1))
    assert all(part.training for part in model.modules())
    assert set(map(tuple, (score.shape for score in scores.values()))) == {(len(batch),)} and model.validation_key in scores
    model.eval()
    again = model.validate(batch, generator=gen(1))
    assert torch.equal(predict(model, batch), trained) and all(torch.equal(again[key], scores[key]) for key in scores)


@pytest.mark.parametrize("name", WORLD)
def test_clips_of_a_batch_are_predicted_and_scored_by_themselves(name):
    config = config_of(name)
    model, batch = build(config), batch_of(config, 5)
    alone = replace(batch, **{key: value[1:] for key, value in vars(batch).items() if value is not None})
    if getattr(config, "remask", "") != "random":
        both, own = (predict(model, b, sampling=Sampling(temperature=0.0)) for b in (batch, alone))
        torch.testing.assert_close(own, both[1:])
    if config.kind == "tokens":
        scores, own = (model.validate(b, generator=gen(1))[model.validation_key] for b in (batch, alone))
        torch.testing.assert_close(own, scores[1:])


@pytest.mark.parametrize("name", WORLD)
def test_other_states_give_another_score(name):
    config = config_of(name)
    model, batch = build(config), batch_of(config, 5)
    other = replace(batch, states_BFA=batch.states_BFA.roll(1, 0))
    a, b = (model.validate(x, generator=gen(1))[model.validation_key] for x in (batch, other))
    assert (a != b).all()


@pytest.mark.parametrize("name", WORLD)
def test_state_statistics_normalise_and_all_is_saved(name):
    config = config_of(name)
    model, batch = build(config), batch_of(config, 5)
    if config.kind == "latents":
        channels = batch.latents_BTCHW.shape[2]
        model.set_latent_statistics(torch.randn(channels), torch.rand(channels) + 0.5)
    plain = model.validate(batch, generator=gen(1))[model.validation_key]
    shift_scale = torch.stack([torch.linspace(-1, 1, 25), torch.linspace(0.5, 2, 25)])
    model.set_state_statistics(shift_scale)
    undone = replace(batch, states_BFA=batch.states_BFA / shift_scale[1] + shift_scale[0])
    own = model.validate(undone, generator=gen(1))[model.validation_key]
    torch.testing.assert_close(own, plain, rtol=1e-2, atol=1e-3)
    assert torch.equal(model.neutral_state_A, shift_scale[0])
    other = build_model(RunConfig(model=config, seed=9)).train()
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(other.validate(undone, generator=gen(1))[model.validation_key], own)


@pytest.mark.parametrize("name", DRAWING)
def test_samples_differ_and_repeat_from_the_generator(name):
    config = config_of(name)
    model, batch = build(config), batch_of(config, 5)
    forced = [{}]
    sampling = Sampling(temperature=1.0)
    if config.kind == "tokens":
        sampling = Sampling(temperature=1.0, top_k=30, top_p=0.95)
        forced.append({"targets_BTHW": batch.tokens_BTHW[:, model.context_grids :], "teacher_forced": True})
    for options in forced:
        first, again, other = (predict(model, batch, s, num_samples=4, sampling=sampling, **options) for s in (1, 1, 2))
        assert first.shape[:3] == (len(batch), 4, model.future_grids) and torch.equal(first, again)
        assert not torch.equal(first, other) and len({tuple(s.flatten().tolist()) for s in first[0]}) == 4


@pytest.mark.parametrize("name", ALL)
def test_autocast_stays_close_and_gradients_are_float32(name):
    config = config_of(name)
    try:
        config.precision_rule("bfloat16")
    except ValueError:
        return
    model, batch = build_model(RunConfig(model=config)).eval(), batch_of(config, 5)
    exact = model.loss(batch, generator=gen(1))["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(batch, generator=gen(1))["loss"]
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact.item(), rel=0.05)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients)
    if name.startswith(("masked", "flow")):  # halves throughout
        scores, low = (m.validate(batch, generator=gen(1))[model.validation_key] for m in (model, model.bfloat16()))
        torch.testing.assert_close(low.float(), scores, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", DRAWING)
def test_clips_of_another_shape_are_refused(name):
    config = config_of(name)
    model, batch = build(config), batch_of(config, 5)
    refused("the model works on .*got", model.predict, grids(batch), batch.states_BFA, generator=gen(1))
    refused("no tokens|no latents", model.loss, replace(batch, tokens_BTHW=None, latents_BTCHW=None), generator=gen(1))
    refused(f"{config.num_states} state rows", model.loss, replace(batch, states_BFA=batch.states_BFA[:, :9]), generator=gen(1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ALL)
def test_cuda_agrees_with_the_cpu(name):
    config = config_of(name)
    model, batch = build(config), batch_of(config, 5)
    expected = model.validate(batch, generator=gen(1))[model.validation_key]
    model.cuda()
    got = model.validate(batch.to("cuda"), generator=gen(1))[model.validation_key]
    torch.testing.assert_close(got.cpu(), expected, rtol=1e-3, atol=1e-3)
    for made in (gen, lambda seed: torch.Generator("cuda").manual_seed(seed)):
        losses = [model.loss(batch.to("cuda"), generator=made(1))["loss"].item() for _ in range(2)]
        assert losses[0] == losses[1]
