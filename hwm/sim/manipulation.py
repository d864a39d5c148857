"""Skills of the hands.  A skill is a generator that sets goals on the robot and yields seconds to wait.

It yields `Wait`s: how long, and the phase it is in (reach, grasp, lift ...), which the recording notes.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from hwm.sim.body.humanoid import Humanoid
from hwm.sim.body.reach import Pose
from hwm.sim.body.robot import SIDES, Side
from hwm.sim.home.objects import Grasp
from hwm.sim.home.room import Surface
from hwm.sim.home.scene import FIXTURES

UP = np.array([0, 0, 1.0])
REACHABLE = 1.25
"""Objects further than this from the base, metres, are left alone."""
HAND_ABOVE_BOARD = 0.055
"""Height of the palm over a board when it grasps something low, metres."""


class Wait(NamedTuple):
    seconds: float
    phase: str


Skill = Iterator[Wait]


def nearer_side(robot: Humanoid, point: np.ndarray) -> Side:
    """The hand on the point's side of the body; either one for points in the middle."""
    left = robot.leftward[:2] @ (point[:2] - robot.place[:2])
    if abs(left) < 0.10:
        return SIDES[int(robot.rng.integers(2))]
    return "left" if left > 0 else "right"


def _outward(robot: Humanoid, side: Side) -> np.ndarray:
    return robot.leftward * (1 if side == "left" else -1)


def grasp_pose(robot: Humanoid, side: Side, point: np.ndarray, grasp: Grasp | str) -> Pose:
    """The palm at a point: "side" closes around it from the side, "top" from above, "down" lies flat on it."""
    ahead = point - robot.where(f"{side}_upper_arm")
    ahead[2] = 0
    ahead /= np.linalg.norm(ahead) + 1e-9

    def inward(along: np.ndarray) -> np.ndarray:
        leftward = np.array([-along[1], along[0], 0])
        return leftward if side == "right" else -leftward

    ahead = 0.92 * ahead + 0.25 * inward(ahead)
    ahead /= np.linalg.norm(ahead)
    if grasp == "top":
        return Pose(point, 0.62 * ahead - 0.78 * UP, -0.70 * ahead - 0.55 * UP + 0.3 * inward(ahead))
    if grasp == "down":
        return Pose(point, 0.97 * ahead - 0.2 * UP, -UP - 0.1 * ahead)
    return Pose(point, 0.96 * ahead - robot.rng.uniform(0.1, 0.3) * UP, inward(ahead))


def things_in_reach(robot: Humanoid) -> list[str]:
    """Objects that lie on a board in front of the robot, can be grasped and are in no hand, nearest first."""
    found = []
    for name, thing in robot.scene.things.items():
        point = robot.where(name)
        way = point[:2] - robot.place[:2]
        distance = float(np.linalg.norm(way))
        ahead = way @ robot.forward[:2]
        if thing.grasp != "none" and point[2] > 0.6 and distance < REACHABLE and ahead > 0.3:
            if name not in robot.grip.held.values():
                found.append((distance, name))
    return [name for _, name in sorted(found)]


def pick_and_place(robot: Humanoid, surface: Surface) -> Skill:
    """Reach for an object, grasp it, lift it, perhaps inspect or carry it, and put it down somewhere else."""
    rng = robot.rng
    names = things_in_reach(robot)
    if not names:
        return
    name = names[int(rng.integers(len(names) if robot.style.full_body else min(3, len(names))))]
    thing, start = robot.scene.things[name], robot.where(name)
    side, speed = nearer_side(robot, start), rng.uniform(0.55, 1.1)
    board = start[2] - thing.height / 2
    point = start.copy()
    point[2] = max(start[2], board + HAND_ABOVE_BOARD) if thing.grasp == "side" else start[2] + 0.045
    robot.look(start, rng.uniform(0.5, 0.9))
    yield Wait(robot.face(start) + rng.uniform(0.05, 0.4), "reach")
    pose = grasp_pose(robot, side, point, thing.grasp)
    robot.hand(side, rng.uniform(0, 0.08))
    back_off = -pose.fingers * rng.uniform(0.10, 0.15) - 0.03 * pose.palm + rng.uniform(0.05, 0.12) * UP
    yield Wait(0.97 * robot.move_palm(side, pose.moved(back_off), speed=speed), "reach")
    pose = pose.moved((robot.where(name) - start) * [1, 1, 0])
    robot.look(pose.position)
    yield Wait(robot.move_palm(side, pose, speed=0.8 * speed) + 0.05, "reach")
    robot.hand(side, rng.uniform(0.55, 0.75), 0.45)
    yield Wait(0.38, "grasp")
    held = robot.grip.take(side, name)
    yield Wait(0.15, "grasp")
    if not held:
        robot.hand(side, 0.1, 0.4)
        yield Wait(0.3, "miss")
        yield Wait(robot.rest(side), "miss")
        return
    lift = rng.uniform(0.10, 0.28) * UP - rng.uniform(0, 0.12) * robot.forward
    yield Wait(robot.move_palm(side, pose.moved(lift), speed=speed) + rng.uniform(0, 0.4), "lift")
    choice = rng.random()
    if choice < 0.35:
        yield from _inspect(robot, side, pose, speed)
    elif choice < (0.6 if robot.style.full_body else 0.42):
        angle = rng.uniform(0.15, 0.5) * rng.choice([-1, 1])
        yield Wait(robot.turn(angle, rng.uniform(0.4, 0.8)) + 0.1, "carry")
    yield from _put_down(robot, side, name, surface, board=board, grip_height=pose.position[2] - board, speed=speed)


def _inspect(robot: Humanoid, side: Side, pose: Pose, speed: float) -> Skill:
    """Hold the object before the camera and twist it."""
    rng = robot.rng
    near = robot.eye + rng.uniform(0.36, 0.46) * robot.forward - rng.uniform(0.16, 0.26) * UP
    near += 0.06 * _outward(robot, side)
    yield Wait(robot.move_palm(side, pose._replace(position=near), speed=speed, lean=False), "inspect")
    for _ in range(int(rng.integers(1, 4))):
        goal = robot.tracks[side].goal.copy()
        goal[4] += rng.uniform(-0.7, 0.7)
        goal[6] += rng.uniform(-0.3, 0.3)
        yield Wait(robot.go(side, goal, rng.uniform(0.5, 0.9)), "inspect")


def _put_down(
    robot: Humanoid, side: Side, name: str, surface: Surface, *, board: float, grip_height: float, speed: float
) -> Skill:
    """Place the held object on a free spot of the surface in front."""
    rng, thing = robot.rng, robot.scene.things[name]
    spot = _free_spot(robot, side, name, surface, board)
    if spot is None:
        spot = robot.palm(side) * [1, 1, 0] + board * UP
    target = spot + (grip_height + 0.006) * UP
    pose = grasp_pose(robot, side, target, thing.grasp)
    robot.look(target)
    yield Wait(robot.face(target), "place")
    yield Wait(robot.move_palm(side, pose.moved(0.09 * UP), speed=speed), "place")
    yield Wait(robot.move_palm(side, pose, speed=0.7 * speed) + 0.1, "place")
    robot.grip.release(side)
    robot.hand(side, 0.05, 0.35)
    yield Wait(0.3, "release")
    away = -0.10 * pose.fingers - 0.02 * pose.palm + 0.08 * UP
    yield Wait(0.8 * robot.move_palm(side, pose.moved(away), speed=speed, lean=False), "release")
    if rng.random() < 0.7:
        robot.rest(side)
        yield Wait(rng.uniform(0.3, 0.8), "retreat")


def _free_spot(robot: Humanoid, side: Side, name: str, surface: Surface, board: float) -> np.ndarray | None:
    """A point on the board in front of the hand, clear of the other objects; None if there is hardly any."""
    things, rng = robot.scene.things, robot.rng
    others = [(robot.where(other)[:2], thing) for other, thing in things.items() if other != name]
    for _ in range(40):
        spot = np.r_[robot.place[:2], board] + rng.uniform(0.54, 0.74) * robot.forward
        spot += rng.uniform(-0.08, 0.36) * _outward(robot, side)
        gap = things[name].half_width + 0.03
        if not surface.holds(spot[0], spot[1], margin=0.09):
            continue
        if all(np.linalg.norm(place - spot[:2]) > gap + thing.half_width for place, thing in others):
            return spot
    return None


def push(robot: Humanoid, surface: Surface) -> Skill:
    """Push an object sideways or away with the palm or the fist."""
    rng = robot.rng
    names = things_in_reach(robot)
    if not names:
        return
    name = names[int(rng.integers(len(names)))]
    thing, point = robot.scene.things[name], robot.where(name)
    side = nearer_side(robot, point)
    way = -rng.uniform(0.6, 1) * _outward(robot, side) + rng.uniform(-0.1, 0.7) * robot.forward
    way /= np.linalg.norm(way)
    robot.look(point)
    yield Wait(robot.face(point), "reach")
    robot.hand(side, rng.uniform(0.0, 0.8))
    pose = grasp_pose(robot, side, point, "side")
    start = point - (thing.radius + 0.11) * way
    start[2] = point[2] - thing.height / 2 + 0.065
    end = start + rng.uniform(0.14, 0.28) * way
    yield Wait(robot.move_palm(side, pose._replace(position=start + 0.10 * UP), speed=1.1), "reach")
    yield Wait(robot.move_palm(side, pose._replace(position=start), speed=0.9), "reach")
    robot.look(end, 0.7)
    yield Wait(robot.move_palm(side, pose._replace(position=end), speed=rng.uniform(0.6, 1.1)), "push")
    away = end - 0.05 * way + 0.12 * UP
    yield Wait(0.7 * robot.move_palm(side, pose._replace(position=away), speed=1.1), "retreat")
    robot.rest(side)
    yield Wait(rng.uniform(0.4, 0.9), "retreat")


def wipe(robot: Humanoid, surface: Surface) -> Skill:
    """Rub over the board in ovals with a flat hand."""
    rng = robot.rng
    side = SIDES[int(rng.integers(2))]
    outward = _outward(robot, side)
    middle = np.r_[robot.place[:2], surface.height + 0.075] + rng.uniform(0.56, 0.68) * robot.forward
    middle += rng.uniform(0.1, 0.28) * outward
    pose, radius = grasp_pose(robot, side, middle, "down"), rng.uniform(0.04, 0.09)
    robot.look(middle)
    robot.hand(side, 0.1)
    yield Wait(robot.move_palm(side, pose.moved(0.07 * UP), speed=1.1), "reach")
    beat, phase = rng.uniform(0.18, 0.28), rng.uniform(0, 2 * np.pi)
    for number in range(int(rng.integers(8, 18))):
        angle = phase + 0.9 * number
        around = radius * np.sin(angle) * robot.forward + 1.5 * radius * np.cos(angle) * outward
        arm = robot.reach(side, pose.moved(around), lean=False, iterations=30).arm
        robot.go(side, arm, 1.35 * beat)
        yield Wait(beat, "wipe")
    robot.rest(side)
    yield Wait(0.8, "retreat")


def open_fixture(robot: Humanoid, surface: Surface) -> Skill:
    """Open the drawer or the door of the sideboard along its path, and often close it again."""
    rng = robot.rng
    fixture = FIXTURES[int(rng.integers(2))]
    handle = robot.data.site(f"handle_{fixture}").xpos.copy()
    side, forward = nearer_side(robot, handle), robot.forward
    palm = grasp_pose(robot, side, handle, "down" if fixture == "drawer" else "side").palm
    pose = Pose(handle, 0.97 * forward - 0.15 * UP, palm)
    robot.look(handle, 0.7)
    robot.hand(side, 0.15)
    # A point well in front of the furniture comes first, or the hand lands on the top board.
    for back, up, speed, share in ((0.24, 0.06, 1.0, 0.95), (0.10, 0.01, 0.9, 0.97), (0.012, 0.0, 0.8, 1.05)):
        yield Wait(share * robot.move_palm(side, pose.moved(up * UP - back * forward), speed=speed), "reach")
    robot.hand(side, 0.8, 0.4)
    yield Wait(0.4, "grasp")
    if not robot.grip.take_handle(side, fixture):
        yield Wait(robot.rest(side), "miss")
        return
    path = _drawer_path(handle, forward) if fixture == "drawer" else _door_path(handle, robot.where("door"))
    opened = rng.uniform(0.12, 0.24) if fixture == "drawer" else rng.uniform(0.4, 0.9)
    closes = rng.random() < 0.5
    yield from _follow(robot, side, pose, path, 0.0, opened, f"open {fixture}")
    if closes:
        yield from _follow(robot, side, pose, path, opened, rng.uniform(0, 0.03), f"close {fixture}")
    robot.grip.release(side)
    robot.hand(side, 0.05, 0.35)
    yield Wait(0.35, "release")
    away = pose._replace(position=robot.palm(side) - 0.12 * forward + 0.05 * UP)
    yield Wait(0.8 * robot.move_palm(side, away, lean=False), "retreat")
    robot.rest(side)
    yield Wait(0.8, "retreat")


Path = Callable[[float], np.ndarray]


def _drawer_path(handle: np.ndarray, forward: np.ndarray) -> Path:
    """Place of the handle with the drawer pulled out by so many metres."""
    return lambda distance: handle - distance * forward


def _door_path(handle: np.ndarray, hinge: np.ndarray) -> Path:
    """Place of the handle with the door turned by so many radians."""
    x, y, z = handle - hinge

    def at(angle: float) -> np.ndarray:
        cos, sin = np.cos(angle), np.sin(angle)
        return hinge + np.array([cos * x - sin * y, sin * x + cos * y, z])

    return at


def _follow(robot: Humanoid, side: Side, pose: Pose, path: Path, start: float, end: float, phase: str) -> Skill:
    """Take a held handle along its path, slow at both ends."""
    rng, steps = robot.rng, 6
    for t in np.arange(1, steps + 1) / steps:
        eased = start + (end - start) * (10 * t**3 - 15 * t**4 + 6 * t**5)
        target = pose._replace(position=path(eased) - 0.012 * robot.forward)
        found = robot.reach(side, target, lean=True, iterations=35)
        seconds = 0.32 / rng.uniform(0.8, 1.2)
        robot.go(side, found.arm, 1.3 * seconds)
        robot.go("leg", found.leg, 1.6 * seconds)
        yield Wait(seconds, phase)
    robot.look(path(end), 0.5)
    yield Wait(rng.uniform(0.2, 0.5), phase)
