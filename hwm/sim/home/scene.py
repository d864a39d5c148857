"""One episode's world: a room plus objects, light and the robot, compiled into a MuJoCo model.

The room seed decides what stays in a home (walls, furniture, textures); the episode seed what changes from one
recording to the next (objects and their places, light, camera mounting, the robot's colours).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hwm.sim.body.robot import SIDES, Camera, robot_actuators, robot_assets, robot_body
from hwm.sim.home.mjcf import HIDDEN_GROUP, VISIBLE_GROUP, Assets, body, compile_model, tag
from hwm.sim.home.objects import EASY_KINDS, Thing, make_thing, random_kind
from hwm.sim.home.palette import pick
from hwm.sim.home.room import Room, Surface, build_room

EPISODE_STREAM = 11
TIMESTEP = 1 / 240
FIXTURES = ("drawer", "door")
NUM_OBJECTS = (6, 10)
"""At least, and one more than at most."""
REACH_IN = (0.06, 0.28)
"""Distances from the near edge of the table at which objects start, metres."""


@dataclass(frozen=True)
class Shift:
    """How a world differs from those that training shows; by default in nothing.

    light: factor of all light.  friction: factor of all friction of things that touch.  camera: metres that the head
    camera sits higher than it does.
    """

    light: float = 1.0
    friction: float = 1.0
    camera: float = 0.0


@dataclass(frozen=True)
class Scene:
    """A compiled world.  things: movable objects by name, in the order they were placed."""

    room: Room
    episode: int
    model: Any
    things: dict[str, Thing]


def build_scene(
    room_seed: int, episode: int, *, texture_size: int = 128, image_size: int = 64, shift: Shift = Shift(),
) -> Scene:  # fmt: skip
    """Build the world of one episode.  States depend on the two seeds and on friction only, never on the two sizes."""
    room = build_room(room_seed, texture_size)
    rng = np.random.default_rng([EPISODE_STREAM, episode])
    assets = Assets(episode, texture_size=texture_size, prefix="episode")
    robot_assets(rng, assets)
    robot = robot_body(_raised(Camera.mounted(rng), shift.camera))
    lights = _lights(rng, room, shift.light)
    placed = _place_things(rng, room, assets)
    things = {thing.name: thing for thing, _, _ in placed}
    bodies = "".join(body(t.name, pos, tag("freejoint") + t.xml, yaw=yaw) for t, pos, yaw in placed)
    parts = [room.assets, assets]
    xml = tag(
        "mujoco",
        tag("compiler", angle="degree", autolimits=True, eulerseq="xyz")
        + tag("option", timestep=TIMESTEP, integrator="implicitfast", iterations=20, ls_iterations=10)
        + tag("size", memory="64M")
        + tag("statistic", extent=4, center=(0, 0, 1))
        + _visual(image_size)
        + _defaults()
        + tag("asset", "".join(m for part in parts for m in part.materials.values()))
        + tag("worldbody", lights + room.xml + bodies + robot)
        + tag("equality", _grips(things))
        + tag("actuator", robot_actuators()),
        model="room",
    )
    model = compile_model(xml, parts)
    if shift.friction != 1:
        model.geom_friction *= shift.friction
    return Scene(room, episode, model, things)


def _raised(camera: Camera, metres: float) -> Camera:
    x, y, z = camera.place
    return replace(camera, place=(x, y, z + metres))


def _place_things(rng: np.random.Generator, room: Room, assets: Assets) -> list[tuple[Thing, tuple[float, float, float], float]]:
    """Objects with their positions (metres) and headings (radians), apart from each other; some on the sideboard."""
    placed: list[tuple[Thing, tuple[float, float, float], float]] = []
    for number in range(int(rng.integers(*NUM_OBJECTS))):
        on_sideboard = number in (1, 3) or (number >= 6 and rng.random() < 0.5)
        kind = pick(rng, EASY_KINDS) if number in (1, 2) else random_kind(rng)
        thing = make_thing(rng, assets, f"object{number}", kind)
        yaw = rng.uniform(-np.pi, np.pi)
        surface = room.sideboard if on_sideboard else room.table
        for _ in range(60):
            x, y = _random_spot(rng, surface)
            others = [(other, pos) for other, pos, _ in placed]
            if all(np.hypot(x - p[0], y - p[1]) > thing.half_width + o.half_width + 0.03 for o, p in others):
                placed.append((thing, (x, y, surface.height + thing.height / 2 + 0.002), yaw))
                break
    return placed


def _random_spot(rng: np.random.Generator, surface: Surface) -> tuple[float, float]:
    """A point where an object may start: within reach on the table, anywhere on the sideboard."""
    if surface.name == "table":
        return surface.x - surface.depth / 2 + rng.uniform(*REACH_IN), rng.uniform(-0.40, 0.40)
    ahead = rng.uniform(0.10 - surface.depth / 2, surface.depth / 2 - 0.14)
    return surface.to_world(ahead, rng.uniform(0.12 - surface.width / 2, surface.width / 2 - 0.12))


def _lights(rng: np.random.Generator, room: Room, factor: float) -> str:
    """A ceiling lamp that casts shadows, and a soft fill light that also carries the ambient light.

    Their number and kinds never change: the ray tracer compiles them into its kernel.  factor: of their strength.
    """
    warmth, strength = rng.uniform(-0.06, 0.10), rng.uniform(0.46, 0.66)
    x, y = rng.uniform(-0.3, 1.0), rng.uniform(-0.9, 0.9) + 0.35 * room.side
    fill_x, fill_y = rng.uniform(-1.2, 0.6), -np.sign(y) * rng.uniform(0.2, 1.2)
    fill, ambient = rng.uniform(0.16, 0.28), rng.uniform(0.34, 0.46)
    strength, fill, ambient = (factor * light for light in (strength, fill, ambient))
    place = np.array([x, y, room.ceiling - 0.04])
    aim = np.array([room.table.x - room.table.depth / 2 + 0.25, 0, room.table.height]) - place
    aim[:2] *= 0.35
    lamp = tag(
        "light", name="lamp", type="spot", castshadow=True, cutoff=80, exponent=rng.uniform(0.5, 2), pos=place,
        dir=aim / np.linalg.norm(aim), diffuse=np.clip(strength * np.array([1 + warmth, 1, 1 - 1.4 * warmth]), 0, 1),
        specular=(0.3, 0.3, 0.3),
    )  # fmt: skip
    sky = tag(
        "light", name="fill", type="directional", castshadow=False, pos=(0, 0, 2),
        dir=(-0.5 * np.sign(fill_x), -0.45 * np.sign(fill_y), -0.75), ambient=(ambient, ambient, ambient),
        diffuse=(fill, 0.97 * fill, 0.92 * fill), specular=(0.1, 0.1, 0.1),
    )  # fmt: skip
    return lamp + sky


def _grips(things: dict[str, Thing]) -> str:
    """Inactive constraints that a successful grasp switches on: a weld per hand and object, a pin per handle."""
    xml = ""
    for side in SIDES:
        for name in things:
            xml += tag(
                "weld", name=f"{side}_{name}", body1=f"{side}_hand", body2=name, active=False, solref=(0.015, 1),
                solimp=(0.95, 0.99, 0.001),
            )  # fmt: skip
        for fixture in FIXTURES:
            xml += tag(
                "connect", name=f"{side}_{fixture}", site1=f"{side}_palm", site2=f"handle_{fixture}", active=False,
                solref=(0.02, 1), solimp=(0.9, 0.95, 0.001),
            )  # fmt: skip
    return xml


def _visual(image_size: int) -> str:
    """Values that the ray tracer compiles into its kernel are the same in every scene."""
    side = max(image_size, 64)
    return tag(
        "visual",
        tag("global", offwidth=side, offheight=side, fovy=60)
        + tag("quality", shadowsize=1024, offsamples=0, numslices=20, numstacks=12, numquads=4)
        + tag("headlight", active=0)
        + tag("map", znear=0.008, zfar=6, shadowclip=0.9, shadowscale=0.6),
    )


def _defaults() -> str:
    """Geom classes.  Collisions: objects meet everything, the robot objects and furniture, never itself."""
    see, hide, nothing = VISIBLE_GROUP, HIDDEN_GROUP, (0, 0, 0, 0)
    geom: dict[str, dict[str, Any]] = {
        "visible": {"contype": 0, "conaffinity": 0, "group": see, "mass": 0},
        "wall": {"contype": 0, "conaffinity": 0, "group": see},
        "floor": {"contype": 4, "conaffinity": 3, "group": see, "friction": (1, 0.01, 0.001)},
        "furniture": {"contype": 4, "conaffinity": 3, "group": hide, "rgba": nothing, "friction": (1, 0.01, 0.001)},
        "robot": {"contype": 2, "conaffinity": 5, "friction": (1.2, 0.02, 0.001), "condim": 4},
        "object": {"contype": 1, "conaffinity": 7, "group": hide, "rgba": nothing, "condim": 4},
    }
    return tag("default", "".join(tag("default", tag("geom", **values), class_=name) for name, values in geom.items()))
