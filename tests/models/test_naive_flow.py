"""The benchmarks' plain Flow-HWM and ours are the same function, in every variant."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.naive_flow import NaiveFlow
from hwm.contracts import Batch
from hwm.model_config import FlowConfig
from hwm.models.flow import FlowHWM

CONFIG = FlowConfig(channels=3, grid=(4, 6), num_layers=3, num_heads=2, width=16, unshared_blocks=1, steps=3)
SPLIT = dataclasses.replace(CONFIG, attention="split", sharing="modality", unshared_blocks=0)


@pytest.mark.parametrize("context_sees", ["all", "context"])
@pytest.mark.parametrize("config", [
    CONFIG, dataclasses.replace(CONFIG, sharing="modality", qk_norm=False),
    dataclasses.replace(CONFIG, sharing="full", guidance=1.0), SPLIT, dataclasses.replace(CONFIG, state_modulation=True),
    dataclasses.replace(SPLIT, state_modulation=True)
], ids=["base", "modality", "full", "split", "base-states", "split-states"])
def test_equal_loss_gradients_and_samples(config, context_sees):
    torch.manual_seed(0)
    ours = FlowHWM(dataclasses.replace(config, context_sees=context_sees)).double()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    ours.set_latent_statistics(torch.randn(3), torch.rand(3) + 0.5)
    ours.set_state_statistics(torch.rand(2, 25) + 0.5)
    plain = NaiveFlow(ours)
    batch = Batch(states_BFA=torch.randn(3, 17, 25).double(), latents_BTCHW=torch.randn(3, 3, 3, 4, 6).double())

    our_loss = ours.loss(batch, generator=torch.Generator().manual_seed(1))["loss"]
    plain_loss = plain.loss(batch, torch.Generator().manual_seed(1))
    torch.testing.assert_close(our_loss, plain_loss)
    our_loss.backward(), plain_loss.backward()
    expected = dict(plain.weights.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, msg=name)

    context, generators = batch.latents_BTCHW[:, :2], [torch.Generator().manual_seed(2) for _ in range(2)]
    got = ours.predict(context, batch.states_BFA, generator=generators[0]).latents_BKTCHW[:, 0]
    torch.testing.assert_close(got, plain.generate(context, batch.states_BFA, generators[1]))
