"""Two videos side by side as a GIF: colours, order and real time."""

import numpy as np
import pytest
from PIL import Image, ImageSequence

from hwm.evaluate.page.pictures import FUTURE_COLOR, PAST_COLOR
from hwm.watch.pair import write_pair


def clips(num):
    """A grey ramp in time on the left, its opposite on the right."""
    levels = np.linspace(0, 255, num).astype(np.uint8)
    left = np.broadcast_to(levels[:, None, None, None], (num, 32, 32, 3)).copy()
    return left, 255 - left


@pytest.mark.parametrize("hz, repeat, shown", [(30, 1, 30), (5, 1, 30), (30, 4, 30), (120, 1, 10)])
def test_a_gif_shows_the_pair_in_real_time(tmp_path, hz, repeat, shown):
    left, right = clips(30)
    write_pair(tmp_path / "x.gif", left, right, num_past=9, hz=hz, repeat=repeat)
    with Image.open(tmp_path / "x.gif") as film:
        assert film.info["loop"] == 0 and film.n_frames == shown and film.size == (8 * 66, 256)
        frames = [(np.array(frame.convert("RGB"), int), frame.info["duration"]) for frame in ImageSequence.Iterator(film)]
    durations = [duration for _, duration in frames]
    assert sum(durations) == pytest.approx(1000 * 30 * repeat / hz, abs=6) and min(durations) >= 20
    every = 30 // shown
    for i, (picture, _) in enumerate(frames):
        assert np.abs(picture[:250, :256] - left[i * every, 0, 0]).max() <= 12
        assert np.abs(picture[:250, -256:] - right[i * every, 0, 0]).max() <= 12
        assert np.abs(picture[-3, 10] - (PAST_COLOR if i * every < 9 else FUTURE_COLOR)).max() <= 24
