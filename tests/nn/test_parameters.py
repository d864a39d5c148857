import pytest
import torch
from torch import nn

from hwm.nn.modulation import Modulation
from hwm.nn.parameters import normal_init


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm, self.modulation = nn.Linear(60, 50), nn.LayerNorm(50), Modulation(50, 2)
        self.positions, self.mask = nn.Parameter(torch.empty(30, 50)), nn.Parameter(torch.empty(2000))


def test_start_values():
    model = Small()
    normal_init(model, std=0.1)
    for x in (model.linear.weight, model.positions, model.mask):
        assert x.std().item() == pytest.approx(0.1, rel=0.1) and x.mean().abs() < 0.01
    assert (model.norm.weight == 1).all() and (model.norm.bias == 0).all() and (model.linear.bias == 0).all()
    assert all((p == 0).all() for p in model.modulation.parameters())
