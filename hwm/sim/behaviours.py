"""What the robot does with its day: a weighted menu of skills at two places, and the ways between them.

A skill is a generator of `Wait`s (see manipulation.py).  Idle moments stay short: a recording is mostly action.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from hwm.sim.body.humanoid import Humanoid
from hwm.sim.body.motion import wrap
from hwm.sim.body.reach import Pose
from hwm.sim.body.robot import SIDES
from hwm.sim.home.room import Surface
from hwm.sim.manipulation import UP, Skill, Wait, open_fixture, pick_and_place, push, wipe

TABLE_FIRST = 0.72
"""Share of recordings that begin at the table."""
WALL_CLEARANCE = 0.95


def wave(robot: Humanoid, surface: Surface) -> Skill:
    """Raise a hand and wave."""
    rng = robot.rng
    side = SIDES[int(rng.integers(2))]
    out = 1 if side == "left" else -1
    pitch, roll, yaw = rng.uniform(-1.5, -0.9), out * rng.uniform(0.15, 0.5), -out * rng.uniform(-0.1, 0.4)
    goal = np.array([pitch, roll, yaw, rng.uniform(-2.0, -1.5), out * rng.uniform(-0.4, 0.4), 0, 0])
    robot.hand(side, 0.02)
    robot.go("neck", [rng.uniform(0.1, 0.4)], 1.1)
    yield Wait(robot.go(side, goal, robot.arm_duration(side, goal, shortest=0.8)), "raise")
    swing, beat = rng.uniform(0.25, 0.5), rng.uniform(0.32, 0.55)
    for number in range(int(rng.integers(3, 7))):
        way = 1 if number % 2 else -1
        yield Wait(robot.go(side, goal + way * np.array([0, 0, out * swing, 0, 0, 0, 0.2]), beat), "wave")
    robot.rest(side)
    yield Wait(rng.uniform(0.5, 1.0), "retreat")


def gesture(robot: Humanoid, surface: Surface) -> Skill:
    """Bring both hands together or apart, like someone explaining."""
    rng = robot.rng
    for _ in range(int(rng.integers(1, 4))):
        apart = rng.uniform(0.05, 0.32)
        middle = robot.where("torso") + rng.uniform(0.42, 0.60) * robot.forward + rng.uniform(0.06, 0.26) * UP
        longest = 0.0
        for side, sign in zip(SIDES, (1, -1)):
            fingers = robot.forward + rng.uniform(-0.2, 0.5) * UP
            palm = -sign * robot.leftward if rng.random() < 0.7 else UP
            pose = Pose(middle + sign * apart * robot.leftward, fingers, palm)
            longest = max(longest, robot.move_palm(side, pose, speed=1.1, lean=False, shortest=0.6))
            robot.hand(side, rng.uniform(0, 0.7))
        yield Wait(longest + rng.uniform(0, 0.3), "gesture")
    robot.rest()
    yield Wait(0.7, "retreat")


def look_around(robot: Humanoid, surface: Surface) -> Skill:
    """Let the eyes wander with neck and hips."""
    rng = robot.rng
    for _ in range(int(rng.integers(2, 5))):
        robot.go("neck", [rng.uniform(0.0, 0.7)], rng.uniform(0.9, 1.6))
        goal = robot.tracks["leg"].goal.copy()
        goal[:2] = rng.uniform(-0.6, 0.6), rng.uniform(-0.06, 0.06)
        robot.go("leg", goal, robot.leg_duration(goal, speed=1.3, shortest=0.9))
        yield Wait(rng.uniform(0.9, 1.8), "look")
    goal = robot.tracks["leg"].goal.copy()
    goal[:2] = rng.normal(0, 0.04), 0
    robot.go("leg", goal, robot.leg_duration(goal, speed=1.9, shortest=0.7))
    robot.go("neck", [rng.uniform(0.35, 0.6)], 0.8)
    yield Wait(0.9, "look")


def squat(robot: Humanoid, surface: Surface) -> Skill:
    """Bend the knees and come up again."""
    rng = robot.rng
    depth, goal = rng.uniform(0.1, 0.9), robot.standing.copy()
    goal[2] -= 0.5 * depth + rng.uniform(-0.1, 0.15)
    goal[3] += depth
    goal[5] -= 0.5 * depth
    seconds = robot.leg_duration(goal, speed=1.9, shortest=0.9)
    robot.go("leg", goal, seconds)
    yield Wait(seconds + rng.uniform(0.1, 0.6), "down")
    yield Wait(robot.go("leg", robot.standing, seconds), "up")


def idle(robot: Humanoid, surface: Surface) -> Skill:
    """Stand still for a moment."""
    rng = robot.rng
    side = SIDES[int(rng.integers(2))]
    if rng.random() < 0.6:
        robot.rest(side, legs=False)
    yield Wait(rng.uniform(0.8, 2.0), "idle")


def wander(robot: Humanoid, surface: Surface) -> Skill:
    """Back off, turn to the room, perhaps drive a bit and wave."""
    rng = robot.rng
    robot.rest()
    yield Wait(0.4, "stow")
    yield Wait(robot.drive(-rng.uniform(0.35, 0.6), rng.uniform(0.25, 0.4)) + 0.05, "back off")
    robot.go("neck", [rng.uniform(0.1, 0.5)], 0.8)
    angle = rng.uniform(0.5, 2.4) * rng.choice([-1, 1])
    yield Wait(robot.turn(angle, rng.uniform(0.5, 0.95)) + rng.uniform(0.1, 0.6), "turn")
    x0, _, y0, y1 = robot.scene.room.bounds
    ahead = robot.place[:2] + 0.5 * robot.forward[:2]
    if x0 + 1.3 < ahead[0] < 0.1 and y0 + WALL_CLEARANCE < ahead[1] < y1 - WALL_CLEARANCE:
        yield Wait(robot.drive(rng.uniform(0.2, 0.5), rng.uniform(0.25, 0.45)) + 0.1, "drive")
    if rng.random() < 0.6:
        yield from wave(robot, surface)


def drive_to(robot: Humanoid, x: float, y: float, yaw: float) -> Skill:
    """Turn, drive, turn: the way to a place; short ways behind are backed up."""
    rng = robot.rng
    robot.rest()
    robot.go("neck", [rng.uniform(0.25, 0.45)], 1.0)
    way = np.array([x, y]) - robot.place[:2]
    distance = float(np.linalg.norm(way))
    if distance > 0.06:
        angle = wrap(np.arctan2(way[1], way[0]) - robot.place[2])
        backwards = abs(angle) > 1.9 and distance < 0.9
        angle = wrap(angle + np.pi) if backwards else angle
        if abs(angle) > 0.03:
            yield Wait(robot.turn(angle, rng.uniform(0.55, 0.95)) + 0.03, "turn")
        yield Wait(robot.drive(-distance if backwards else distance, rng.uniform(0.28, 0.5)) + 0.03, "drive")
    angle = wrap(yaw - robot.place[2])
    if abs(angle) > 0.02:
        yield Wait(robot.turn(angle, rng.uniform(0.55, 0.95)) + 0.03, "turn")


def station(robot: Humanoid, surface: Surface) -> tuple[float, float, float]:
    """A place (x, y, yaw) to stand at in front of a surface."""
    rng, nearer = robot.rng, robot.style.step_up
    if surface.name == "table":
        return nearer + rng.normal(0, 0.015), rng.uniform(-0.22, 0.22), rng.normal(0, 0.05)
    distance = surface.depth / 2 + rng.uniform(0.50, 0.56) - 0.5 * nearer
    x, y = surface.to_world(-distance, rng.uniform(-0.25, 0.25))
    return x, y, surface.yaw + rng.normal(0, 0.05)


class Choice(NamedTuple):
    """A skill on the menu.  calm, lively: how often an arms-only and a full-body operator choose it."""

    skill: Callable[[Humanoid, Surface], Skill]
    calm: float
    lively: float


MENU = {
    "table": (
        Choice(pick_and_place, 5.5, 5.5),
        Choice(push, 1.8, 1.6),
        Choice(wipe, 1.4, 1.4),
        Choice(wave, 0.8, 0.8),
        Choice(gesture, 0.7, 0.7),
        Choice(look_around, 0.15, 0.6),
        Choice(squat, 0.08, 0.3),
        Choice(wander, 0.18, 0.8),
        Choice(idle, 0.5, 0.4),
    ),
    "sideboard": (
        Choice(open_fixture, 4.0, 4.0),
        Choice(pick_and_place, 2.5, 2.5),
        Choice(wipe, 0.6, 0.6),
        Choice(gesture, 0.6, 0.6),
        Choice(wave, 0.4, 0.4),
        Choice(look_around, 0.12, 0.5),
        Choice(idle, 0.3, 0.3),
    ),
}
MOVES_ON = {False: 0.05, True: 0.16}
"""Probability that the robot changes its place after a skill, by whether the operator uses the full body."""


def episode(robot: Humanoid, surface: Surface) -> Iterator[tuple[float, str]]:
    """Endless work, starting at a surface: seconds to wait and what is being done ("push: reach")."""
    rng, room, full_body = robot.rng, robot.scene.room, robot.style.full_body
    while True:
        menu = MENU[surface.name]
        weights = np.array([choice.lively if full_body else choice.calm for choice in menu])
        skill = menu[int(rng.choice(len(menu), p=weights / weights.sum()))].skill
        name = skill.__name__.replace("_", " ")
        for wait in skill(robot, surface):
            yield wait.seconds, f"{name}: {wait.phase}"
        robot.grip.release()
        if skill is wander or rng.random() < MOVES_ON[full_body]:
            stays = (surface.name == "table") == (rng.random() < 0.4)
            surface = room.table if stays else room.sideboard
            if skill is not wander:
                yield robot.drive(-rng.uniform(0.2, 0.3), 0.3), "go: back off"
            for wait in drive_to(robot, *station(robot, surface)):
                yield wait.seconds, f"go: {wait.phase}"
        yield (rng.uniform(0.1, 0.4) if rng.random() < 0.65 else rng.uniform(0.4, 1.2)), "pause"
