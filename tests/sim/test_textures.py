from functools import partial

import numpy as np
import pytest

from hwm.sim.home import textures
from hwm.sim.home.mjcf import Assets

BASE = (0.6, 0.5, 0.4)
PAINTERS = {
    "wood": partial(textures.wood, base=BASE),
    "planks": partial(textures.wood, base=BASE, planks=6),
    **{
        name: partial(getattr(textures, name), base=BASE)
        for name in ("plaster", "wallpaper", "tiles", "carpet", "fabric", "marble", "metal", "label")
    },
    **{name: getattr(textures, name) for name in ("rug", "painting", "books", "outdoors")},
}


@pytest.mark.parametrize("name", PAINTERS)
def test_painters_give_pictures_that_repeat_and_differ_by_seed(name):
    draw = [PAINTERS[name](np.random.default_rng(seed), 32) for seed in (1, 1, 2)]
    assert draw[0].shape == (32, 32, 3)
    assert 0 <= draw[0].min() and draw[0].max() <= 1 and draw[0].std() > 0
    np.testing.assert_array_equal(draw[0], draw[1])
    assert (draw[0] != draw[2]).any()


def test_noise_tiles():
    noise = textures.fractal_noise(np.random.default_rng(0), 64, 4)
    across_the_seam = np.abs(noise[:, 0] - noise[:, -1]).max()
    assert across_the_seam <= np.abs(np.diff(noise, axis=1)).max() + 1e-12
    assert 0 <= noise.min() and noise.max() <= 1


def test_a_texture_depends_on_its_own_name_only():
    alone, after_another = (Assets(4, texture_size=16, prefix="p") for _ in range(2))
    after_another.material("other", texture=PAINTERS["wood"])
    for assets in (alone, after_another):
        assets.material("mine", texture=PAINTERS["carpet"])
    np.testing.assert_array_equal(alone.textures["t_mine"], after_another.textures["t_mine"])
    assert alone.textures["t_mine"].dtype == np.uint8
