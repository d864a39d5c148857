"""The benchmarks' plain models and ours are the same functions: equal losses, gradients and predictions."""

import dataclasses

import pytest
import torch
from seeds import gen

from benchmarks.naive_flow import NaiveFlow
from benchmarks.naive_masked import NaiveMasked
from benchmarks.naive_st import NaiveST
from hwm.contracts import Batch
from hwm.model_config import FlowConfig, MaskedConfig, STConfig
from hwm.models.flow import FlowHWM
from hwm.models.masked import MaskedHWM
from hwm.models.st_transformer import STTransformer

TINY = {"num_layers": 3, "num_heads": 2, "width": 16}
FLOW = FlowConfig(channels=3, grid=(4, 6), unshared_blocks=1, steps=3, **TINY)
SPLIT = dataclasses.replace(FLOW, attention="split", sharing="modality", unshared_blocks=0)
MASKED = MaskedConfig(vocab_size=50, grid=(3, 4), unshared_blocks=1, dropout=0.0, num_states=18, steps=3, **TINY)
ST = STConfig(vocab_size=50, grid=(3, 4), dropout=0.0, state_hidden=8, **TINY | {"num_layers": 2})


def drawn(model):
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def expect_equal(ours, plain, our_loss, plain_loss):
    torch.testing.assert_close(our_loss, plain_loss)
    our_loss.backward(), plain_loss.backward()
    expected = dict(plain.named_parameters())
    for name, parameter in ours.named_parameters():
        found, wanted = (torch.zeros_like(p) if p.grad is None else p.grad for p in (parameter, expected[name]))
        torch.testing.assert_close(found, wanted, msg=name)


@pytest.mark.parametrize("context_sees", ["all", "context"])
@pytest.mark.parametrize("config", [
    FLOW, dataclasses.replace(FLOW, sharing="modality", qk_norm=False), dataclasses.replace(FLOW, sharing="full", guidance=1.0),
    SPLIT, dataclasses.replace(FLOW, state_modulation=True), dataclasses.replace(SPLIT, state_modulation=True)
], ids=["base", "modality", "full", "split", "base-states", "split-states"])
def test_flow(config, context_sees):
    torch.manual_seed(0)
    ours = drawn(FlowHWM(dataclasses.replace(config, context_sees=context_sees)).double())
    ours.set_latent_statistics(torch.randn(3), torch.rand(3) + 0.5)
    ours.set_state_statistics(torch.rand(2, 25) + 0.5)
    plain = NaiveFlow(ours)
    batch = Batch(states_BFA=torch.randn(3, 17, 25).double(), latents_BTCHW=torch.randn(3, 3, 3, 4, 6).double())
    expect_equal(ours, plain.weights, ours.loss(batch, generator=gen(1))["loss"], plain.loss(batch, gen(1)))
    context = batch.latents_BTCHW[:, :2]
    got = ours.predict(context, batch.states_BFA, generator=gen(2)).latents_BKTCHW[:, 0]
    torch.testing.assert_close(got, plain.generate(context, batch.states_BFA, gen(2)))


@pytest.mark.parametrize("options", [
    {}, {"sharing": "modality", "qk_norm": True}, {"sharing": "full", "context_grids": 2, "future_grids": 2},
    {"visibility": "full", "context_grids": 2, "future_grids": 2}, {"visibility": "released"}
])
def test_masked(options):
    config = dataclasses.replace(MASKED, **options)
    torch.manual_seed(0)
    ours, plain = drawn(MaskedHWM(config).double()), NaiveMasked(config).double()
    plain.load_state_dict(ours.state_dict(), strict=True)
    num_grids = config.context_grids + config.future_grids
    batch = Batch(states_BFA=torch.randn(2, 18, 25), tokens_BTHW=torch.randint(50, (2, num_grids, 3, 4)))
    plain_loss = plain.loss(batch.tokens_BTHW, batch.states_BFA, generator=gen(1))
    expect_equal(ours, plain, ours.loss(batch, generator=gen(1))["loss"], plain_loss)
    context = batch.tokens_BTHW[:, : config.context_grids]
    got = ours.predict(context, batch.states_BFA, generator=gen(2)).tokens_BKTHW[:, 0]
    assert torch.equal(got, plain.generate(context, batch.states_BFA, generator=gen(2)))


@pytest.mark.parametrize("options", [{"loss_on": "future"}, {"loss_on": "all"}, {"qk_norm": False}, {"qkv_bias": False}])
def test_st(options):
    config = dataclasses.replace(ST, **options)
    torch.manual_seed(0)
    ours, plain = drawn(STTransformer(config).double()), NaiveST(config).double()
    plain.load_state_dict(ours.state_dict(), strict=True)
    batch = Batch(states_BFA=torch.randn(2, 64, 25), tokens_BTHW=torch.randint(50, (2, 6, 3, 4)))
    expect_equal(ours, plain, ours.loss(batch, generator=gen())["loss"], plain.loss(batch.tokens_BTHW, batch.states_BFA))
    context = batch.tokens_BTHW[:, :3]
    got = ours.predict(context, batch.states_BFA, generator=gen()).tokens_BKTHW[:, 0]
    assert torch.equal(got, plain.generate(context, batch.states_BFA))


@pytest.mark.parametrize("solver", ["euler", "unipc"])
def test_wan(solver):
    pytest.importorskip("diffusers")
    from benchmarks.wan import TINY, build

    plain, ours, batch = build(dataclasses.replace(TINY, num_layers=2, grid=(4, 4), steps=3, solver=solver), 3)
    loss, again = ours.loss(batch, generator=gen(1))["loss"], plain.loss(batch, gen(1))
    assert again.item() == pytest.approx(loss.item(), rel=1e-5)
    found, wanted = (torch.autograd.grad(x, list(m.transformer.parameters())) for x, m in ((loss, ours), (again, plain)))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, wanted))
    one = dataclasses.replace(batch, states_BFA=batch.states_BFA[:1], latents_BTCHW=batch.latents_BTCHW[:1])
    noise = torch.stack([torch.randn(4, 16, 4, 4, generator=gen(k)) for k in range(3)])
    options = {"generator": [gen(k) for k in range(3)], "num_samples": 3}
    futures = ours.predict(one.latents_BTCHW[:, :2], one.states_BFA, **options).latents_BKTCHW[0]
    assert torch.allclose(futures, plain.ensemble(one, noise), atol=1e-4)
