"""Flow-HWM: sizes, what reacts to what, training terms, prediction."""

import dataclasses

import pytest
import torch
from refusing import refused
from seeds import gen

from hwm.contracts import Batch, Sampling
from hwm.model_config import FlowConfig
from hwm.models.flow import PLAIN, FlowHWM
from hwm.nn import flow_matching as flow
from hwm.nn.units import Units

TINY = FlowConfig(channels=3, grid=(4, 6), num_layers=2, num_heads=2, width=16, unshared_blocks=1, steps=4)
SPLIT = dataclasses.replace(TINY, attention="split", sharing="modality", unshared_blocks=0)
CONTEXT = dataclasses.replace(TINY, context_sees="context")
VARIANTS = {
    "base": TINY, "full": dataclasses.replace(TINY, sharing="full"), "split": SPLIT, "context": CONTEXT,
    "split-context": dataclasses.replace(SPLIT, context_sees="context"),
    "placed": dataclasses.replace(TINY, place_context=True, state_changes=True),
    "placed-context": dataclasses.replace(CONTEXT, place_context=True, state_changes=True)
}
LONG = {"context_grids": 2, "future_grids": 4, "num_states": 34}
"""Two blocks: the future is the last grid of the first one and all of the second one."""


def build(config=TINY, *, std=0.3):
    torch.manual_seed(0)
    model = FlowHWM(config).double()
    if std:
        for name, parameter in model.named_parameters():
            if "step_size" not in name:
                torch.nn.init.normal_(parameter, std=std)
    return model


def clips(config=TINY, num=3, seed=7):
    grids = config.context_grids + config.future_grids
    latents = torch.randn(num, grids, config.channels, *config.grid, generator=gen(seed), dtype=torch.float64)
    return Batch(
        states_BFA=torch.randn(num, config.num_states, 25, generator=gen(seed + 1), dtype=torch.float64), latents_BTCHW=latents
    )


def split(batch, config=TINY):
    return batch.latents_BTCHW[:, : config.context_grids], batch.latents_BTCHW[:, config.context_grids :]


def predict(model, batch, **options):
    context, _ = split(batch, model.config)
    return model.predict(context, batch.states_BFA, generator=gen(), **options).latents_BKTCHW


def velocity(model, batch, *, times=0.4, level=PLAIN):
    context, future = split(batch, model.config)
    times_BT = torch.as_tensor(times, dtype=torch.float64).expand(len(future), -1 if torch.is_tensor(times) else 1)
    levels_B = torch.full((len(future),), level)
    return model.network(future, context, batch.states_BFA, times_BT=times_BT, levels_B=levels_B)


# Sizes


@pytest.mark.parametrize("billions, blocks, options", [
    (1.361, 15 * 69 - 24, {}), (0.886, 4 * 69 + 11 * 35 - 8, {"sharing": "modality"}),
    (0.648, 4 * 69 + 11 * 18, {"sharing": "full"}),
    (0.944, 15 * 47 - 8, {"attention": "split", "sharing": "modality", "unshared_blocks": 0})
])
def test_published_sizes(billions, blocks, options):
    with torch.device("meta"):
        model = FlowHWM(FlowConfig(**options))
    total = sum(p.numel() for p in model.parameters())
    assert abs(total / 1e9 / billions - 1) < 1e-3
    matrices = sum(p.numel() for p in model.network.blocks.parameters() if p.ndim == 2)
    assert matrices == blocks * 1152**2


# What reacts to what


@pytest.mark.parametrize("name", VARIANTS)
def test_the_future_reacts_to_every_action_every_past_grid_the_time_and_itself(name):
    model, batch = build(VARIANTS[name]), clips(num=1)
    before = velocity(model, batch)
    assert not torch.allclose(velocity(model, batch, times=0.5), before)
    for frame in range(17):
        states = batch.states_BFA.clone()
        states[:, frame] += 1
        assert ((velocity(model, dataclasses.replace(batch, states_BFA=states)) - before).abs() > 1e-9).all(), frame
    for grid in range(3):
        latents = batch.latents_BTCHW.clone()
        latents[:, grid, 1, 2, 3] += 1
        assert ((velocity(model, dataclasses.replace(batch, latents_BTCHW=latents)) - before).abs() > 1e-9).all(), grid


def test_a_fresh_model_knows_neither_time_nor_states_and_its_output_is_not_zero():
    model, batch = build(std=0), clips()
    v = velocity(model, batch)
    assert v.std() > 0.1
    assert torch.equal(v, velocity(model, batch, times=0.9))
    assert torch.equal(v, velocity(model, dataclasses.replace(batch, states_BFA=batch.states_BFA + 1)))


def test_state_modulation_reaches_the_grid_of_the_frames_without_attention():
    config = dataclasses.replace(TINY, state_modulation=True, **LONG)
    model, batch = build(config), clips(config, num=1)
    assert model.network.pooling_TF.sum(1).tolist() == [1.0] * 4
    pooled = model.network.pool_actions(model.network.embed(split(batch, config)[0], batch.states_BFA))
    embedded = model.network.actions(batch.states_BFA)
    for grid, (first, end) in enumerate([(9, 17), (17, 18), (18, 26), (26, 34)]):
        torch.testing.assert_close(pooled[:, grid], embedded[:, first:end].mean(1))
    fresh = build(config, std=0)
    assert fresh.network.state_condition.weight.abs().sum() == 0


@pytest.mark.parametrize("name", VARIANTS)
def test_grids_take_their_own_times(name):
    config = dataclasses.replace(VARIANTS[name], time_per_grid=True, **LONG)
    model, batch = build(config), clips(config, num=2)
    one = velocity(model, batch)
    torch.testing.assert_close(velocity(model, batch, times=torch.full((1, 4), 0.4)), one)
    later = velocity(model, batch, times=torch.tensor([[0.4, 0.4, 0.4, 0.9]]))
    moved = (later - one).abs().mean((0, 2, 3, 4))
    assert moved[3] == moved.max() and moved[3] > 0


# Training


def recorded(model):
    """Arguments of every pass through the network."""
    calls = []
    hook = lambda module, args, kwargs: calls.append((*args, kwargs["times_BT"], kwargs["levels_B"]))  # noqa: E731
    model.network.register_forward_pre_hook(hook, with_kwargs=True)
    return calls


def recorded_rows(module):
    """Rows of every batch that passes through a layer."""
    rows = []
    module.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    return rows


def test_conditions_are_dropped_together_at_their_rate():
    model, batch = build(dataclasses.replace(TINY, condition_dropout=0.3)), clips(num=400)
    calls = recorded(model)
    model.loss(batch, generator=gen())
    (_, past, states, _, _) = calls[0]
    context = (past == 0).flatten(1).all(1)
    assert torch.equal(context, (states == 0).flatten(1).all(1))
    assert torch.equal(past[~context], split(batch)[0][~context]) and torch.equal(states[~context], batch.states_BFA[~context])
    assert 0.23 < context.double().mean() < 0.37


@pytest.mark.parametrize("distribution", ["uniform", "logit_normal"])
@pytest.mark.parametrize("per_grid", [False, True])
def test_times_are_drawn_as_configured(distribution, per_grid):
    config = dataclasses.replace(TINY, time_sampling=distribution, time_per_grid=per_grid, **LONG)
    model = build(config)
    calls = recorded(model)
    model.loss(clips(config, num=300), generator=gen())
    times = calls[0][3]
    assert times.shape == (300, 4 if per_grid else 1)
    assert abs(times.var() - (1 / 12 if distribution == "uniform" else 0.0433)) < 0.012


def train(model, batch_of, *, steps, lr):
    """AdamW with a linear decay; batch_of() gives the next batch."""
    adam, generator = torch.optim.AdamW(model.parameters(), fused=True), gen()
    for step in range(steps):
        adam.param_groups[0]["lr"] = lr * (1 - step / steps)
        model.loss(batch_of(), generator=generator)["loss"].backward()
        adam.step()
        adam.zero_grad()


def test_one_clip_is_learned_by_heart():
    config = dataclasses.replace(TINY, num_layers=1, width=48, time_sampling="uniform", steps=20)
    torch.manual_seed(0)
    model = FlowHWM(dataclasses.replace(config, condition_dropout=0.0, guidance=1.0))
    batch = clips(num=1)
    batch = Batch(states_BFA=batch.states_BFA.float(), latents_BTCHW=5 + 3 * batch.latents_BTCHW.float())
    context, future = split(batch)
    model.set_latent_statistics(torch.full((3,), 5.0), torch.full((3,), 3.0))
    repeated = Batch(states_BFA=batch.states_BFA.expand(8, -1, -1), latents_BTCHW=batch.latents_BTCHW.expand(8, -1, -1, -1, -1))
    before = model.validate(batch, generator=gen())
    train(model, lambda: repeated, steps=150, lr=6e-3)
    after = model.validate(batch, generator=gen())
    assert after["flow_mse"] < 0.15 * before["flow_mse"]
    assert after["latent_mse"] < 0.25 * after["latent_mse_copy"]
    samples = model.predict(context, batch.states_BFA, generator=gen(), num_samples=4).latents_BKTCHW
    assert (samples - future[:, None]).square().mean() < 0.1 * (context[:, -1:] - future).square().mean()


# Shortcuts


def test_a_shortcut_batch_learns_both_and_names_both():
    config = dataclasses.replace(TINY, shortcut=0.25, guidance=1.0)
    model, batch = build(config), clips(num=8)
    calls = recorded(model)
    terms = model.loss(batch, generator=gen())
    torch.testing.assert_close(terms["loss"], 0.75 * terms["flow_mse"] + 0.25 * terms["shortcut_mse"])
    x, _, _, times, levels = calls[-1]
    assert (levels[2:] == PLAIN).all() and (levels[:2] < PLAIN).all()
    (first, *_, t_1, half), (second, *_, t_2, _) = calls[:2]
    assert len(calls) == 3 and torch.equal(first, x[:2]) and torch.equal(half, levels[:2] + 1)
    torch.testing.assert_close(t_2 - t_1, 0.5 ** half.double()[:, None])
    torch.testing.assert_close(t_1, times[:2])
    assert not torch.equal(second, first)
    refused("at least 2 clips", model.loss, clips(num=1), generator=gen())


def test_shortcut_targets_are_two_steps_of_the_model_and_no_gradient_flows_through_them():
    config = dataclasses.replace(TINY, shortcut=0.5)
    model, batch = build(config), clips(num=2)
    torch.nn.init.normal_(model.network.step_size.weight)
    (context, x), states = split(batch), batch.states_BFA
    times, levels = torch.tensor([[0.25], [0.5]], dtype=torch.float64), torch.tensor([2, 6])
    got = model._shortcut_target(x, context, states, times, levels)
    assert not got.requires_grad

    def v(x, times, i, level, keep=1):
        row = slice(i, i + 1)
        times = torch.full((1, 1), times, dtype=torch.float64)
        return model.network(x, keep * context[row], keep * states[row], times_BT=times, levels_B=torch.tensor([level]))

    first = v(x[:1], 0.25, 0, 3)
    torch.testing.assert_close(got[:1], (first + v(x[:1] + first / 8, 0.375, 0, 3)) / 2)

    def guided(x, times):  # the smallest steps are plain and guided
        return flow.guide(v(x, times, 1, PLAIN), v(x, times, 1, PLAIN, keep=0), config.guidance)

    first = guided(x[1:], 0.5)
    torch.testing.assert_close(got[1:], (first + guided(x[1:] + first / 128, 0.5 + 1 / 128)) / 2)


def test_prediction_names_its_step_size_and_a_plain_model_does_not_know_it():
    model, batch = build(dataclasses.replace(TINY, num_layers=1, shortcut=0.5)), clips(num=1)
    outputs = {}
    for steps in (4, 128):
        model.config = dataclasses.replace(model.config, steps=steps)
        outputs[steps] = predict(model, batch)
    torch.nn.init.normal_(model.network.step_size.weight[2])
    assert torch.equal(predict(model, batch), outputs[128]), "from 128 steps on it is the plain flow"
    model.config = dataclasses.replace(model.config, steps=4)
    assert not torch.allclose(predict(model, batch), outputs[4])
    assert build().network.step_size is None


# Prediction


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("options", [{}, {"state_modulation": True}, {"solver": "heun"}, LONG], ids=str)
def test_prediction_is_the_solver_over_the_network(name, options):
    """Tables of modulation, memories and guidance in one pass change nothing."""
    config = dataclasses.replace(VARIANTS[name], temperature=0.7, **options)
    model, batch = build(config), clips(config)
    model.set_latent_statistics(torch.randn(3), torch.rand(3) + 0.5)
    got = predict(model, batch, num_samples=2)
    past = model.units.latents(split(batch, config)[0])
    noise = 0.7 * torch.randn(3, 2, config.future_grids, 3, 4, 6, generator=gen()).double()
    for k in range(2):

        def v(x, step, level):
            times, levels = torch.full((3, 1), step / 4), torch.full((3,), PLAIN)
            pair = [model.network(x, keep * past, keep * batch.states_BFA, times_BT=times, levels_B=levels) for keep in (1, 0)]
            return flow.guide(*pair, config.guidance)

        data = flow.SOLVERS[config.solver](v, noise[:, k], flow.Steps(4))
        torch.testing.assert_close(got[:, k], model.units.raw(data))


def test_without_guidance_the_unconditional_twin_is_not_run():
    model, batch = build(dataclasses.replace(TINY, guidance=1.0)), clips()
    rows = recorded_rows(model.network.final)
    unguided = predict(model, batch)
    model.config = dataclasses.replace(model.config, guidance=1.0 + 1e-12)
    torch.testing.assert_close(predict(model, batch), unguided)
    assert rows == [3] * 4 + [6] * 4


def test_the_context_is_computed_once_where_it_sees_only_itself():
    for config, runs in ((CONTEXT, 1), (TINY, 4)):
        model, batch = build(dataclasses.replace(config, guidance=1.0)), clips()
        rows = recorded_rows(model.network.blocks[0].qkv.of(0))
        predict(model, batch, num_samples=2)
        assert rows == [3 if runs == 1 else 6] * runs


# Mistakes


def test_mistakes_are_named():
    refused("num_states must be 17", FlowHWM, dataclasses.replace(TINY, num_states=16))
    refused("euler", dataclasses.replace, TINY, shortcut=0.2, solver="heun")
    model, batch = build(), clips()
    refused("temperature alone", predict, model, batch, sampling=Sampling(top_k=3))
    refused("shape", model.set_latent_statistics, torch.zeros(4), torch.ones(4))
    refused("positive", model.set_latent_statistics, torch.zeros(3), torch.zeros(3))
    refused("shape", model.set_state_statistics, torch.zeros(2, 24))


def test_a_channel_that_hardly_varies_is_not_blown_up():
    units = Units(channels=4, state_dim=25)
    std = torch.tensor([0.5, 0.6, 5e-4, 0.4])
    units.set_latents(torch.zeros(4), std)
    torch.testing.assert_close(units.std_C, torch.tensor([0.5, 0.6, 0.04, 0.4]))


def test_a_network_that_gives_the_data_samples_it_in_one_step():
    model = build(dataclasses.replace(TINY, output="data", steps=1, guidance=1.0, temperature=1.0, sigma_min=0.0))
    batch = clips()
    past, _ = split(batch)
    noise = torch.randn(3, 1, 1, 3, 4, 6, generator=gen(), dtype=torch.float32).double()[:, 0]
    states = batch.states_BFA
    output = model.network(noise, past, states, times_BT=torch.zeros(3, 1).double(), levels_B=torch.full((3,), PLAIN))
    torch.testing.assert_close(predict(model, batch)[:, 0], output, atol=1e-6, rtol=1e-6)


def test_the_loss_of_a_network_that_gives_the_data_is_its_error():
    config = dataclasses.replace(TINY, output="data", condition_dropout=0.0, guidance=1.0, sigma_min=0.0)
    model, batch = build(config), clips()
    seen = []

    def watch(_, inputs, kwargs, output):
        seen.append((kwargs["times_BT"], output))

    model.network.register_forward_hook(watch, with_kwargs=True)
    loss = model.loss(batch, generator=gen(5))["loss"]
    ((times, output),) = seen
    assert (times < 0.95).all()  # above, the weight of late times is bounded
    torch.testing.assert_close(loss, (output - split(batch)[1]).square().mean())


def test_temperature_zero_is_one_plain_step_from_the_centre_whatever_the_steps():
    config = dataclasses.replace(TINY, guidance=1.0, shortcut=0.25, steps=8)
    model, batch = build(config), clips()
    past, _ = split(batch)
    centre = torch.zeros(3, 1, 3, 4, 6).double()
    level = torch.full((3,), PLAIN)
    mean = model.network(centre, past, batch.states_BFA, times_BT=torch.zeros(3, 1).double(), levels_B=level)
    found = predict(model, batch, num_samples=2, sampling=Sampling(temperature=0.0))
    torch.testing.assert_close(found, mean[:, None].expand_as(found), atol=1e-6, rtol=1e-6)


def test_a_temperature_that_is_asked_for_replaces_the_configurations():
    model, batch = build(), clips()
    half = predict(model, batch, sampling=Sampling(temperature=0.5))
    model.config = dataclasses.replace(TINY, temperature=0.5)
    assert torch.equal(half, predict(model, batch))


def test_validation_compares_with_copying_in_normal_units():
    model, batch = build(), clips()
    model.set_latent_statistics(torch.zeros(3), torch.full((3,), 2.0))
    scores, (context, future) = model.validate(batch, generator=gen(1)), split(batch)
    torch.testing.assert_close(scores["latent_mse_copy"], (context[:, -1:] - future).square().mean((1, 2, 3, 4)) / 4)
