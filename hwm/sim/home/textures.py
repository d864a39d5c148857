"""Procedural textures.  Every painter takes (rng, n, ...) and returns float RGB in [0, 1], shape (n, n, 3).

A painter draws from its own generator, so that nothing but the picture depends on the texture's size n.
Contrast is kept moderate on purpose: high-contrast patterns make every small motion a large pixel change.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from hwm.sim.home.palette import muted

Colour = Sequence[float] | np.ndarray
Painter = Callable[[np.random.Generator, int], np.ndarray]


def _value_noise(rng: np.random.Generator, n: int, rows: int, columns: int) -> np.ndarray:
    """Tileable smooth noise in [0, 1], n x n, with the given number of lattice cells."""
    lattice = rng.random((rows, columns))

    def axis(cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        place = np.arange(n) * cells / n
        low = place.astype(int)
        part = place - low
        return low % cells, (low + 1) % cells, part * part * (3 - 2 * part)

    top, bottom, fy = axis(rows)
    left, right, fx = axis(columns)
    upper = lattice[top][:, left] * (1 - fx) + lattice[top][:, right] * fx
    lower = lattice[bottom][:, left] * (1 - fx) + lattice[bottom][:, right] * fx
    return upper * (1 - fy)[:, None] + lower * fy[:, None]


def fractal_noise(
    rng: np.random.Generator, n: int, rows: int, columns: int = 0, *, octaves: int = 4, gain: float = 0.5
) -> np.ndarray:
    """Sum of octaves of value noise in [0, 1], n x n; `columns` 0 means as many as rows."""
    columns = columns or rows
    total, weight, amplitude = np.zeros((n, n)), 0.0, 1.0
    for _ in range(octaves):
        total += amplitude * _value_noise(rng, n, min(rows, n), min(columns, n))
        weight += amplitude
        amplitude *= gain
        rows, columns = 2 * rows, 2 * columns
    return total / weight


def _plane(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows y (down) and columns x in [0, 1)."""
    y, x = np.mgrid[0:n, 0:n] / n
    return y, x


def _shade(base: Colour, brightness: np.ndarray) -> np.ndarray:
    return np.clip(np.asarray(base, float) * brightness[..., None], 0, 1)


def wood(rng: np.random.Generator, n: int, base: Colour, *, planks: int = 0, contrast: float = 0.20) -> np.ndarray:
    """Wood with the grain along x; `planks` boards stacked along y, 0 for one slab."""
    boards = max(planks, 1)
    y = np.linspace(0, 1, n)[:, None]
    grain, tone = np.zeros((n, n)), np.ones((n, n))
    edges = np.linspace(0, n, boards + 1).astype(int)
    joint = max(1, n // 170)
    for top, bottom in pairwise(edges):
        rows = slice(top, bottom)
        bend = fractal_noise(rng, n, 2, 1, octaves=3)
        rings_per_board = rng.uniform(1.5, 3) * (boards if boards > 1 else 5)
        rings = np.sin(2 * np.pi * rings_per_board * (y + rng.uniform(0.1, 0.25) * bend))
        fibre = fractal_noise(rng, n, 96, 3, octaves=2)
        grain[rows] = (0.38 * (0.5 + 0.5 * rings) + 0.62 * fibre)[rows]
        if planks:
            tone[rows] *= rng.uniform(0.90, 1.06)
            tone[top : top + joint] *= 0.62
            for cut in (np.sort(rng.random(2)) * n).astype(int):
                tone[rows, cut:] *= rng.uniform(0.95, 1.05)
                tone[rows, cut : cut + joint] *= 0.55
    return _shade(base, (1 - contrast + contrast * 1.3 * grain) * tone)


def plaster(rng: np.random.Generator, n: int, base: Colour, *, strength: float = 0.08) -> np.ndarray:
    """A plain surface with soft blotches: walls, ceramics, fruit."""
    return _shade(base, 1 - strength + 2 * strength * fractal_noise(rng, n, 8, octaves=5, gain=0.6))


def wallpaper(rng: np.random.Generator, n: int, base: Colour) -> np.ndarray:
    """Stripes, dots, a trellis or flowers in a slightly darker second colour."""
    base = np.asarray(base, float)
    second = np.clip(base * rng.uniform(0.78, 0.93) + rng.uniform(-0.03, 0.03, 3), 0, 1)
    y, x = _plane(n)
    kind, count = rng.integers(4), int(rng.integers(3, 7))
    cell_x, cell_y = (x * count) % 1 - 0.5, (y * count) % 1 - 0.5
    if kind == 0:
        mask = np.sin(2 * np.pi * count * x) > rng.uniform(-0.3, 0.6)
    elif kind == 1:
        staggered = (x * count + 0.5 * (np.floor(y * count) % 2)) % 1 - 0.5
        mask = staggered**2 + cell_y**2 < rng.uniform(0.02, 0.07)
    elif kind == 2:
        rising, falling = ((x + y) * count) % 1 - 0.5, ((x - y) * count) % 1 - 0.5
        mask = (np.abs(rising) < 0.06) | (np.abs(falling) < 0.06)
    else:
        mask = np.hypot(cell_x, cell_y) < 0.18 + 0.12 * np.cos(5 * np.arctan2(cell_y, cell_x))
    image = np.where(mask[..., None], second, base)
    return np.clip(image * (0.95 + 0.1 * fractal_noise(rng, n, 16, octaves=3))[..., None], 0, 1)


def tiles(rng: np.random.Generator, n: int, base: Colour, *, count: int = 4) -> np.ndarray:
    """Square floor tiles with grout, `count` per side."""
    y, x = _plane(n)
    tone = rng.uniform(0.88, 1.05, (count, count))[(y * count).astype(int), (x * count).astype(int)]
    grout = np.minimum((y * count) % 1, (x * count) % 1) < 0.045
    return _shade(base, np.where(grout, 0.74, tone * (0.9 + 0.2 * fractal_noise(rng, n, 8))))


def carpet(rng: np.random.Generator, n: int, base: Colour) -> np.ndarray:
    """Short pile: fine speckle over soft wear."""
    return _shade(base, 0.80 + 0.16 * rng.random((n, n)) + 0.14 * (fractal_noise(rng, n, 6) - 0.5))


def rug(rng: np.random.Generator, n: int) -> np.ndarray:
    """Nested frames of a small palette around a medallion."""
    palette = np.clip(muted(rng.uniform(0.2, 0.65, 3) + rng.uniform(-0.2, 0.2, (5, 3)), 0.5), 0.05, 0.9)
    y, x = _plane(n)
    y, x = y - 0.5, x - 0.5
    from_centre = np.maximum(np.abs(x), np.abs(y))
    image = np.broadcast_to(palette[0], (n, n, 3)).copy()
    for k, frame in enumerate(np.sort(rng.uniform(0.15, 0.48, 4))[::-1]):
        image[from_centre < frame] = palette[(k + 1) % 5]
    petals = int(rng.integers(4, 9))
    image[np.hypot(x, y) < 0.12 + 0.05 * np.cos(petals * np.arctan2(y, x))] = palette[3]
    border = (from_centre > 0.36) & (from_centre < 0.44)
    image[(np.abs(((x + y) * 12) % 1 - 0.5) < 0.1) & border] = palette[4]
    return np.clip(image * (0.88 + 0.18 * rng.random((n, n)))[..., None], 0, 1)


def fabric(rng: np.random.Generator, n: int, base: Colour) -> np.ndarray:
    """Woven cloth: upholstery, curtains, the robot's suit."""
    y, x = _plane(n)
    weave = 0.5 + 0.5 * np.sin(32 * 2 * np.pi * x) * np.sin(32 * 2 * np.pi * y)
    return _shade(base, 0.82 + 0.10 * weave + 0.14 * fractal_noise(rng, n, 8, octaves=3))


def marble(rng: np.random.Generator, n: int, base: Colour) -> np.ndarray:
    """Bright stone with darker veins."""
    _, x = _plane(n)
    veins = np.abs(np.sin(2 * np.pi * (x + 1.6 * fractal_noise(rng, n, 4, octaves=5)))) ** 0.35
    return _shade(base, 0.70 + 0.32 * veins)


def metal(rng: np.random.Generator, n: int, base: Colour) -> np.ndarray:
    """Brushed metal."""
    return _shade(base, 0.82 + 0.3 * fractal_noise(rng, n, 2, 96, octaves=2))


def painting(rng: np.random.Generator, n: int) -> np.ndarray:
    """An abstract landscape with mat and frame."""
    y, x = _plane(n)
    sky, ground = rng.uniform(0.3, 1, 3), rng.uniform(0.05, 0.8, 3)
    image = sky * (1 - y[..., None]) + ground * y[..., None]
    for _ in range(int(rng.integers(2, 6))):
        colour = rng.uniform(0, 1, 3)
        if rng.random() < 0.5:
            horizon, waves, phase = rng.uniform(0.35, 0.9), rng.uniform(0.5, 2), rng.random()
            mask = y > horizon + 0.12 * np.sin(2 * np.pi * (x * waves + phase))
            image[mask] = 0.35 * image[mask] + 0.65 * colour
        else:
            cx, cy, radius = rng.uniform(0.2, 0.8), rng.uniform(0.15, 0.7), rng.uniform(0.05, 0.22)
            mask = np.hypot(x - cx, y - cy) < radius
            image[mask] = 0.25 * image[mask] + 0.75 * colour
    image *= (0.88 + 0.2 * fractal_noise(rng, n, 12, octaves=3))[..., None]
    to_edge = np.minimum(np.minimum(y, 1 - y), np.minimum(x, 1 - x))
    image[to_edge < 0.14] = 0.93
    image[to_edge < 0.07] = rng.uniform(0.05, 0.5, 3)
    return np.clip(image, 0, 1)


def label(rng: np.random.Generator, n: int, base: Colour) -> np.ndarray:
    """Packaging print: a band, two logos and lines of pseudo text; wraps around in x."""
    base = np.asarray(base, float)
    y, x = _plane(n)
    image = np.broadcast_to(base, (n, n, 3)).copy()
    top, bottom = np.sort(rng.uniform(0.1, 0.9, 2))
    if bottom - top < 0.25:
        top, bottom = 0.3, 0.7
    image[(y > top) & (y < bottom)] = np.clip(muted(1 - base + rng.uniform(-0.25, 0.25, 3)), 0, 1)
    logo, lobes, middle = muted(rng.uniform(0, 1, 3)), int(rng.integers(2, 7)), 0.5 * (top + bottom)
    for centre in (0.25, 0.75):
        angle = np.arctan2(y - middle, x - centre)
        image[np.hypot(x - centre, (y - middle) * 1.2) < 0.12 * (1 + 0.25 * np.cos(lobes * angle))] = logo
    ink = 0.08 if base.mean() > 0.5 else 0.95
    for line in np.arange(top - 0.06, 0.04, -0.07):
        words = np.sin(x * 60 + line * 99) > -0.5
        start, end = rng.uniform(0.05, 0.15), rng.uniform(0.4, 0.9)
        image[(np.abs(y - line) < 0.016) & (x > start) & (x < end) & words] = ink
    return np.clip(image * (0.94 + 0.1 * fractal_noise(rng, n, 8, octaves=2))[..., None], 0, 1)


def books(rng: np.random.Generator, n: int) -> np.ndarray:
    """A row of book spines of different heights."""
    image = np.full((n, n, 3), 0.08)
    left = 0.0
    while left < 1:
        width, top = rng.uniform(0.04, 0.09), rng.uniform(0, 0.3)
        colour = rng.uniform(0.08, 0.85, 3)
        x0, x1 = int(left * n), max(int(left * n) + 1, int((left + width) * n) - max(1, n // 170))
        image[int(top * n) :, x0:x1] = colour
        for band in (0.12, 0.16, 0.85):
            row = int((top + band * (1 - top)) * n)
            image[row : row + max(1, n // 85), x0:x1] = np.clip(colour * 1.5 + 0.08, 0, 1)
        title = slice(int((top + 0.3 * (1 - top)) * n), int((top + 0.65 * (1 - top)) * n))
        third = (x1 - x0) // 3
        image[title, x0 + third : x1 - third] = np.clip(colour * 0.55 + 0.27, 0, 1)
        left += width
    return image


def outdoors(rng: np.random.Generator, n: int) -> np.ndarray:
    """A blurred view through a window: sky over trees."""
    y, _ = _plane(n)
    sky = np.array([0.72, 0.84, 0.98]) * rng.uniform(0.8, 1.05)
    image = sky * (1.05 - 0.25 * y[..., None])
    horizon = rng.uniform(0.45, 0.7) + 0.1 * fractal_noise(rng, n, 6)
    leaves = np.array([0.25, 0.42, 0.18]) * rng.uniform(0.7, 1.3)
    trees = leaves * (0.6 + 0.7 * fractal_noise(rng, n, 16, octaves=3))[..., None]
    return np.clip(np.where((y > horizon)[..., None], trees, image), 0, 1)
