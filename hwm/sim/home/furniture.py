"""Furniture: tables, a sideboard with a working drawer and door, shelf, sofa, lamp, plant, window, pictures.

Every function adds what it needs to the assets and returns the MJCF of its geoms in the piece's own frame: z = 0 on
the floor; the front of the sideboard faces -x.
"""

from functools import partial

import numpy as np

from hwm.sim.home import textures
from hwm.sim.home.meshes import BREAK, lathe
from hwm.sim.home.mjcf import HIDDEN_GROUP, Assets, body, solid_box, tag, visible
from hwm.sim.home.objects import AXIS, vase_mesh
from hwm.sim.home.palette import CURTAINS, FABRICS, METAL, WOODS, pick, tint

BOARD = 0.018
"""Thickness of a furniture board, metres."""
KICK = 0.06
"""Height of the plinth of the sideboard."""
HANDLE_OUT = 0.052
"""Distance of a handle's bar from the front it is fixed to."""
DRAWER_HALF = 0.095
"""Half the height of a drawer's front."""
DOOR_OPENS = 97.0
"""Degrees."""


def common_materials(rng: np.random.Generator, assets: Assets) -> None:
    """Materials that several pieces share."""
    assets.material("metal", texture=partial(textures.metal, base=METAL), detail=0.5, specular=0.9, shininess=0.8)
    assets.material("cabinet", texture=partial(textures.wood, base=pick(rng, WOODS)), specular=0.2)
    lacquer = partial(textures.plaster, base=tint(rng, (0.85, 0.84, 0.80)), strength=0.03)
    veneer = partial(textures.wood, base=pick(rng, WOODS))
    assets.material("front", texture=veneer if rng.random() < 0.5 else lacquer, specular=0.25, shininess=0.4)
    assets.material("white", (0.92, 0.92, 0.90))
    assets.material("black", (0.13, 0.13, 0.14))


def table(rng: np.random.Generator, assets: Assets, *, width: float, length: float, height: float) -> str:
    """A table: `width` along x, `length` along y, top at `height` metres; four legs or two panels."""
    slab = partial(textures.wood, base=pick(rng, WOODS), planks=int(rng.choice([0, 0, 3])))
    stone = partial(textures.marble, base=(0.90, 0.89, 0.87))
    assets.material("table", texture=slab if rng.random() < 0.8 else stone, specular=0.3, shininess=0.5)
    leg_material = pick(rng, ("cabinet", "metal", "white", "table"))
    half_top = rng.uniform(0.016, 0.028)
    top = ((width / 2, length / 2, half_top), (0.0, 0.0, height - half_top))
    xml = assets.box(top[0], "table", top[1], repeats=0.9, bevel=0.007) + solid_box(*top)
    half_leg = (height - 2 * half_top) / 2
    style, leg = pick(rng, ("square", "round", "panel")), rng.uniform(0.022, 0.035)
    if style == "panel":
        for side in (-1, 1):
            place = (0.0, side * (length / 2 - 0.08), half_leg)
            xml += assets.box((width / 2 - 0.05, BOARD, half_leg), leg_material, place, bevel=0.003)
        return xml
    for along_x in (-1, 1):
        for along_y in (-1, 1):
            place = (along_x * (width / 2 - 0.06), along_y * (length / 2 - 0.07), half_leg)
            if style == "square":
                xml += assets.box((leg, leg, half_leg), leg_material, place, bevel=0.004)
            else:
                xml += visible("cylinder", leg_material, size=(0.8 * leg, half_leg), pos=place)
    apron = (0, 0, height - 2 * half_top - 0.03)
    return xml + assets.box((width / 2 - 0.08, length / 2 - 0.1, 0.03), leg_material, apron, bevel=0.003)


def sideboard(assets: Assets, *, width: float, depth: float, height: float) -> str:
    """A sideboard with drawers on the left half (the top one works) and a door on the right."""
    top = ((depth / 2 + 0.01, width / 2 + 0.01, BOARD), (0.0, 0.0, height - BOARD))
    half_wall = (height - 2 * BOARD - KICK) / 2
    xml = assets.box(top[0], "cabinet", top[1]) + solid_box(*top)
    for side in (-1, 0, 1):
        place = (0, side * (width / 2 - BOARD / 2), KICK + half_wall)
        xml += assets.box((depth / 2, BOARD / 2, half_wall), "cabinet", place, bevel=0.002)
    half_back = (height - 0.08) / 2
    xml += assets.box((0.006, width / 2, half_back), "cabinet", (depth / 2 - 0.006, 0, KICK + half_back), bevel=0.002)
    xml += assets.box((depth / 2, width / 2, BOARD / 2), "cabinet", (0, 0, KICK + BOARD / 2), bevel=0.002)
    xml += assets.box((depth / 2 - 0.02, width / 2 - 0.04, 0.03), "black", (0, 0, 0.03), bevel=0.002)
    half_front = width / 4 - 0.012
    front_top = height - 2 * BOARD - 0.012
    bottom = front_top - 2 * DRAWER_HALF - 0.012
    while bottom - 0.11 > 0.08:
        xml += assets.box((0.009, half_front, 0.10), "front", (-depth / 2 - 0.009, width / 4, bottom - 0.10), bevel=0.003)
        bar = -depth / 2 - 0.045
        ends = (bar, width / 4 - 0.06, bottom - 0.10, bar, width / 4 + 0.06, bottom - 0.10)
        xml += visible("capsule", "metal", size=0.006, fromto=ends)
        bottom -= 0.212
    xml += _drawer(assets, depth=depth, half_front=half_front, place=(0, width / 4, front_top - DRAWER_HALF))
    half_door = (front_top - 0.09) / 2
    hinge = (-depth / 2, -width / 4 - half_front, 0.085 + half_door)
    xml += _door(assets, half_front=half_front, half_height=half_door, place=hinge)
    shelf_height = 0.09 + half_door * 0.95
    return xml + assets.box((depth / 2 - 0.02, half_front, 0.008), "cabinet", (0, -width / 4, shelf_height), bevel=0.001)


def _drawer(assets: Assets, *, depth: float, half_front: float, place: tuple[float, float, float]) -> str:
    front, bar = -depth / 2 - 0.009, -depth / 2 - HANDLE_OUT
    tray = assets.box((0.009, half_front, DRAWER_HALF), "front", (front, 0, 0), bevel=0.003)
    tray += solid_box((0.009, half_front, DRAWER_HALF), (front, 0, 0), mass=0.8)
    tray += assets.box((depth / 2 - 0.03, half_front - 0.02, 0.005), "cabinet", (0, 0, 0.02 - DRAWER_HALF), bevel=0.001)
    for side in (-1, 1):
        wall = (0, side * (half_front - 0.02), -0.01)
        tray += assets.box((depth / 2 - 0.03, 0.005, DRAWER_HALF - 0.03), "cabinet", wall, bevel=0.001)
        stem = (-depth / 2 - 0.01, side * 0.06, 0.02, bar, side * 0.06, 0.02)
        tray += visible("capsule", "metal", size=0.005, fromto=stem)
    tray += visible("capsule", "metal", size=0.007, fromto=(bar, -0.07, 0.02, bar, 0.07, 0.02))
    tray += tag("site", name="handle_drawer", pos=(bar, 0, 0.02), size=0.005, group=HIDDEN_GROUP)
    joint = tag("joint", name="drawer", type="slide", axis=(-1, 0, 0), range=(0, depth * 0.6), damping=6, frictionloss=1.5)
    mass = tag("inertial", pos=(0, 0, 0), mass=1.5, diaginertia=(0.02, 0.02, 0.02))
    return body("drawer", place, mass + joint + tray)


def _door(assets: Assets, *, half_front: float, half_height: float, place: tuple[float, float, float]) -> str:
    handle_y, middle = 2 * half_front - 0.05, half_height - 0.15
    leaf = assets.box((0.009, half_front, half_height), "front", (-0.009, half_front, 0), bevel=0.003)
    leaf += solid_box((0.009, half_front, half_height), (-0.009, half_front, 0), mass=1.5)
    bar = (-HANDLE_OUT, handle_y, middle - 0.07, -HANDLE_OUT, handle_y, middle + 0.07)
    leaf += visible("capsule", "metal", size=0.007, fromto=bar)
    for offset in (-0.06, 0.06):
        stem = (-0.012, handle_y, middle + offset, -HANDLE_OUT, handle_y, middle + offset)
        leaf += visible("capsule", "metal", size=0.005, fromto=stem)
    leaf += tag("site", name="handle_door", pos=(-HANDLE_OUT, handle_y, middle), size=0.005, group=HIDDEN_GROUP)
    joint = tag("joint", name="door", axis=(0, 0, 1), range=(0, DOOR_OPENS), damping=0.6, frictionloss=0.3)
    mass = tag("inertial", pos=(0, half_front, 0), mass=2, diaginertia=(0.05, 0.05, 0.05))
    return body("door", place, mass + joint + leaf)


def bookshelf(rng: np.random.Generator, assets: Assets) -> str:
    """An open shelf, its back at +x, with rows of books and some vases."""
    half_width, height = rng.uniform(0.4, 0.6), rng.uniform(1.3, 2.0)
    assets.material("books", texture=textures.books, specular=0.1, shininess=0.1)
    xml = assets.box((0.004, half_width, height / 2), "cabinet", (0.146, 0, height / 2), bevel=0.001)
    for side in (-1, 1):
        place = (0, side * half_width, height / 2)
        xml += assets.box((0.15, 0.014, height / 2), "cabinet", place, bevel=0.003)
    levels = int(rng.integers(4, 6))
    gap = (height - 0.08) / levels
    for level in range(levels + 1):
        z = 0.04 + level * gap
        xml += assets.box((0.15, half_width, 0.012), "cabinet", (0, 0, z), bevel=0.002)
        if level == levels:
            break
        first, last = rng.uniform(0.04 - half_width, -0.05), rng.uniform(0.1, half_width - 0.04)
        row = (0, (first + last) / 2, z + 0.012 + gap * 0.36)
        xml += assets.box((0.10, (last - first) / 2, gap * 0.36), "books", row, repeats=1.3, bevel=0.001)
        if rng.random() < 0.5 and last < half_width - 0.16:
            glaze = partial(textures.plaster, base=rng.uniform(0.1, 0.9, 3), strength=0.15)
            material = assets.material(f"decoration{level}", texture=glaze, detail=0.25, specular=0.4, shininess=0.5)
            mesh = assets.mesh(vase_mesh(rng, 0.05, gap * 0.6))
            xml += visible("mesh", material, mesh=mesh, pos=(0, half_width - 0.09, z + 0.012 + gap * 0.3))
    return xml


def sofa(rng: np.random.Generator, assets: Assets) -> str:
    """A sofa facing +x, with one cushion."""
    cover = partial(textures.fabric, base=tint(rng, pick(rng, FABRICS)))
    assets.material("sofa", texture=cover, detail=0.5, repeat=(4, 4), specular=0.03, shininess=0.03)
    pattern = partial(textures.wallpaper, base=rng.uniform(0.2, 0.9, 3))
    assets.material("cushion", texture=pattern, detail=0.5, repeat=(3, 3), specular=0.02, shininess=0.02)
    xml = assets.box((0.40, 0.85, 0.20), "sofa", (0, 0, 0.22), bevel=0.05)
    xml += assets.box((0.12, 0.85, 0.28), "sofa", (-0.32, 0, 0.55), bevel=0.05)
    for side in (-1, 1):
        xml += assets.box((0.42, 0.11, 0.30), "sofa", (0, side * 0.85, 0.32), bevel=0.05)
        xml += assets.box((0.28, 0.40, 0.07), "sofa", (0.06, side * 0.41, 0.48), bevel=0.04)
    place = (-0.1, rng.uniform(-0.5, 0.5), 0.68)
    return xml + visible("ellipsoid", "cushion", size=(0.08, 0.2, 0.2), pos=place, euler=(0, -15, 0))


def floor_lamp(assets: Assets) -> str:
    """A standing lamp, lit."""
    assets.material("lampshade", (0.98, 0.93, 0.80), emission=0.6, specular=0, shininess=0)
    low, high = (0.19, -0.13), (0.13, 0.13)
    shade = lathe([low, high, BREAK, (high[0] * 0.97, high[1]), (low[0] * 0.97, low[1])])
    xml = visible("mesh", "lampshade", mesh=assets.mesh(shade), pos=(0, 0, 1.5))
    xml += visible("cylinder", "metal", size=(0.012, 0.75), pos=(0, 0, 0.75))
    return xml + visible("cylinder", "metal", size=(0.14, 0.012), pos=(0, 0, 0.012))


def plant(rng: np.random.Generator, assets: Assets, *, leaves: int = 22) -> str:
    """A pot plant with leaves in all directions."""
    clay = partial(textures.plaster, base=tint(rng, (0.70, 0.45, 0.33)), strength=0.15)
    green = partial(textures.plaster, base=tint(rng, (0.20, 0.42, 0.16), 0.2), strength=0.35)
    assets.material("pot", texture=clay, detail=0.25, specular=0.1, shininess=0.1)
    assets.material("leaf", texture=green, detail=0.25)
    wall = [(0.11, 0.0), (0.15, 0.26), BREAK, (0.15, 0.26), (0.135, 0.26), (0.13, 0.22), (AXIS, 0.22)]
    pot = lathe([(AXIS, 0), (0.11, 0), BREAK, *wall])
    xml = visible("mesh", "pot", mesh=assets.mesh(pot))
    for _ in range(leaves):
        around, up = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 1.45)
        length = rng.uniform(0.18, 0.42)
        along = np.array([np.cos(around) * np.cos(up), np.sin(around) * np.cos(up), np.sin(up)])
        across = np.cross([0, 0, 1.0], along)
        across /= np.linalg.norm(across)
        place = (0, 0, 0.25) + along * length * rng.uniform(0.6, 1.4)
        axes = (*across, *np.cross(along, across))
        xml += visible("ellipsoid", "leaf", size=(0.035, 0.006, length / 2), pos=place, xyaxes=axes)
    return xml


class Wall:
    """A wall to hang things on.  name: x0, x1, y0 or y1, the side of the room; at: its coordinate in metres."""

    def __init__(self, name: str, at: float) -> None:
        self.along_y, self.at = name[0] == "x", at
        self.inward = 1 if name[1] == "0" else -1

    def place(self, along: float, height: float, out: float) -> tuple[float, float, float]:
        """Point `along` the wall at `height`, `out` metres inside the room."""
        inside = self.at + self.inward * out
        return (inside, along, height) if self.along_y else (along, inside, height)

    def half(self, along: float, height: float, out: float) -> tuple[float, float, float]:
        """Half sizes of a box along the wall, up and out of it."""
        return (out, along, height) if self.along_y else (along, out, height)


def window(rng: np.random.Generator, assets: Assets, wall: Wall, *, along: float) -> tuple[str, float]:
    """A window with a frame and often curtains; also its half width in metres."""
    assets.material("outdoors", texture=textures.outdoors, emission=0.55, specular=0, shininess=0)
    half_width, half_height, height = rng.uniform(0.45, 0.8), rng.uniform(0.45, 0.6), rng.uniform(1.55, 1.7)
    pane = wall.half(half_width, half_height, 0.006)
    xml = assets.box(pane, "outdoors", wall.place(along, height, 0.006), repeats=None, bevel=0.004)
    sill, lintel = (0, -half_height, half_width + 0.07, 0.035), (0, half_height, half_width + 0.04, 0.03)
    posts = [(offset, 0, bar, half_height) for offset, bar in ((half_width, 0.03), (-half_width, 0.03), (0, 0.018))]
    for shift, lift, half_along, half_up in (sill, lintel, *posts):
        place = wall.place(along + shift, height + lift, 0.022)
        xml += assets.box(wall.half(half_along, half_up, 0.022), "white", place, bevel=0.004)
    if rng.random() < 0.6:
        cloth = partial(textures.fabric, base=tint(rng, pick(rng, CURTAINS)))
        assets.material("curtain", texture=cloth, detail=0.5, repeat=(2, 4), specular=0.02, shininess=0.02)
        for side in (-1, 1):
            for fold in range(4):
                place = wall.place(along + side * (half_width + 0.02 + 0.055 * fold), height - 0.02, 0.05)
                size = (rng.uniform(0.025, 0.035), half_height + 0.12)
                xml += visible("capsule", "curtain", size=size, pos=place)
    return xml, half_width


def picture(rng: np.random.Generator, assets: Assets, wall: Wall, *, name: str, along: float) -> str:
    """A framed picture."""
    material = assets.material(name, texture=textures.painting, detail=0.5, specular=0.1, shininess=0.1)
    half_height = rng.uniform(0.16, 0.34)
    half = wall.half(half_height * rng.uniform(0.7, 1.4), half_height, 0.012)
    return assets.box(half, material, wall.place(along, rng.uniform(1.35, 1.75), 0.012), repeats=None, bevel=0.004)
