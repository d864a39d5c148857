"""Frame 76 by models of every kind: the frames and states each needs, and samples that do not depend on the batch."""

import pytest
import torch
from refusing import refused

from hwm.contracts import Sampling
from hwm.model_config import MaskedConfig
from hwm.models.masked import MaskedHWM
from hwm.predict.last_frame import draw
from hwm.predict.rollout import rollout

WARM = Sampling(temperature=1.0)


def clips(num=3, size=32):
    g = torch.Generator().manual_seed(2)
    video = torch.randint(0, 256, (num, 17, size, size, 3), dtype=torch.uint8, generator=g)
    return video, torch.randn(num, 77, 25, generator=g)


@pytest.mark.parametrize(("name", "seen"), [("st", 17), ("masked", 9), ("flow", 9), ("direct", 9)])
def test_it_is_the_sixtieth_frame_of_the_rollout(family, name, seen):
    (model, coder), (video, states) = family(name), clips(1)
    still = Sampling(temperature=0.0)
    if name == "masked":
        torch.manual_seed(0)
        model = MaskedHWM(MaskedConfig(**{**vars(model.config), "steps": 1})).eval()  # nothing is left to chance
    found = draw(model, coder, video, states, frames=[76], num_samples=1, seeds=[5], sampling=still)
    plain = rollout(
        model, coder, video[:, -seen:], states[:, 17 - seen :], num_frames=60, generator=torch.Generator(), sampling=still
    )
    assert found.shape == (1, 1, 1, 32, 32, 3) and found.dtype == torch.uint8
    assert torch.equal(found, plain.video_BKFHWC[:, :, -1:])


def test_a_strided_clip_ends_in_it(strided):
    video = torch.arange(17, dtype=torch.uint8).view(1, 17, 1, 1, 1).expand(2, -1, 8, 8, 3)
    states = torch.zeros(2, 97, 2)
    states[:, 76, 0], states[:, 77:, 0] = 100, 50
    found = draw(strided.Model(twice=20), strided.Tokenizer(), video, states, frames=[76], num_samples=2, seeds=[0, 1])
    assert found.shape == (2, 2, 1, 8, 8, 3) and (found == 16 + 100 + 20).all()


@pytest.mark.parametrize("name", ["flow", "strided"])
def test_samples_depend_neither_on_their_company_nor_on_their_number(family, name):
    (model, coder), (video, states) = family(name), clips()

    def predict(which, **options):
        seeds = [10 + i for i in which]
        options = {"num_samples": 5, "members_at_once": 4, "sampling": WARM, **options}
        return draw(model, coder, video[which], states[which], frames=[76], seeds=seeds, **options).int()

    five = predict([0, 1, 2])
    assert five.flatten(0, 1).flatten(1).unique(dim=0).shape[0] == 15
    for other, same in (
        (predict([0, 1, 2], members_at_once=100), five), (predict([2, 1]), five[[2, 1]]),
        (predict([0, 1, 2], num_samples=2), five[:, :2]), (predict([1], num_samples=1, members_at_once=1), five[1:2, :1])
    ):
        assert (other - same).abs().max() <= 1  # a level by rounding


@pytest.mark.parametrize("name", ["st", "masked"])
def test_samples_of_tokens_are_those_of_their_clip(family, name):
    (model, coder), (video, states) = family(name), clips()

    def predict(which, num_samples=3):
        seeds = [10 + i for i in which]
        options = {"num_samples": num_samples, "seeds": seeds, "members_at_once": 3, "sampling": WARM}
        return draw(model, coder, video[which], states[which], frames=[76], **options)

    three = predict([0, 1, 2])
    assert three.flatten(0, 1).flatten(1).unique(dim=0).shape[0] == 9
    assert torch.equal(predict([2, 0]), three[[2, 0]]) and torch.equal(predict([1], 5)[:, :3], three[1:2])


@pytest.mark.parametrize("name", ["st", "direct"])
def test_without_chance_all_samples_are_equal(family, name):
    (model, coder), (video, states) = family(name), clips(2)
    found = draw(model, coder, video, states, frames=[76], num_samples=2, seeds=[0, 1])
    assert found.shape == (2, 2, 1, 32, 32, 3) and torch.equal(found[:, 0], found[:, 1])


def test_what_does_not_fit_is_refused(strided):
    video, states = clips(2)
    model, coder = strided.Model(), strided.Tokenizer()
    with pytest.raises(ValueError, match="frame 76 needs 77 states, got 76"):
        draw(model, coder, video, states[:, :76], frames=[76], num_samples=1, seeds=[0, 1])
    with pytest.raises(ValueError, match="context of 17 frames, the clip shows 16"):
        draw(model, coder, video[:, 1:], states, frames=[76], num_samples=1, seeds=[0, 1])
    with pytest.raises(ValueError, match=r"frames 16 \+ n \* 4, n from 1 on; asked for \[18\]"):
        draw(model, coder, video, states, frames=[18], num_samples=1, seeds=[0, 1])
    refused("2 clips need as many seeds", draw, model, coder, video, states, frames=[76], num_samples=1, seeds=[0])
    refused("at least 1 sample", draw, model, coder, video, states, frames=[76], num_samples=0, seeds=[0, 1])


def test_of_a_model_with_a_reach_every_frame_within_it_starts_from_what_was_seen(family):
    (model, coder), video = family("mover"), torch.full((1, 3, 8, 8, 3), 10, dtype=torch.uint8)
    states = 2.0 * torch.arange(20).view(1, -1, 1)
    found = draw(model, coder, video, states, frames=[7, 3, 9], seeds=[0])
    # From frame 2, and frame 9 from the prediction of frames 6 and 7, of which 6 is made when it is needed.
    assert found[0, 0, :, 0, 0, 0].tolist() == [10 + 10 + 1, 10 + 2 + 1, 21 + 4 + 1] and len(model.seen) == 3
