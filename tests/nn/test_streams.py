import pytest
import torch
from torch import nn

from hwm.nn.streams import FUTURE_VIDEO, PerStream, sharing_by_layer, slot_visibility


def counted(layer: nn.Module) -> int:
    return sum(p.numel() for p in layer.parameters())


@pytest.mark.parametrize("sharing,sets", [("stream", 4), ("modality", 2), ("full", 1)])
def test_number_of_weight_sets(sharing, sets: int) -> None:
    layer = PerStream(lambda: nn.Linear(3, 3), sharing)
    assert counted(layer) == sets * 12
    x = torch.randn(4, 2, 5, 3)
    outputs = layer(list(x))
    same_inputs = layer([x[0]] * 4)
    for stream, y in enumerate(outputs):
        torch.testing.assert_close(y, layer.of(stream)(x[stream]))
    distinct = {tuple(y.flatten().tolist()) for y in same_inputs}
    assert len(distinct) == sets


def test_streams_that_do_not_pass_need_no_weights() -> None:
    layer = PerStream(lambda: nn.Linear(3, 3), "stream", streams=[FUTURE_VIDEO])
    assert counted(layer) == 12
    assert [y is None for y in layer([None, torch.ones(3), None, None])] == [True, False, True, True]


def test_first_blocks_are_not_shared() -> None:
    assert sharing_by_layer("full", num_layers=4, unshared_blocks=3) == ["stream"] * 3 + ["full"]
    assert sharing_by_layer("modality", num_layers=2, unshared_blocks=0) == ["modality"] * 2


def test_video_sees_the_actions_up_to_its_time() -> None:
    sees = slot_visibility(3, "causal")
    video, actions = slice(0, 3), slice(3, 6)
    for part in (sees[video, video], sees[video, actions], sees[actions, video], sees[actions, actions]):
        assert torch.equal(part, torch.ones(3, 3, dtype=torch.bool).tril())
    assert slot_visibility(3, "full").all()
    assert not slot_visibility(3, "released")[video, actions].any()
