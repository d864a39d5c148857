"""The plain twin of benchmarks/wan.py computes the same, so the benchmark compares equal work."""

import dataclasses

import pytest
import torch

pytest.importorskip("diffusers")

from benchmarks.wan import TINY, build


@pytest.mark.parametrize("solver", ["euler", "unipc"])
def test_equal_losses_gradients_and_futures(solver):
    config = dataclasses.replace(TINY, num_layers=2, grid=(4, 4), steps=3, solver=solver)
    plain, ours, batch = build(config, 3)
    loss = ours.loss(batch, generator=torch.Generator().manual_seed(1))["loss"]
    again = plain.loss(batch, torch.Generator().manual_seed(1))
    assert again.item() == pytest.approx(loss.item(), rel=1e-5)
    found = torch.autograd.grad(loss, list(ours.transformer.parameters()))
    wanted = torch.autograd.grad(again, list(plain.transformer.parameters()))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, wanted))
    one = dataclasses.replace(batch, states_BFA=batch.states_BFA[:1], latents_BTCHW=batch.latents_BTCHW[:1])
    generators = [torch.Generator().manual_seed(k) for k in range(3)]
    noise = torch.stack([torch.randn(4, 16, 4, 4, generator=g) for g in generators])
    futures = ours.predict(
        one.latents_BTCHW[:, :2], one.states_BFA, generator=[torch.Generator().manual_seed(k) for k in range(3)], num_samples=3
    ).latents_BKTCHW[0]
    assert torch.allclose(futures, plain.ensemble(one, noise), atol=1e-4)
