"""The benchmarks' plain model and ours are the same function."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.naive_st import NaiveST
from hwm.contracts import Batch
from hwm.model_config import STConfig
from hwm.models.st_transformer import STTransformer

CONFIG = STConfig(vocab_size=50, grid=(3, 4), num_layers=2, num_heads=2, width=16, dropout=0.0, state_hidden=8)


@pytest.mark.parametrize("loss_on", ["future", "all"])
def test_equal_loss_gradients_and_greedy_grids(loss_on):
    config = dataclasses.replace(CONFIG, loss_on=loss_on)
    torch.manual_seed(0)
    ours, plain = STTransformer(config).double(), NaiveST(config).double()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    plain.load_state_dict(ours.state_dict(), strict=True)
    batch = Batch(states_BFA=torch.randn(2, 64, 25), tokens_BTHW=torch.randint(50, (2, 6, 3, 4)))

    our_loss = ours.loss(batch, generator=torch.Generator())["loss"]
    plain_loss = plain.loss(batch.tokens_BTHW, batch.states_BFA)
    torch.testing.assert_close(our_loss, plain_loss)
    our_loss.backward(), plain_loss.backward()
    expected = dict(plain.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, msg=name)

    context = batch.tokens_BTHW[:, :3]
    got = ours.predict(context, batch.states_BFA, generator=torch.Generator()).tokens_BKTHW[:, 0]
    assert torch.equal(got, plain.generate(context, batch.states_BFA))
