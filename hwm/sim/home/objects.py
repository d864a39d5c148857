"""Household objects that the robot can move: shape, look and how to grasp them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from hwm.sim.home import textures
from hwm.sim.home.meshes import BREAK, Mesh, bevel_box, lathe, merge, shift, tube_arc
from hwm.sim.home.mjcf import Assets, tag, visible
from hwm.sim.home.palette import FRUIT, RGB, WOODS, muted, pick, tint

AXIS = 1e-4
"""Radius that stands for zero: a lathe needs a normal at its pole."""
GRIPPY = {"friction": (1.1, 0.01, 0.0005)}
ROLLS = {"condim": 6, "friction": (1.0, 0.01, 0.003)}
SMALL = 0.5
"""Detail of textures on objects: they are small in the picture, and finer texels would flicker."""

Grasp = Literal["side", "top", "none"]


@dataclass(frozen=True)
class Shape:
    """An object before it has a name: origin at the centre of its height.

    height, radius: metres; radius is half of what the fingers close on.  collider: MJCF of its collision shape.
    """

    mesh: Mesh
    collider: str
    height: float
    radius: float
    grasp: Grasp
    texture: textures.Painter
    specular: float = 0.4
    shininess: float = 0.6


@dataclass(frozen=True)
class Thing:
    """A movable object in a scene.  half_width: radius of the floor it covers, in metres."""

    name: str
    kind: str
    height: float
    radius: float
    half_width: float
    grasp: Grasp
    xml: str


def _collider(kind: str, size: tuple[float, ...], mass: float, **attributes: Any) -> str:
    return tag("geom", class_="object", type=kind, size=size, mass=mass, **attributes)


def _colour(rng: np.random.Generator) -> RGB:
    return tint(rng, muted(rng.uniform(0.1, 0.95, 3)), 0.1)


def mug(rng: np.random.Generator) -> Shape:
    radius, height = rng.uniform(0.036, 0.046), rng.uniform(0.085, 0.11)
    wall, floor, rim = 0.0045, -height / 2, height / 2
    cup = lathe(
        [
            *((AXIS, floor), (radius * 0.92, floor), BREAK),
            *((radius * 0.92, floor), (radius, floor + 0.006), (radius, rim - 0.002), (radius - wall / 2, rim)),
            *((radius - wall, rim - 0.002), (radius - wall, floor + 0.012), (radius * 0.8, floor + 0.007)),
            (AXIS, floor + 0.007),
        ]
    )
    handle = shift(tube_arc(height * 0.28, 0.006, -1.25, 1.25, stretch=1.15), (radius * 0.86, 0, 0))
    colour = _colour(rng)
    printed = partial(textures.label, base=colour)
    glazed = partial(textures.plaster, base=colour, strength=0.04)
    collider = _collider("cylinder", (radius, height / 2), 0.28, **GRIPPY)
    texture = printed if rng.random() < 0.4 else glazed
    return Shape(merge(cup, handle), collider, height, radius, "side", texture, 0.5, 0.7)


def bottle(rng: np.random.Generator) -> Shape:
    radius, height = rng.uniform(0.030, 0.040), rng.uniform(0.20, 0.27)
    floor, top, neck = -height / 2, height / 2, radius * 0.36
    mesh = lathe(
        [
            *((AXIS, floor), (radius * 0.9, floor), BREAK, (radius * 0.9, floor), (radius, floor + 0.008)),
            *((radius, floor + height * 0.58), (radius * 0.86, floor + height * 0.68)),
            *((radius * 0.45, floor + height * 0.8), (neck, floor + height * 0.86), (neck, floor + height * 0.9), BREAK),
            *((radius * 0.42, floor + height * 0.9), (radius * 0.42, top), BREAK, (radius * 0.42, top), (AXIS, top)),
        ]
    )
    belly = _collider("cylinder", (radius, height * 0.36), 0.4, pos=(0, 0, -height * 0.14), **GRIPPY)
    spout = _collider("cylinder", (radius * 0.4, height * 0.14), 0.02, pos=(0, 0, height * 0.36))
    return Shape(mesh, belly + spout, height, radius, "side", partial(textures.label, base=_colour(rng)), 0.6, 0.8)


def can(rng: np.random.Generator) -> Shape:
    radius, height = rng.uniform(0.032, 0.038), rng.uniform(0.10, 0.13)
    floor, top = -height / 2, height / 2
    mesh = lathe(
        [
            *((AXIS, floor + 0.003), (radius * 0.86, floor + 0.003), (radius * 0.88, floor), (radius * 0.92, floor)),
            *((radius, floor + 0.007), BREAK, (radius, floor + 0.007), (radius, top - 0.009), BREAK),
            *((radius, top - 0.009), (radius * 0.9, top - 0.002), (radius * 0.89, top), (radius * 0.85, top - 0.003)),
            (AXIS, top - 0.003),
        ]
    )
    collider = _collider("cylinder", (radius, height / 2), 0.33, **GRIPPY)
    return Shape(mesh, collider, height, radius, "side", partial(textures.label, base=_colour(rng)), 0.7, 0.8)


def carton(rng: np.random.Generator) -> Shape:
    half = (rng.uniform(0.022, 0.035), rng.uniform(0.045, 0.075), rng.uniform(0.07, 0.12))
    mesh, collider = bevel_box(half, bevel=0.003, repeats=None), _collider("box", half, 0.35, **GRIPPY)
    return Shape(mesh, collider, 2 * half[2], half[0], "side", partial(textures.label, base=_colour(rng)), 0.15, 0.2)


def fruit(rng: np.random.Generator) -> Shape:
    radius = rng.uniform(0.034, 0.042)
    turn = np.linspace(0, np.pi, 16)
    width = np.maximum(AXIS, radius * np.sin(turn) * (1 - 0.08 * np.cos(2 * turn)))
    dimples = 0.08 * np.exp(-((turn / 0.3) ** 2)) - 0.12 * np.exp(-(((np.pi - turn) / 0.35) ** 2))
    height = radius * (dimples - 0.92 * np.cos(turn))
    mesh = lathe(list(zip(width.tolist(), height.tolist())))
    skin = partial(textures.plaster, base=pick(rng, FRUIT), strength=0.18)
    return Shape(mesh, _collider("sphere", (radius,), 0.2, **ROLLS), 2 * radius, radius, "side", skin)


def ball(rng: np.random.Generator) -> Shape:
    radius = rng.uniform(0.045, 0.065)
    turn = np.linspace(0, np.pi, 16)
    mesh = lathe(list(zip((radius * np.sin(turn) + AXIS).tolist(), (-radius * np.cos(turn)).tolist())))
    pattern = partial(textures.wallpaper, base=_colour(rng))
    return Shape(mesh, _collider("sphere", (radius,), 0.15, **ROLLS), 2 * radius, radius, "side", pattern, 0.3, 0.4)


def bowl(rng: np.random.Generator) -> Shape:
    radius, height = rng.uniform(0.06, 0.085), rng.uniform(0.05, 0.07)
    floor = -height / 2
    turn = np.linspace(0, np.pi / 2, 9)
    outer = [(radius * (0.42 + 0.58 * s), floor + height * (1 - c)) for s, c in zip(np.sin(turn), np.cos(turn))]
    inner = [(r * 0.94, z + 0.004) for r, z in outer[::-1]]
    foot = [(AXIS, floor), (radius * 0.42, floor), BREAK]
    mesh = lathe([*foot, *outer, *inner, (AXIS, floor + 0.008)])
    glaze = partial(textures.plaster, base=_colour(rng), strength=0.05)
    collider = _collider("cylinder", (radius * 0.6, height / 2), 0.3, **GRIPPY)
    return Shape(mesh, collider, height, radius, "top", glaze, 0.5, 0.7)


def plate(rng: np.random.Generator) -> Shape:
    radius, height = rng.uniform(0.085, 0.12), 0.022
    floor, top = -height / 2, height / 2
    mesh = lathe(
        [
            *((AXIS, floor), (radius * 0.55, floor), BREAK, (radius * 0.55, floor), (radius * 0.72, floor + height * 0.35)),
            *((radius, top - 0.001), (radius, top + 0.002), (radius * 0.97, top + 0.003)),
            *((radius * 0.7, floor + height * 0.6), (radius * 0.62, floor + 0.006), (AXIS, floor + 0.006)),
        ]
    )
    china = partial(textures.plaster, base=tint(rng, (0.92, 0.90, 0.86)), strength=0.04)
    collider = _collider("cylinder", (radius * 0.85, height / 2), 0.3, **GRIPPY)
    return Shape(mesh, collider, height, radius, "none", china, 0.5, 0.8)


def book(rng: np.random.Generator) -> Shape:
    half = (rng.uniform(0.07, 0.09), rng.uniform(0.10, 0.13), rng.uniform(0.010, 0.022))
    cover = textures.painting if rng.random() < 0.5 else partial(textures.label, base=_colour(rng))
    mesh, collider = bevel_box(half, bevel=0.002, repeats=None), _collider("box", half, 0.4, **GRIPPY)
    return Shape(mesh, collider, 2 * half[2], max(half[:2]), "none", cover, 0.2, 0.3)


def vase(rng: np.random.Generator) -> Shape:
    radius, height = rng.uniform(0.05, 0.06), rng.uniform(0.14, 0.20)
    mesh = vase_mesh(rng, radius, height)
    stone = partial(textures.marble, base=_colour(rng))
    collider = _collider("cylinder", (radius * 0.75, height / 2), 0.4, **GRIPPY)
    return Shape(mesh, collider, height, radius * 0.8, "side", stone, 0.5, 0.7)


def vase_mesh(rng: np.random.Generator, radius: float, height: float) -> Mesh:
    """A vase with a random belly, open at the top."""
    belly, waves = rng.uniform(0.15, 0.3), rng.uniform(0.8, 1.3)
    t = np.linspace(0, 1, 12)
    side = list(zip(radius * (0.62 + belly * np.sin(1.6 * np.pi * waves * t + 0.3)), height * (t - 0.5)))
    inside = [(r * 0.9, z) for r, z in side[::-1][:5]]
    return lathe([(AXIS, -height / 2), (side[0][0], -height / 2), BREAK, *side, *inside])


def block(rng: np.random.Generator) -> Shape:
    half = tuple(rng.uniform(0.025, 0.035, 3).tolist())
    wooden, colour = rng.random() < 0.5, _colour(rng)
    texture = partial(textures.wood, base=pick(rng, WOODS)) if wooden else partial(textures.carpet, base=colour)
    mesh, collider = bevel_box(half, repeats=None), _collider("box", half, 0.15, **GRIPPY)
    return Shape(mesh, collider, 2 * half[2], half[0], "side", texture, 0.1, 0.1)


KINDS: dict[str, tuple[Callable[[np.random.Generator], Shape], float]] = {
    "mug": (mug, 4.0),
    "bottle": (bottle, 2.5),
    "can": (can, 2.5),
    "carton": (carton, 2.0),
    "fruit": (fruit, 1.5),
    "ball": (ball, 1.0),
    "bowl": (bowl, 1.2),
    "plate": (plate, 1.0),
    "book": (book, 1.2),
    "vase": (vase, 0.8),
    "block": (block, 1.5),
}
"""Kinds of objects: how to make one, and how common it is."""
EASY_KINDS = ("mug", "can", "bottle", "carton", "fruit")
"""Kinds that one hand picks up well; every scene has some."""


def random_kind(rng: np.random.Generator) -> str:
    """A kind drawn by how common it is."""
    weights = np.array([weight for _, weight in KINDS.values()])
    return list(KINDS)[int(rng.choice(len(KINDS), p=weights / weights.sum()))]


def make_thing(rng: np.random.Generator, assets: Assets, name: str, kind: str) -> Thing:
    """A random object of a kind, its mesh and texture added to the assets."""
    shape = KINDS[kind][0](rng)
    material = assets.material(
        f"m_{name}", texture=shape.texture, detail=SMALL, specular=shape.specular, shininess=shape.shininess
    )
    seen = visible("mesh", material, mesh=assets.mesh(shape.mesh))
    half_width = float(np.hypot(shape.mesh.vertices[:, 0], shape.mesh.vertices[:, 1]).max())
    return Thing(name, kind, shape.height, shape.radius, half_width, shape.grasp, shape.collider + seen)
