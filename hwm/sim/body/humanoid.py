"""The robot in a scene: set-points in, physics, states out; the moves that behaviours are made of.

Grasp assistance: closed fingers push an object, and a constraint that is switched on then holds it fast.

Friction alone drops most objects at this time step.  A grasp succeeds only if the palm is close enough; misses stay misses.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwm.robot import EVE
from hwm.sim.body.motion import Track, Tremor, natural_duration
from hwm.sim.body.reach import ARM_SLICE, Pose, Reach, Reacher
from hwm.sim.body.robot import BASE, CAMERA, FINGER_CLOSED, FINGERS, JOINTS, LEG, NUM_JOINTS, SIDES, Side
from hwm.sim.home.objects import Thing
from hwm.sim.home.scene import FIXTURES, TIMESTEP, Scene

HZ = 30
SUBSTEPS = round(1 / HZ / TIMESTEP)
STANDING = np.array([0, 0, -0.42, 0.88, 0, -0.44])
"""Angles of the leg column, its six joints in order."""
AT_WORK = np.array([0, 0, -0.27, 0.27, 0, -0.13])
"""Added by an operator who works with the arms alone: knees bent and torso forward, so that the arms reach far."""
STANDING_SPREAD = np.array([0.02, 0.01, 0.04, 0.05, 0.005, 0.03])
ARM_RESTING = {
    "left": np.array([-0.35, 0.18, -0.25, -1.35, -0.1, 0, 0]),
    "right": np.array([-0.35, -0.18, 0.25, -1.35, 0.1, 0, 0]),
}
ARM_SPREAD = 0.10 * np.array([1, 0.6, 1, 1.2, 1, 0.5, 0.5])
NECK_RESTING = 0.42
HAND_RESTING = 0.15
TREMOR = np.array([0.006, 0.003, 0.006, 0.006, 0.001, 0.003] + 2 * [0.016, 0.012, 0.016, 0.018, 0.02, 0.02, 0.02] + [0.012])
ARM_SPEED, LEG_SPEED = 1.05, 0.28
"""Peak joint speeds of an unhurried move, rad/s."""
POSE_GAIN = 4.0
"""Base velocity per metre or radian of position error, 1/s."""
LIMIT_MARGIN = 0.01
HOLDS_FROM, LETS_GO_BELOW = 0.5, 0.3
"""Closures at which a commanded hand takes what it reaches, and lets go (ours; behaviours close to 0.55 or more, open to 0.1)."""


@dataclass(frozen=True)
class Style:
    """How an operator drives the robot.

    full_body: leans, turns and looks around freely; otherwise the arms do nearly everything.
    posture: angles of the leg column when nothing else is wanted.  posture_spread: how much it varies, 1: freely.
    step_up: metres by which the robot stands nearer to its work.  lean_beyond: metres that an arm must miss by before the torso
    helps.  looks_elsewhere: probability that a wish to look somewhere is acted on.
    """

    full_body: bool
    posture: np.ndarray
    posture_spread: float
    step_up: float
    lean_beyond: float
    looks_elsewhere: float


FULL_BODY = Style(True, STANDING, 1.0, 0.0, 0.02, 1.0)
ARMS_ALONE = Style(False, STANDING + AT_WORK, 0.25, 0.10, 0.06, 0.2)


class Humanoid:
    """One robot at work.  Times are seconds of simulated time, angles radians, lengths metres.

    rng drives everything undecided: posture, tremor and, through the behaviours, the choice of actions.
    """

    def __init__(self, scene: Scene, rng: np.random.Generator, style: Style) -> None:
        import mujoco

        self._mujoco = mujoco
        self.scene, self.rng, self.style, self.time = scene, rng, style, 0.0
        model = self.model = scene.model
        self.data = mujoco.MjData(model)

        def places(names: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            """Of joints in qpos and in qvel, and of their servos."""
            joints = [model.joint(name) for name in names]
            in_qpos, in_qvel = np.array([(joint.qposadr[0], joint.dofadr[0]) for joint in joints]).T
            return in_qpos, in_qvel, np.array([model.actuator(name).id for name in names])

        self.limits = np.array([model.joint(name).range for name in JOINTS])
        self._joints, dofs, self._servos = places(JOINTS)
        self._base, self._base_dofs, self._base_servos = places(BASE)
        fingers = {side: places([f"{side}_{finger}" for finger in FINGERS]) for side in SIDES}
        self._fingers, self._finger_servos = ({side: found[i] for side, found in fingers.items()} for i in (0, 2))
        self._camera = model.camera(CAMERA).id
        self._reacher = Reacher(model, self._joints, dofs, self.limits)
        self.grip = Grip(model, self.data, scene.things)
        self.standing = style.posture + rng.normal(0, STANDING_SPREAD)
        self.resting = {side: ARM_RESTING[side] + rng.normal(0, ARM_SPREAD) for side in SIDES}
        neck = NECK_RESTING + (style.posture - STANDING)[[2, 3, 5]].sum() + rng.normal(0, 0.06)
        self.tracks = {"leg": Track(self.standing), "neck": Track([neck])}
        self.tracks |= {side: Track(self.resting[side]) for side in SIDES}
        self.tracks |= {f"{side}_hand": Track([HAND_RESTING]) for side in SIDES}
        self._slices = {"leg": slice(0, 6), "left": ARM_SLICE["left"], "right": ARM_SLICE["right"], "neck": slice(20, 21)}
        self._tremor = Tremor(rng, TREMOR)
        self.place = np.zeros(3)
        self._travel, self._driving = Track([0.0]), True

    # Setting up and stepping

    def put(self, x: float, y: float, yaw: float) -> None:
        """Set the robot down at a place before the recording starts, and let everything come to rest."""
        self.place = np.array([x, y, yaw], float)
        self.data.qpos[self._base] = self.place
        self.data.qpos[self._joints] = self._set_points()
        for side in SIDES:
            self.data.qpos[self._fingers[side]] = FINGER_CLOSED * HAND_RESTING
        self._write_controls(np.zeros(2), np.zeros(NUM_JOINTS))
        self._mujoco.mj_forward(self.model, self.data)
        for _ in range(18 * SUBSTEPS):
            self._write_controls(np.zeros(2), np.zeros(NUM_JOINTS))
            self._mujoco.mj_step(self.model, self.data)
        self._see()

    def step(self) -> None:
        """Advance by one video frame."""
        tremor = self._tremor.step(1 / HZ)
        for _ in range(SUBSTEPS):
            self._write_controls(self._advance_base(), tremor)
            self._mujoco.mj_step(self.model, self.data)
            self.time += TIMESTEP
        self._see()

    def follow(self, states_A: np.ndarray) -> None:
        """Advance by one video frame on the way to commanded states (25,), as an operator's moves do with their own set-points.

        Set-points go there in a straight line and the base drives at the commanded velocities.  A hand that closes takes what
        it reaches, one that opens lets go.
        """
        parts = self._slices | {f"{side}_hand": slice(NUM_JOINTS + k, NUM_JOINTS + k + 1) for k, side in enumerate(SIDES)}
        start = {part: self.tracks[part].now for part in parts}
        for k in range(1, SUBSTEPS + 1):
            for part, rows in parts.items():
                self.tracks[part] = Track(start[part] + (states_A[rows] - start[part]) * (k / SUBSTEPS))
            forward, turning = float(states_A[23]), float(states_A[24])
            self.place = self.place + TIMESTEP * np.r_[forward * self.forward[:2], turning]
            self._write_controls(np.array([forward, turning]), np.zeros(NUM_JOINTS))
            self._mujoco.mj_step(self.model, self.data)
            self.time += TIMESTEP
        self._see()
        for side in SIDES:
            closure = self.tracks[f"{side}_hand"].now[0]
            if closure >= HOLDS_FROM and self.grip.held[side] is None and start[f"{side}_hand"][0] < closure:
                self.grip.take_nearest(side)
            elif closure < LETS_GO_BELOW:
                self.grip.release(side)

    def moment(self) -> Callable[[], None]:
        """What brings the world and all set-points back to this very moment, to the last bit and as often as it is called."""
        mujoco, data, held = self._mujoco, self._mujoco.MjData(self.model), dict(self.grip.held)
        mujoco.mj_copyData(data, self.model, self.data)
        welds, own = self.model.eq_data.copy(), ("time", "rng", "tracks", "place", "_tremor", "_travel", "_driving")
        kept = copy.deepcopy({name: getattr(self, name) for name in own})

        def back() -> None:
            mujoco.mj_copyData(self.data, self.model, data)
            self.model.eq_data[:] = welds
            self.grip.held = dict(held)
            vars(self).update(copy.deepcopy(kept))

        return back

    def think_again(self, rng: np.random.Generator) -> None:
        """Let another operator take over, who lets go of everything; what moves goes on until it is told otherwise."""
        self.rng = rng
        self._tremor.rng = rng
        self.grip.release()

    def _see(self) -> None:
        """Bring poses of bodies, camera and lights up to the configuration after the last step."""
        self._mujoco.mj_kinematics(self.model, self.data)
        self._mujoco.mj_camlight(self.model, self.data)

    def _set_points(self) -> np.ndarray:
        return np.concatenate([self.tracks[part].at(self.time) for part in ("leg", "left", "right", "neck")])

    def _advance_base(self) -> np.ndarray:
        """Move the wanted place of the base along; its velocity (forward, turning)."""
        if not self._travel.moving:
            return np.zeros(2)
        before = self._travel.now[0]
        way = self._travel.at(self.time + TIMESTEP)[0] - before
        if self._driving:
            self.place[:2] += way * self.forward[:2]
            return np.array([way / TIMESTEP, 0.0])
        self.place[2] += way
        return np.array([0.0, way / TIMESTEP])

    def _write_controls(self, velocity: np.ndarray, tremor: np.ndarray) -> None:
        controls, now = self.data.ctrl, self.data.qpos[self._base]
        controls[self._servos] = np.clip(self._set_points() + tremor, self.limits[:, 0], self.limits[:, 1])
        for side in SIDES:
            controls[self._finger_servos[side]] = FINGER_CLOSED * self.tracks[f"{side}_hand"].at(self.time)[0]
        heading = np.array([np.cos(now[2]), np.sin(now[2]), 0])
        controls[self._base_servos] = velocity[0] * heading + [0, 0, velocity[1]] + POSE_GAIN * (self.place - now)

    def state(self) -> np.ndarray:
        """The state vector of hwm/robot.py as measured now, float32 (25,)."""
        data, state = self.data, np.zeros(EVE.dim, np.float32)
        state[:NUM_JOINTS] = data.qpos[self._joints]
        for k, side in enumerate(SIDES):
            flexion = data.qpos[self._fingers[side][:2]] / FINGER_CLOSED[:2]
            state[NUM_JOINTS + k] = np.clip(flexion.mean(), 0, 1)
        yaw, (vx, vy, turning) = data.qpos[self._base[2]], data.qvel[self._base_dofs]
        state[23], state[24] = vx * np.cos(yaw) + vy * np.sin(yaw), turning
        return state

    def command(self) -> np.ndarray:
        """What was asked of the robot last, as a row like `state`, float32 (25,): targets of joints and hands, and of the base
        the velocities that its servos were given."""
        controls, asked = self.data.ctrl, np.zeros(EVE.dim, np.float32)
        asked[:NUM_JOINTS] = controls[self._servos]
        for k, side in enumerate(SIDES):
            asked[NUM_JOINTS + k] = controls[self._finger_servos[side][0]] / FINGER_CLOSED[0]
        yaw, (vx, vy, turning) = self.data.qpos[self._base[2]], controls[self._base_servos]
        asked[23], asked[24] = vx * np.cos(yaw) + vy * np.sin(yaw), turning
        return asked

    # Where things are

    @property
    def forward(self) -> np.ndarray:
        return np.array([np.cos(self.place[2]), np.sin(self.place[2]), 0.0])

    @property
    def leftward(self) -> np.ndarray:
        return np.array([-np.sin(self.place[2]), np.cos(self.place[2]), 0.0])

    @property
    def eye(self) -> np.ndarray:
        return self.data.cam_xpos[self._camera].copy()

    @property
    def gaze_pitch(self) -> float:
        """Angle of the optical axis below the horizon."""
        back = self.data.cam_xmat[self._camera].reshape(3, 3)[:, 2]
        return float(np.arctan2(back[2], np.hypot(back[0], back[1])))

    def where(self, body: str) -> np.ndarray:
        return self.data.body(body).xpos.copy()

    def palm(self, side: Side) -> np.ndarray:
        return self.data.site(f"{side}_palm").xpos.copy()

    # Moves; each returns the seconds it takes

    def go(self, part: str, goal: Sequence[float] | np.ndarray, duration: float) -> float:
        """Move a part (leg, left, right, neck, left_hand, right_hand) to joint angles or a closure."""
        if part in self._slices:
            low, high = self.limits[self._slices[part]].T
            goal = np.clip(goal, low + LIMIT_MARGIN, high - LIMIT_MARGIN)
        self.tracks[part].move(goal, duration, self.time)
        return duration

    def hand(self, side: Side, closure: float, duration: float = 0.5) -> float:
        return self.go(f"{side}_hand", [closure], duration)

    def arm_duration(self, side: Side, goal: np.ndarray, *, speed: float = 1.0, shortest: float = 0.45) -> float:
        return natural_duration(np.abs(goal - self.tracks[side].now).max(), ARM_SPEED * speed, shortest)

    def leg_duration(self, goal: np.ndarray, *, speed: float = 1.0, shortest: float = 0.5) -> float:
        return natural_duration(np.abs(goal - self.tracks["leg"].now).max(), LEG_SPEED * speed, shortest)

    def reach(self, side: Side, pose: Pose, *, lean: bool, iterations: int = 70) -> Reach:
        """Joint angles for a pose, starting from where every part is heading; nothing moves yet."""
        goals = np.concatenate([self.tracks[part].goal for part in ("leg", "left", "right", "neck")])
        qpos = self.data.qpos.copy()
        qpos[self._base], qpos[self._joints] = self.place, goals
        rest = np.r_[self.standing, self.resting["left"], self.resting["right"], goals[20:]]
        return self._reacher.solve(side, pose, qpos=qpos, rest=rest, lean=lean, iterations=iterations)

    def move_palm(self, side: Side, pose: Pose, *, speed: float = 1.0, lean: bool = True, shortest: float = 0.5) -> float:
        """Bring a palm to a pose; the torso leans only if allowed and the arm alone cannot reach."""
        found = self.reach(side, pose, lean=False, iterations=45)
        if not lean or found.error <= self.style.lean_beyond:
            return self.go(side, found.arm, self.arm_duration(side, found.arm, speed=speed, shortest=shortest))
        found = self.reach(side, pose, lean=True)
        duration = max(self.arm_duration(side, found.arm, speed=speed, shortest=shortest), self.leg_duration(found.leg))
        self.go("leg", found.leg, duration)
        return self.go(side, found.arm, duration)

    def rest(self, *sides: Side, legs: bool = True) -> float:
        """Lower arms (both if none is named) and stand up straight, each time a little differently."""
        durations = []
        for side in sides or SIDES:
            goal = self.resting[side] + self.rng.normal(0, 0.08, 7)
            durations.append(self.go(side, goal, self.arm_duration(side, goal, speed=0.9, shortest=0.7)))
            self.hand(side, self.rng.uniform(0.05, 0.3))
        if legs:
            spread = self.style.posture_spread * np.array([0.03, 0.01, 0.03, 0.03, 0.003, 0.02])
            self.go("leg", self.standing + self.rng.normal(0, spread), 1.1)
        return max(durations)

    def drive(self, distance: float, speed: float) -> float:
        """Roll forward (or back, if negative) at a mean speed in m/s."""
        return self._start_travel(distance, max(0.6, abs(distance) / speed), driving=True)

    def turn(self, angle: float, speed: float) -> float:
        """Turn on the spot, positive to the left, at a mean speed in rad/s."""
        return self._start_travel(angle, max(0.5, abs(angle) / speed), driving=False)

    def _start_travel(self, way: float, duration: float, *, driving: bool) -> float:
        self._travel, self._driving = Track([0.0]), driving
        self._travel.move([way], duration, self.time)
        return duration

    def look(self, point: np.ndarray, duration: float = 0.6) -> None:
        """Pitch the neck towards a point, not fully and not every time: operators rarely re-aim."""
        if self.rng.random() > self.style.looks_elsewhere:
            return
        way = point - self.eye
        error = np.arctan2(-way[2], np.hypot(way[0], way[1])) - self.gaze_pitch - 0.08
        if abs(error) < 0.22 and self.rng.random() < 0.8:
            return
        goal = self.tracks["neck"].goal[0] + error * self.rng.uniform(0.35, 0.75) + self.rng.normal(0, 0.02)
        self.go("neck", [np.clip(goal, -0.1, 0.85)], 1.3 * duration)

    def face(self, point: np.ndarray) -> float:
        """Turn the torso part of the way towards a point, if it lies far to the side: the neck has no yaw."""
        way = point[:2] - self.place[:2]
        bearing = (np.arctan2(way[1], way[0]) - self.place[2] + np.pi) % (2 * np.pi) - np.pi
        goal = self.tracks["leg"].goal.copy()
        yaw = -np.clip(0.55 * bearing, -0.45, 0.45)
        if abs(yaw - goal[0]) < (0.14 if self.style.full_body else 0.30):
            return 0.0
        goal[0] = yaw + self.rng.normal(0, 0.03)
        return 0.6 * self.go("leg", goal, self.leg_duration(goal, speed=1.3, shortest=0.8))


assert len(LEG) == len(STANDING)


CLOSE = 0.055
"""Metres between palm and middle of an object, beyond its radius, within which fingers hold it."""
CLOSE_TO_HANDLE = 0.07
TALL, TALL_ALLOWANCE = 0.15, 0.04
"""A tall object may be held that much further from its middle, metres."""


class Grip:
    """What each hand holds: the name of an object or fixture, or None."""

    def __init__(self, model: Any, data: Any, things: dict[str, Thing]) -> None:
        self._model, self._data, self._things = model, data, things
        self.held: dict[Side, str | None] = dict.fromkeys(SIDES)

    def take(self, side: Side, name: str) -> bool:
        """Hold an object as it lies in the hand now; False if it is out of reach."""
        model, data, thing = self._model, self._data, self._things[name]
        place = data.body(name).xpos
        limit = CLOSE + min(thing.radius, 0.05) + (TALL_ALLOWANCE if thing.height > TALL else 0)
        if np.linalg.norm(data.site(f"{side}_palm").xpos - place) > limit:
            return False
        constraint = model.equality(f"{side}_{name}").id
        model.eq_data[constraint, :11] = np.r_[np.zeros(3), self._in_hand(side, name), 1]
        return self._hold(side, name)

    def _in_hand(self, side: Side, name: str) -> np.ndarray:
        """Position and quaternion of an object in the hand's frame, (7,)."""
        import mujoco

        hand, thing = self._data.body(f"{side}_hand"), self._data.body(name)
        back, position, rotation = np.zeros(4), np.zeros(3), np.zeros(4)
        mujoco.mju_negQuat(back, hand.xquat)
        mujoco.mju_rotVecQuat(position, thing.xpos - hand.xpos, back)
        mujoco.mju_mulQuat(rotation, back, thing.xquat)
        return np.r_[position, rotation]

    def take_nearest(self, side: Side) -> bool:
        """Hold the object nearest to the palm, or a handle; False if none is within reach."""
        palm = self._data.site(f"{side}_palm").xpos
        names = sorted(self._things, key=lambda name: float(np.linalg.norm(palm - self._data.body(name).xpos)))
        free = [name for name in names if name not in self.held.values()]
        return any(self.take(side, name) for name in free[:1]) or any(self.take_handle(side, name) for name in FIXTURES)

    def take_handle(self, side: Side, fixture: str) -> bool:
        """Hold the handle of a drawer or door; False if it is out of reach."""
        palm, handle = self._data.site(f"{side}_palm").xpos, self._data.site(f"handle_{fixture}").xpos
        return bool(np.linalg.norm(palm - handle) <= CLOSE_TO_HANDLE) and self._hold(side, fixture)

    def _hold(self, side: Side, name: str) -> bool:
        self._data.eq_active[self._model.equality(f"{side}_{name}").id] = 1
        self.held[side] = name
        return True

    def release(self, *sides: Side) -> None:
        """Let go of whatever the hands (both if none is named) hold."""
        for side in sides or SIDES:
            if (name := self.held[side]) is not None:
                self._data.eq_active[self._model.equality(f"{side}_{name}").id] = 0
                self.held[side] = None
