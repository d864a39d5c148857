"""A furnished room made from one seed: walls, floor, furniture and their materials; no objects, light or robot."""

from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from hwm.sim.home import furniture, textures
from hwm.sim.home.furniture import Wall
from hwm.sim.home.mjcf import Assets, body, tag
from hwm.sim.home.palette import CARPETS, WALLS, WOODS, pick, tint

ROOM_STREAM = 7
"""Tells the generator of a room's layout apart from others made from the same seed."""
EDGE = 0.06
"""Objects are put down at least this far from the edge of a surface, metres."""


@dataclass(frozen=True)
class Surface:
    """A horizontal board on which things can stand.

    x, y, yaw: its middle and the direction from the robot's place in front of it, in metres and radians.
    depth, width, height: metres, depth along `yaw`.
    """

    name: str
    x: float
    y: float
    yaw: float
    depth: float
    width: float
    height: float

    def to_world(self, ahead: float, left: float) -> tuple[float, float]:
        """World coordinates of a point `ahead` (away from the robot) and `left` of the middle."""
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        return self.x + cos * ahead - sin * left, self.y + sin * ahead + cos * left

    def holds(self, x: float, y: float, *, margin: float = EDGE) -> bool:
        """Whether the world point lies on the board, `margin` metres from its edges."""
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        dx, dy = x - self.x, y - self.y
        ahead, left = cos * dx + sin * dy, cos * dy - sin * dx
        return bool(abs(ahead) < self.depth / 2 - margin and abs(left) < self.width / 2 - margin)


@dataclass(frozen=True)
class Room:
    """A room without its inhabitant.  The robot's home is the origin, facing the table along +x.

    bounds: x0, x1, y0, y1 of the walls, metres.  side: +1 if the sideboard stands on the left (y > 0), else -1.
    """

    seed: int
    xml: str
    assets: Assets
    table: Surface
    sideboard: Surface
    bounds: tuple[float, float, float, float]
    ceiling: float
    side: int

    def surface(self, name: str) -> Surface:
        return self.table if name == "table" else self.sideboard


@lru_cache(maxsize=4)
def build_room(seed: int, texture_size: int) -> Room:
    """Furnish a room.  The layout depends on the seed alone; texture_size (texels) only on how large it is seen."""
    rng = np.random.default_rng([ROOM_STREAM, seed])
    assets = Assets(seed, texture_size=texture_size, prefix="room")
    furniture.common_materials(rng, assets)
    table_near = rng.uniform(0.42, 0.50)
    depth, width, height = rng.uniform(0.6, 0.85), rng.uniform(1.1, 1.7), rng.uniform(0.70, 0.80)
    gap_behind_table = rng.uniform(0.05, 1.6) if rng.random() < 0.6 else 0.02
    table = Surface("table", table_near + depth / 2, rng.uniform(-0.15, 0.15), 0.0, depth, width, height)
    side = int(rng.choice([-1, 1]))
    near_wall, far_wall = side * rng.uniform(1.75, 2.2), -side * rng.uniform(1.7, 2.8)
    bounds = (-rng.uniform(1.9, 3.2), table_near + depth + gap_behind_table, min(near_wall, far_wall), max(near_wall, far_wall))
    ceiling = rng.uniform(2.5, 2.9)
    sideboard = _place_sideboard(rng, side, near_wall)
    xml = _shell(rng, assets, bounds, ceiling)
    legs = furniture.table(rng, assets, width=depth, length=width, height=height)
    xml += body("table", (table.x, table.y, 0), legs)
    board = furniture.sideboard(assets, width=sideboard.width, depth=sideboard.depth, height=sideboard.height)
    xml += body("sideboard", (sideboard.x, sideboard.y, 0), board, yaw=sideboard.yaw)
    xml += _on_the_walls(rng, assets, bounds, side) + _around(rng, assets, bounds, side)
    return Room(seed, xml, assets, table, sideboard, bounds, ceiling, side)


def _place_sideboard(rng: np.random.Generator, side: int, wall: float) -> Surface:
    """The sideboard stands against the wall y = `wall`, its front to the room."""
    width, depth, height = rng.uniform(0.95, 1.25), rng.uniform(0.38, 0.46), rng.uniform(0.82, 0.96)
    return Surface("sideboard", rng.uniform(-0.35, 0.1), wall - side * (depth / 2 + 0.03), side * np.pi / 2, depth, width, height)


def _shell(rng: np.random.Generator, assets: Assets, bounds: tuple[float, float, float, float], ceiling: float) -> str:
    """Floor, ceiling, walls, baseboards and often a rug."""
    colour = tint(rng, pick(rng, WALLS))
    second = tint(rng, pick(rng, WALLS)) if rng.random() < 0.4 else colour
    for name, wall_colour in (("wall_a", colour), ("wall_b", second)):
        painter = textures.wallpaper if rng.random() < 0.3 else textures.plaster
        assets.material(name, texture=partial(painter, base=wall_colour), repeat=(3, 2), specular=0.05, shininess=0.05)
    assets.material("ceiling", (0.93, 0.93, 0.92), specular=0, shininess=0)
    _floor_material(rng, assets)
    x0, x1, y0, y1 = bounds
    x, y, half_x, half_y, half_z = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2, ceiling / 2

    def plane(place: tuple[float, float, float], half: tuple[float, float], euler: str, material: str) -> str:
        size = (*half, 0.1)
        return tag("geom", class_="wall", type="plane", size=size, pos=place, euler=euler, material=material)

    xml = tag("geom", class_="floor", type="plane", size=(half_x, half_y, 0.1), pos=(x, y, 0), material="floor")
    xml += plane((x, y, ceiling), (half_x, half_y), "180 0 0", "ceiling")
    xml += plane((x1, y, half_z), (half_y, half_z), "90 -90 0", "wall_a")
    xml += plane((x0, y, half_z), (half_y, half_z), "90 90 0", "wall_b")
    xml += plane((x, y1, half_z), (half_x, half_z), "90 0 0", "wall_a")
    xml += plane((x, y0, half_z), (half_x, half_z), "-90 0 180", "wall_b")
    for wall_x in (x0 + 0.008, x1 - 0.008):
        xml += assets.box((0.008, half_y, 0.05), "white", (wall_x, y, 0.05), bevel=0.004)
    for wall_y in (y0 + 0.008, y1 - 0.008):
        xml += assets.box((half_x, 0.008, 0.05), "white", (x, wall_y, 0.05), bevel=0.004)
    if rng.random() < 0.6:
        assets.material("rug", texture=textures.rug, specular=0.02, shininess=0.02)
        half = (rng.uniform(0.7, 1.1), rng.uniform(0.9, 1.5), 0.006)
        place = (rng.uniform(-0.8, 0.2), rng.uniform(-0.4, 0.4), 0.006)
        xml += assets.box(half, "rug", place, repeats=None, bevel=0.003)
    return xml


def _floor_material(rng: np.random.Generator, assets: Assets) -> None:
    kind = pick(rng, ("planks", "planks", "tiles", "carpet"))
    if kind == "planks":
        texture = partial(textures.wood, base=pick(rng, WOODS), planks=6)
    elif kind == "tiles":
        texture = partial(textures.tiles, base=tint(rng, (0.78, 0.75, 0.70)))
    else:
        texture = partial(textures.carpet, base=tint(rng, pick(rng, CARPETS)))
    gloss = (0.02, 0.02) if kind == "carpet" else (0.25, 0.3)
    assets.material("floor", texture=texture, repeat=(4, 4), specular=gloss[0], shininess=gloss[1])


def _on_the_walls(rng: np.random.Generator, assets: Assets, bounds: tuple[float, float, float, float], side: int) -> str:
    """One window and some pictures."""
    walls = {name: Wall(name, at) for name, at in zip(("x0", "x1", "y0", "y1"), bounds)}
    near, far = ("y1", "y0") if side > 0 else ("y0", "y1")
    window_wall, window_at = pick(rng, ("x1", "x1", far, near)), rng.uniform(-0.5, 0.5)
    xml, window_half = furniture.window(rng, assets, walls[window_wall], along=window_at)
    for name in ("x1", near, far, "x0"):
        for number in range(int(rng.integers(1, 3))):
            along = rng.uniform(-1.2, 1.2)
            if name == window_wall and abs(along - window_at) < window_half + 0.45:
                continue
            xml += furniture.picture(rng, assets, walls[name], name=f"picture_{name}_{number}", along=along)
    return xml


def _around(rng: np.random.Generator, assets: Assets, bounds: tuple[float, float, float, float], side: int) -> str:
    """Furniture that the robot only sees: a shelf opposite the sideboard, a sofa behind, a lamp and a plant."""
    x0, x1, y0, y1 = bounds
    near, far = (y1, y0) if side > 0 else (y0, y1)
    shelf_place = (rng.uniform(-1.0, 0.9), far + side * 0.17, 0)
    xml = body("shelf", shelf_place, furniture.bookshelf(rng, assets), yaw=-side * np.pi / 2)
    sofa_place, sofa_yaw = (x0 + 0.45, rng.uniform(-0.5, 0.5), 0), rng.uniform(-0.1, 0.1)
    xml += body("sofa", sofa_place, furniture.sofa(rng, assets), yaw=sofa_yaw)
    if rng.random() < 0.8:
        xml += body("lamp", (x1 - 0.35, far + side * 0.35, 0), furniture.floor_lamp(assets))
    if rng.random() < 0.8:
        xml += body("plant", (x1 - 0.3, near - side * 0.32, 0), furniture.plant(rng, assets))
    return xml
