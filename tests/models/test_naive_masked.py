"""The benchmarks' plain Masked-HWM and ours are the same function."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.naive_masked import NaiveMasked
from hwm.contracts import Batch
from hwm.model_config import MaskedConfig
from hwm.models.masked import MaskedHWM

CONFIG = MaskedConfig(
    vocab_size=50, grid=(3, 4), num_layers=3, num_heads=2, width=16, unshared_blocks=1, dropout=0.0, num_states=18, steps=3
)


@pytest.mark.parametrize("options", [
    {}, {"sharing": "modality", "qk_norm": True}, {"sharing": "full", "context_grids": 2, "future_grids": 2},
    {"visibility": "full", "context_grids": 2, "future_grids": 2}, {"visibility": "released"}
])
def test_equal_loss_gradients_and_greedy_grids(options):
    config = dataclasses.replace(CONFIG, **options)
    torch.manual_seed(0)
    ours, plain = MaskedHWM(config).double(), NaiveMasked(config).double()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    plain.load_state_dict(ours.state_dict(), strict=True)
    num_grids = config.context_grids + config.future_grids
    batch = Batch(states_BFA=torch.randn(2, 18, 25), tokens_BTHW=torch.randint(50, (2, num_grids, 3, 4)))

    our_loss = ours.loss(batch, generator=torch.Generator().manual_seed(1))["loss"]
    plain_loss = plain.loss(batch.tokens_BTHW, batch.states_BFA, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(our_loss, plain_loss)
    our_loss.backward(), plain_loss.backward()
    expected = dict(plain.named_parameters())
    for name, parameter in ours.named_parameters():
        zero = torch.zeros_like(parameter)
        ours_grad = zero if parameter.grad is None else parameter.grad
        plain_grad = zero if expected[name].grad is None else expected[name].grad
        torch.testing.assert_close(ours_grad, plain_grad, msg=name)

    context = batch.tokens_BTHW[:, : config.context_grids]
    got = ours.predict(context, batch.states_BFA, generator=torch.Generator().manual_seed(2)).tokens_BKTHW[:, 0]
    assert torch.equal(got, plain.generate(context, batch.states_BFA, generator=torch.Generator().manual_seed(2)))
