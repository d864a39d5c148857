"""The Wan world model: tiny, with the real classes of diffusers and peft."""

from dataclasses import replace

import pytest
import torch
from refusing import refused
from seeds import gen

pytest.importorskip("diffusers")
pytest.importorskip("peft")

from benchmarks.naive_wan import scheduler
from hwm.config import RunConfig
from hwm.contracts import Batch, Sampling
from hwm.model_config import WanConfig
from hwm.models.build import build_model
from hwm.models.wan.model import WanWorldModel
from hwm.models.wan.transformer import StateConditionedWan
from hwm.recipes import recipe

TINY = WanConfig(
    base="", channels=4, grid=(4, 4), num_layers=2, num_heads=2, head_width=16, mlp_width=32, time_width=32, text_width=8,
    text_rows=3, lora_rank=0, steps=4
)
OURS = {"state_changes": True, "place_context": True, "output": "data"}


def model(config=TINY, **changes) -> WanWorldModel:
    return build_model(RunConfig(model=replace(config, **changes)))


def awake(net: WanWorldModel) -> WanWorldModel:
    """With states that matter, as after training."""
    torch.manual_seed(5)
    torch.nn.init.normal_(net.states.out.weight, std=0.3)
    return net


def clips(num=3, seed=0) -> Batch:
    torch.manual_seed(seed)
    return Batch(states_BFA=torch.randn(num, 77, 25), latents_BTCHW=torch.randn(num, 6, 4, 4, 4))


def generators(num) -> list[torch.Generator]:
    return [gen(i) for i in range(num)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A saved transformer, as a pretrained one lies on disk."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(3)
    net = model().transformer
    net.save_pretrained(folder / "transformer")
    return folder


def adapted(base, **changes) -> WanWorldModel:
    return model(base=str(base), lora_rank=2, **{"text": "zeros", **changes})


def test_published_sizes_on_the_meta_device():
    """Reference wan 4: transformer 4 999 787 712, adapter 80.6 M, state encoder 5.1 M parameters."""
    with torch.device("meta"):
        net = build_model(recipe("wan-revontuli"))
    lora = sum(p.numel() for n, p in net.transformer.named_parameters() if ".lora_" in n)
    assert sum(p.numel() for p in net.transformer.parameters()) - lora == 4_999_787_712
    assert lora == pytest.approx(80.6e6, rel=1e-3)
    assert sum(p.numel() for p in net.states.parameters()) == pytest.approx(5.14e6, rel=0.03)
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == lora + sum(p.numel() for p in net.states.parameters())


def test_at_step_zero_it_equals_its_base_exactly(base):
    """Zero-initialised states and adapter: the network's output is the pretrained one's to the bit."""
    net, batch = adapted(base).eval(), clips()
    plain = StateConditionedWan.from_pretrained(base / "transformer").eval()
    past, future = batch.latents_BTCHW[:, :2], batch.latents_BTCHW[:, 2:]
    sigma = torch.tensor([0.3, 0.7, 1.0])
    timestep = (1000 * sigma[:, None] * torch.tensor([0, 0, 1.0, 1, 1, 1])).repeat_interleave(4, 1)
    with torch.no_grad():
        ours = net._network(future, past, sigma, net.states(net._rows(batch.states_BFA)))
        theirs = plain(batch.latents_BTCHW.transpose(1, 2), timestep, torch.zeros(3, 3, 8), return_dict=False)[0]
    assert torch.equal(ours, theirs.transpose(1, 2)[:, 2:])


@pytest.mark.parametrize("changes", [{}, OURS])
@pytest.mark.parametrize("solver", ["euler", "unipc"])
def test_sampling_equals_a_loop_that_puts_the_context_back_after_every_step(changes, solver):
    """Written as pipelines do it: the context is part of x, and is restored when the scheduler has moved it."""
    net, batch = awake(model(solver=solver, **changes)).eval(), clips(2)
    context = batch.latents_BTCHW[:, :2]
    noise = torch.randn(2, 4, 4, 4, 4, generator=gen(9))
    steps = scheduler(solver, num_steps=4, shift=5.0)
    x = torch.cat([context, noise], 1)
    with torch.no_grad():
        modulation = net.states(net._rows(batch.states_BFA))
        for step, sigma in zip(steps.timesteps, steps.sigmas.tolist()):
            velocity = -net._velocity(x[:, 2:], x[:, :2], sigma, modulation)
            x = steps.step(torch.cat([torch.ones_like(context), velocity], 1), step, x, return_dict=False)[0]
            x[:, :2] = context
    found = net.predict(context, batch.states_BFA, generator=gen(9)).latents_BKTCHW
    assert torch.allclose(found[:, 0], x[:, 2:], atol=1e-5)


def test_context_has_timestep_zero_and_stays_clean_and_timesteps_are_float32(base):
    net, seen = adapted(base, dtype="bfloat16"), []
    net.transformer.register_forward_pre_hook(lambda m, args, kwargs: seen.append((args, kwargs)), with_kwargs=True)
    batch = clips()
    net.loss(batch, generator=gen())
    (cells, timestep, _), _ = seen[0]
    assert timestep.dtype == torch.float32 and not timestep[:, :8].any() and (timestep[:, 8:] > 0).all()
    assert torch.equal(cells[:, :, :2].transpose(1, 2), batch.latents_BTCHW[:, :2].bfloat16())
    assert net.transformer.dtype == torch.bfloat16 and net.states.out.weight.dtype == torch.float32


def test_samples_do_not_depend_on_the_batch():
    net, batch = awake(model()).eval(), clips(3)
    context, states = batch.latents_BTCHW[:, :2], batch.states_BFA
    together = net.predict(context, states, generator=generators(6), num_samples=2).latents_BKTCHW
    for clip in range(3):
        for k in range(2):
            alone = net.predict(context[clip : clip + 1], states[clip : clip + 1], generator=[gen(2 * clip + k)])
            assert torch.allclose(alone.latents_BKTCHW[0, 0], together[clip, k], atol=1e-5)
    assert not torch.allclose(together[:, 0], together[:, 1], atol=1e-2)
    refused("generators", net.predict, context, states, generator=generators(2), num_samples=2)


def test_temperature_zero_is_one_mean_for_all_samples():
    net, batch = awake(model()).eval(), clips(2)
    mean = net.predict(
        batch.latents_BTCHW[:, :2], batch.states_BFA, generator=gen(), num_samples=3, sampling=Sampling(temperature=0)
    ).latents_BKTCHW
    assert torch.equal(mean[:, 0], mean[:, 2])
    scores = net.validate(batch, generator=gen())
    error = (mean[:, 0] - batch.latents_BTCHW[:, 2:]).square().mean((1, 2, 3, 4))
    assert torch.allclose(scores["latent_mse"], error, atol=1e-5)
    with pytest.raises(ValueError, match="temperature"):
        net.predict(batch.latents_BTCHW[:, :2], batch.states_BFA, generator=gen(), sampling=Sampling(top_k=3))


def test_guidance_moves_away_from_the_null_state():
    net, batch = awake(model(steps=1)).eval(), clips(2)
    context, states = batch.latents_BTCHW[:, :2], batch.states_BFA

    def at(scale):
        net.config = replace(net.config, guidance=scale)
        return net.predict(context, states, generator=generators(2)).latents_BKTCHW

    without, one, two = at(0.0), at(1.0), at(2.0)
    assert torch.allclose(two - one, one - without, atol=1e-4) and not torch.allclose(one, two, atol=1e-3)
    refused("condition_dropout", replace, TINY, guidance=2.0, condition_dropout=0.0)


def test_states_of_every_frame_range_matter_and_stacked_states_see_between_frames():
    batch = clips(1)
    between = batch.states_BFA.clone()
    between[:, 22] += 1  # frame 22 lies between the kept frames 20 and 24
    for sampling, sees in (("downsample", False), ("stack", True)):
        net = awake(model(state_sampling=sampling)).eval()
        a, b = (net.states(net._rows(s)) for s in (batch.states_BFA, between))
        assert torch.equal(a, b) != sees
    refused("77 state rows", net.predict, batch.latents_BTCHW[:, :2], batch.states_BFA[:, :76], generator=gen())


@pytest.mark.parametrize(
    "changes", [{}, OURS, {"state_injection": "pre", "time_sampling": "logit_normal"}]
)
def test_it_learns_one_clip(changes):
    net, batch = model(condition_dropout=0.0, **changes), clips(1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    before = net.validate(batch, generator=gen())["latent_mse"]
    for step in range(80):
        optimizer.zero_grad()
        net.loss(batch, generator=gen(step))["loss"].backward()
        optimizer.step()
    after = net.validate(batch, generator=gen())["latent_mse"]
    assert after < 0.7 * before
    assert all(p.grad is not None for p in net.parameters())


def test_only_adapter_and_states_are_saved_and_loading_proves_it(base):
    net = adapted(base)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    net.set_state_statistics(torch.stack([torch.ones(25), torch.full((25,), 2.0)]))
    state = net.state_dict()
    assert all(".lora_" in k or k.startswith(("states.", "units.")) or k == "base_digest" for k in state)
    assert sum(".lora_" in k for k in state) == 2 * 10 * TINY.num_layers
    again = adapted(base)
    again.load_state_dict(state)
    batch = clips()
    assert torch.equal(net.loss(batch, generator=gen())["loss"], again.loss(batch, generator=gen())["loss"])
    with pytest.raises(RuntimeError, match="lora_A"):
        again.load_state_dict({k: v for k, v in state.items() if "lora_A" not in k})


def test_an_adapter_of_another_base_is_refused(base, tmp_path):
    torch.manual_seed(8)
    model(steps=5).transformer.save_pretrained(tmp_path / "transformer")
    other = StateConditionedWan.from_pretrained(tmp_path / "transformer")
    with torch.no_grad():
        other.blocks[1].attn2.to_v.weight.add_(0.1)
    other.save_pretrained(tmp_path / "transformer")
    with pytest.raises(ValueError, match="another base"):
        adapted(tmp_path).load_state_dict(adapted(base).state_dict())


def test_a_base_of_other_sizes_is_refused_early(base):
    refused("num_layers is 2", adapted, base, num_layers=3)
    refused("no Wan transformer", adapted, "/nowhere/at/all")


def test_a_pretrained_base_is_not_given_another_text_in_silence(base):
    refused("hwm text-embedding", adapted, base, text="")
    assert not adapted(base).text_1RD.any() and not model().text_1RD.any()


def test_a_pretrained_base_keeps_its_units(base):
    net = adapted(base)
    net.set_latent_statistics(torch.full((4,), 0.3), torch.full((4,), 0.9))
    assert torch.equal(net.units.std_C, torch.ones(4))
    refused("own autoencoder", net.set_latent_statistics, torch.zeros(4), torch.full((4,), 17.0))


def test_the_whole_transformer_learns_without_an_adapter(base):
    net = adapted(base).config
    whole = model(net, lora_rank=0)
    assert all(p.requires_grad for p in whole.parameters())
    assert any(k.startswith("transformer.blocks") for k in whole.state_dict())


def test_predictions_ignore_what_the_network_says_about_the_context():
    """Gradients of the loss with respect to the context's output rows are zero: they are cut off before it."""
    net, batch = model(), clips()
    outputs = []
    net.transformer.register_forward_hook(lambda m, i, o: (o[0].retain_grad(), outputs.append(o[0]))[0])
    net.loss(batch, generator=gen())["loss"].backward()
    assert not outputs[0].grad[:, :, :2].any() and outputs[0].grad[:, :, 2:].any()


def test_float32_islands_are_not_to_be_flattened(base):
    """`.to(bfloat16)` takes them along with no more than a log line (reference wan 6), and autocast does likewise."""
    net, batch = adapted(base).to(torch.bfloat16), clips(1)
    refused("by device only", net.loss, batch, generator=gen())
    config = recipe("wan-one-gpu")
    refused(r"model\.dtype", replace, config, train=replace(config.train, precision="bfloat16"))
