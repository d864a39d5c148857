"""Two videos side by side as a GIF: colours, order and real time."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageSequence

from hwm.data.video import read_video
from hwm.evaluate.page.pictures import FUTURE_COLOR, PAST_COLOR
from hwm.watch.panels import write_films, write_panels


def clips(num):
    """A grey ramp in time on the left, its opposite on the right."""
    levels = np.linspace(0, 255, num).astype(np.uint8)
    left = np.broadcast_to(levels[:, None, None, None], (num, 32, 32, 3)).copy()
    return left, 255 - left


@pytest.mark.parametrize("hz, repeat, shown", [(30, 1, 30), (5, 1, 30), (30, 4, 30), (120, 1, 10)])
def test_a_gif_shows_the_pair_in_real_time(tmp_path, hz, repeat, shown):
    left, right = clips(30)
    write_panels(tmp_path / "x.gif", [[left, right]], num_past=9, hz=hz, repeat=repeat)
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


def test_several_films_stand_in_columns_the_recording_above(tmp_path):
    levels = np.arange(4, dtype=np.uint8)[:, None, None, None, None] * 50
    films = np.broadcast_to(levels, (4, 5, 32, 48, 3))
    one, other = ({"truth": films[2 * i], "prediction": films[2 * i + 1], "num_past": 2, "every": 1, "hz": 10} for i in range(2))
    write_films(tmp_path / "x.mp4", [SimpleNamespace(**one), SimpleNamespace(**other)])
    found = read_video(tmp_path / "x.mp4")
    assert found.shape == (5, 5 * 66, 5 * 98, 3)
    places = found[2, [80, 80, 240, 240], [100, 400, 100, 400], 0].astype(int)
    assert np.abs(places - [0, 100, 50, 150]).max() < 8 and found[2, 80, 245].min() > 200
