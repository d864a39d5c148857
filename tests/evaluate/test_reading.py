"""What readers learn in a world in which everything is known, and what they then find in predictions of it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from moving_square import moving
from refusing import refused

from hwm.config import RunConfig
from hwm.contracts import Batch
from hwm.evaluate.metrics import MASK_IOU, STATE_ERROR
from hwm.evaluate.protocols import COPY_FRAME, HWM, STILL_FRAMES, TRUE_FRAMES, Scoring
from hwm.evaluate.reading import mask_iou, state_errors
from hwm.evaluate.scenes import View
from hwm.evaluate.scores import ALL, LAST, frame_span
from hwm.evaluate.scoring import evaluate
from hwm.evaluate.table import text_table
from hwm.model_config import DirectConfig, ReaderConfig
from hwm.models.build import build_model
from hwm.models.direct import Direct
from hwm.models.reader import _blurred, overlap
from hwm.predict.ensemble import gaussian_blur
from hwm.tokenizers.open import PIXELS

SIDE, FRAMES = 32, 17
UNSEEN = tuple(range(1, 25))
"""Of the 25 states only the first moves the square."""


class Squares:
    """Clips of the moving square with masks of it."""

    def __init__(self, num, seed):
        rng = np.random.default_rng(seed)
        clips = [moving(rng, FRAMES, side=SIDE) for _ in range(num)]
        self.video, self.states = (torch.from_numpy(np.stack(part)) for part in zip(*clips))
        self.states = torch.cat([self.states[..., :1].clamp(-2, 2), torch.zeros_like(self.states[..., 1:])], -1)
        self.masks = (self.video == 200).all(-1)

    def __len__(self):
        return len(self.video)

    def batch(self, numbers):
        return Batch(states_BFA=self.states[numbers], video_BFHWC=self.video[numbers], masks_BFHW=self.masks[numbers])


@pytest.fixture(scope="module")
def world():
    """Both readers after a hundred steps on squares, and other squares to score."""
    threads, clips, found = torch.get_num_threads(), Squares(48, seed=0), {}
    torch.set_num_threads(1)
    for reads in ("mask", "states"):
        config = ReaderConfig(reads=reads, grid=(SIDE, SIDE), widths=(8, 8, 16), depth=1, hidden=32, velocity_rows=UNSEEN)
        model = build_model(RunConfig(model=config))
        optimizer, draw = torch.optim.AdamW(model.parameters(), lr=1e-2), torch.Generator().manual_seed(0)
        for step in range(100):
            numbers = np.arange(step * 8, step * 8 + 8) % len(clips)
            model.loss(clips.batch(numbers), generator=draw)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
        found[reads] = model.eval()
    torch.set_num_threads(threads)
    return SimpleNamespace(**found, clips=Squares(12, seed=1))


def test_overlap_is_intersection_over_union_and_nothing_of_nothing():
    truth = torch.zeros(3, 4, 4, dtype=torch.bool)
    truth[0, :2], truth[1, :2] = True, True
    found = torch.zeros_like(truth)
    found[0, 1:3] = True
    assert overlap(found, truth).tolist()[:2] == [4 / 12, 0.0] and torch.isnan(overlap(found, truth)[2])


def test_readers_learn_what_a_frame_shows(world):
    batch = world.clips.batch(np.arange(12))
    assert overlap(world.mask.read(batch.video_BFHWC), batch.masks_BFHW).nanmean() > 0.9
    scores = world.states.validate(batch, generator=torch.Generator())["state_mse"]
    assert scores.shape == (12,) and scores.mean() < 0.2 * batch.states_BFA[..., 0].square().mean()
    larger = batch.video_BFHWC.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(world.mask.read(larger), world.mask.read(batch.video_BFHWC))  # by area


def test_half_of_what_a_reader_learns_from_is_blurred():
    g = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (64, 24, 16, 3), generator=g).to(torch.uint8)
    for sigma in (0.0, 0.7, 1.5):
        blurred, inside = gaussian_blur(frames, sigma=sigma), (slice(None), slice(8, -8), slice(7, -7))
        assert (_blurred(frames, torch.full((64,), sigma))[inside].int() - blurred[inside].int()).abs().max() <= 1
    flat = torch.full((2, 8, 16, 3), 77, dtype=torch.uint8)
    assert torch.equal(_blurred(flat, torch.tensor([1.0, 5.0])), flat)
    plain, config = (ReaderConfig(grid=(24, 16), blur=blur) for blur in (0.0, 2.0))
    assert build_model(RunConfig(model=plain)).shown(frames, g) is frames
    shown = build_model(RunConfig(model=config)).shown(frames, g)
    same = [torch.equal(*pair) for pair in zip(frames, shown)]
    assert 20 < sum(same) < 44 and shown.float().std((1, 2, 3)).min() < 0.4 * frames.float().std()


def test_an_evaluation_reads_predictions_beside_true_frames(world):
    """A fresh `direct` repeats the last frame: it is read like copying, the true frames better, and clips without it left out."""
    config = DirectConfig(grid=(SIDE, SIDE), num_layers=1, num_heads=2, width=16, map_hidden=8, map_channels=2)
    readers = [mask_iou(world.mask), *state_errors(world.states, {"square": (0,), "rest": (1, 2)})]
    clips = Squares(12, seed=1)
    clips.video[0], clips.masks[0] = 90, False
    scores = evaluate(
        Direct(config), PIXELS, clips, HWM, Scoring(clips=0, batch_size=5), readers=readers, num_examples=0, cost_repeats=0
    )
    assert scores.settings["readers"] == [MASK_IOU, STATE_ERROR, f"{STATE_ERROR}, square"]
    for metric, better in ((MASK_IOU, 1), (STATE_ERROR, -1)):
        own, copied, true = (better * scores.of(row, metric).mean for row in (STILL_FRAMES, COPY_FRAME, TRUE_FRAMES))
        assert own == copied < true
        assert scores.difference(STILL_FRAMES, COPY_FRAME, metric).value.mean == 0
    assert scores.of(TRUE_FRAMES, MASK_IOU, span=LAST).mean > 0.85
    assert scores.of(COPY_FRAME, MASK_IOU, span=frame_span(1)).mean > scores.of(COPY_FRAME, MASK_IOU, span=frame_span(8)).mean
    group = scores.of(TRUE_FRAMES, f"{STATE_ERROR}, square").mean
    assert group == pytest.approx(scores.of(TRUE_FRAMES, STATE_ERROR).mean)  # the one state that is read
    assert not scores.select(row=TRUE_FRAMES, metric="psnr")
    note = scores.select(row=COPY_FRAME, metric=MASK_IOU, span=ALL)[0].note
    assert note == "1 of 12 clips do not show the robot and are left out"
    text = text_table(scores)
    assert f"{MASK_IOU}: {note}." in text and "state error against the recorded video" in text and "true frames" in text


def test_what_is_not_known_is_not_scored(world):
    frames = world.clips.video[:2, :3]
    view = View(frames, frames)
    assert mask_iou(world.mask).measure(frames, view) is None
    assert [metric.measure(frames, view) for metric in state_errors(world.states, {})] == [None]


def test_readers_refuse_what_they_cannot_learn_from(world):
    refused("give data of `hwm simulate --masks`", world.mask.loss, Batch(world.clips.states, video_BFHWC=world.clips.video),
            generator=torch.Generator())
    refused("leave nothing of model.state_dim 2", ReaderConfig, reads="states", state_dim=2, velocity_rows=(0, 1))
    refused("must be multiples of 8", ReaderConfig, grid=(60, 60))
