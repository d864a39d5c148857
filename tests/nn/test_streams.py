import pytest
from torch import nn

from hwm.nn.streams import FUTURE_VIDEO, PerStream, sharing_by_layer


def counted(layer: nn.Module) -> int:
    return sum(p.numel() for p in layer.parameters())


@pytest.mark.parametrize("sharing,sets", [("stream", 4), ("modality", 2), ("full", 1)])
def test_number_of_weight_sets(sharing, sets: int) -> None:
    layer = PerStream(lambda: nn.Linear(3, 3), sharing)
    assert counted(layer) == sets * 12
    assert len({id(layer.of(stream)) for stream in range(4)}) == sets


def test_streams_that_do_not_pass_need_no_weights() -> None:
    layer = PerStream(lambda: nn.Linear(3, 3), "stream", streams=[FUTURE_VIDEO])
    assert counted(layer) == 12


def test_first_blocks_are_not_shared() -> None:
    assert sharing_by_layer("full", num_layers=4, unshared_blocks=3) == ["stream"] * 3 + ["full"]
    assert sharing_by_layer("modality", num_layers=2, unshared_blocks=0) == ["modality"] * 2
