"""The simulated robot as MJCF: an EVE-like humanoid torso on one leg column and a wheeled base.

Joints carry the lower-case names of the state vector (hwm/robot.py) and its order; x is forward, y left, z up.
Signs follow a pelvis-rooted robot description: shoulder pitch < 0 raises the arm forward, elbow pitch < 0 bends it,
neck pitch > 0 looks down.  The axes of the leg column are negated because the column is rooted in the base.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np

from hwm.robot import EVE, Skeleton
from hwm.sim.home import textures
from hwm.sim.home.meshes import bevel_box, lathe, limb
from hwm.sim.home.mjcf import HIDDEN_GROUP, VISIBLE_GROUP, Assets, tag, visible
from hwm.sim.home.objects import AXIS
from hwm.sim.home.palette import ACCENTS, SHELLS, pick, tint

Side = Literal["left", "right"]
SIDES: tuple[Side, ...] = get_args(Side)
NUM_JOINTS = 21
JOINTS = tuple(name.lower() for name in EVE.names[:NUM_JOINTS])
LEG = JOINTS[:6]
FINGERS = ("finger", "fingertip", "thumb", "thumbtip")
FINGER_CLOSED = np.array([1.35, 1.25, 1.25, 0.8])
"""Angles of the finger joints of a closed hand, radians."""
BASE = ("base_x", "base_y", "base_yaw")
CAMERA = "head_camera"

LEG_LIMITS = {
    "hip_yaw": (-1.05, 1.05),
    "hip_roll": (-0.35, 0.35),
    "hip_pitch": (-1.6, 0.35),
    "knee_pitch": (0.0, 2.2),
    "ankle_roll": (-0.2, 0.2),
    "ankle_pitch": (-1.1, 0.2),
}
LEFT_ARM_LIMITS = {
    "shoulder_pitch": (-2.9, 1.2),
    "shoulder_roll": (-0.25, 2.2),
    "shoulder_yaw": (-1.7, 1.7),
    "elbow_pitch": (-2.3, -0.02),
    "elbow_yaw": (-1.9, 1.9),
    "wrist_pitch": (-0.9, 0.9),
    "wrist_roll": (-0.7, 0.7),
}
NECK_LIMITS = (-0.75, 1.05)
MIRRORED = ("shoulder_roll", "shoulder_yaw", "elbow_yaw", "wrist_roll")
"""Arm joints whose sign is opposite on the right."""

SHOULDER_HEIGHT, SHOULDER_HALF_WIDTH = 0.37, 0.205
UPPER_ARM, FOREARM = 0.30, 0.275
SHIN, THIGH = 0.38, 0.38
HEAD_PLACE = (0.02, 0, 0.50)
HAND_PARTS = {"knuckles": (0, 0, -0.116), "tips": (0, 0, -0.20), "thumb": (0.06, 0, -0.08)}
"""Where an open hand's parts are to be seen, from the wrist."""
BONES = (
    *(("shoulder_yaw", "elbow_pitch"), ("elbow_yaw", "wrist_pitch")),
    *(("wrist_roll", "knuckles"), ("knuckles", "tips"), ("wrist_roll", "thumb")),
)
"""Of an arm: pairs of joints and parts."""
CAMERA_PLACE = (0.055, 0.0, 0.115)
CAMERA_PITCH, CAMERA_FOVY = 16.0, 76.0
"""Degrees: how far the camera looks down in the head, and its vertical field of view."""

ARM_SERVO = {
    "shoulder_pitch": (420, 90),
    "shoulder_roll": (420, 90),
    "shoulder_yaw": (220, 50),
    "elbow_pitch": (260, 60),
    "elbow_yaw": (120, 25),
    "wrist_pitch": (60, 14),
    "wrist_roll": (60, 14),
}
"""Stiffness (N m / rad) and largest torque (N m)."""
LEG_SERVO, NECK_SERVO = (6000, 900), (60, 20)
FINGER_STIFFNESS, FINGER_DAMPING, FINGER_TORQUE = (2.2, 1.6, 2.0, 1.2), 0.06, 1.2
BASE_GAIN = (4000, 4000, 900)


@dataclass(frozen=True)
class Camera:
    """How the head camera is mounted.  place: metres in the head's frame; angles and field of view in degrees."""

    place: tuple[float, float, float] = CAMERA_PLACE
    pitch: float = CAMERA_PITCH
    yaw: float = 0.0
    roll: float = 0.0
    fovy: float = CAMERA_FOVY

    @staticmethod
    def mounted(rng: np.random.Generator) -> Camera:
        """The nominal camera with the small errors of a real mounting."""
        x, y, z = (np.array(CAMERA_PLACE) + rng.normal(0, (0.004, 0.004, 0.006))).tolist()
        fovy = float(np.clip(rng.normal(CAMERA_FOVY, 2.5), 70, 84))
        return Camera((x, y, z), CAMERA_PITCH + rng.normal(0, 2.0), rng.normal(0, 1.0), rng.normal(0, 0.7), fovy)

    def axes(self) -> np.ndarray:
        """Image right and image up in the head's frame, (6,)."""
        pitch, yaw, roll = np.radians([self.pitch, self.yaw, self.roll])
        forward = np.array([np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), -np.sin(pitch)])
        right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
        up = np.cross(right, forward)
        return np.r_[np.cos(roll) * right + np.sin(roll) * up, np.cos(roll) * up - np.sin(roll) * right]


def joint_limits(name: str) -> tuple[float, float]:
    """Range of a joint of the state vector, radians."""
    if name in LEG_LIMITS:
        return LEG_LIMITS[name]
    if name == "neck_pitch":
        return NECK_LIMITS
    side, joint = name.split("_", 1)
    low, high = LEFT_ARM_LIMITS[joint]
    return (-high, -low) if side == "right" and joint in MIRRORED else (low, high)


def robot_assets(rng: np.random.Generator, assets: Assets) -> None:
    """Add the robot's materials and meshes; the rng chooses the colours of its suit."""
    suit = partial(textures.fabric, base=tint(rng, pick(rng, SHELLS), 0.03))
    assets.material("shell", texture=suit, detail=0.5, repeat=(2, 2), specular=0.15, shininess=0.2)
    assets.material("joint", (0.22, 0.22, 0.23), specular=0.4, shininess=0.4)
    assets.material("finger", (0.15, 0.15, 0.16), specular=0.4, shininess=0.35)
    assets.material("accent", tint(rng, pick(rng, ACCENTS)), specular=0.4, shininess=0.5)
    chest = [(0.12, -0.02), (0.15, 0.05), (0.185, 0.20), (0.20, 0.33), (0.17, 0.42), (0.09, 0.46), (0.06, 0.48)]
    base = [(0.24, -0.10), (0.27, -0.05), (0.27, 0.04), (0.2, 0.11), (0.11, 0.16)]
    for name, mesh in {
        "upper_arm": limb(0.058, 0.048, UPPER_ARM - 0.05),
        "forearm": limb(0.050, 0.036, FOREARM - 0.045),
        "palm": bevel_box((0.044, 0.017, 0.050), bevel=0.009, repeats=None),
        "shin": limb(0.085, 0.075, 0.33),
        "thigh": limb(0.10, 0.085, 0.33),
        "chest": lathe([(AXIS, chest[0][1]), *chest, (AXIS, chest[-1][1])], sectors=32),
        "base": lathe([(AXIS, base[0][1]), *base, (AXIS, base[-1][1])], sectors=32),
        "band": lathe([(0.052, -0.012), (0.0545, 0), (0.052, 0.012)], sectors=24),
        "cuff": lathe([(0.030, -0.02), (0.041, -0.014), (0.041, 0.014), (0.030, 0.02)], sectors=24),
    }.items():
        assets.mesh(mesh, name)


def robot_body(camera: Camera) -> str:
    """MJCF body of the robot, standing at the origin and facing +x."""
    head = _body(
        "head", HEAD_PLACE,
        _joint("neck_pitch", (0, 1, 0), armature=0.03, damping=0.4),
        _mass(2.2, (0.012, 0.012, 0.012), (0, 0, 0.09)),
        visible("ellipsoid", "shell", size=(0.085, 0.085, 0.12), pos=(-0.03, 0, 0.10)),
        tag("camera", name=CAMERA, pos=camera.place, xyaxes=camera.axes(), fovy=camera.fovy),
    )
    torso = _body(
        "torso", (0, 0, THIGH),
        _joint("hip_pitch", (0, -1, 0), armature=1, damping=30),
        _joint("hip_roll", (-1, 0, 0), armature=1, damping=30),
        _joint("hip_yaw", (0, 0, -1), armature=0.6, damping=20),
        _mass(22, (0.8, 0.6, 0.4), (0, 0, 0.22)),
        visible("ellipsoid", "joint", size=(0.13, 0.15, 0.10)),
        visible("mesh", "shell", mesh="chest"),
        head,
        *(_arm(side) for side in SIDES),
    )
    thigh = _body(
        "thigh", (0, 0, SHIN),
        _joint("knee_pitch", (0, -1, 0), armature=1, damping=30),
        _mass(7, (0.14, 0.14, 0.04), (0, 0, 0.18)),
        visible("cylinder", "joint", size=(0.085, 0.09), euler=(90, 0, 0)),
        visible("mesh", "shell", mesh="thigh", pos=(0, 0, 0.355)),
        torso,
    )
    shin = _body(
        "shin", (-0.02, 0, 0.08),
        _joint("ankle_roll", (-1, 0, 0), armature=1, damping=30),
        _joint("ankle_pitch", (0, -1, 0), armature=1, damping=30),
        _mass(6, (0.12, 0.12, 0.03), (0, 0, 0.18)),
        visible("mesh", "shell", mesh="shin", pos=(0, 0, 0.36)),
        thigh,
    )
    wheels = [visible("cylinder", "finger", size=(0.16, 0.03), pos=(0, y, 0), euler=(90, 0, 0)) for y in (0.27, -0.27)]
    return _body(
        "base", (0, 0, 0.16),
        tag("joint", name="base_x", type="slide", axis=(1, 0, 0)),
        tag("joint", name="base_y", type="slide", axis=(0, 1, 0)),
        tag("joint", name="base_yaw", axis=(0, 0, 1)),
        _mass(38, (1.2, 1.2, 1.4)),
        visible("mesh", "shell", mesh="base"),
        *wheels,
        shin,
    )


def skeleton() -> Skeleton:
    """What is to be seen of the body by a camera that is mounted where it should be: the arms, from the shoulders on."""
    joints: dict[str, tuple[str, Sequence[float], Sequence[float], float]] = {}
    bones = []

    def add(
        name: str, parent: str, place: Sequence[float] = (0, 0, 0), axis: Sequence[float] = (0, 1, 0), rest: float = 0.0
    ) -> None:
        joints[name] = (parent, place, axis, rest)

    add("neck_pitch", "", HEAD_PLACE)
    add(CAMERA, "neck_pitch", CAMERA_PLACE, rest=math.radians(CAMERA_PITCH))
    for side, outward in zip(SIDES, (1, -1)):
        add(f"{side}_shoulder_pitch", "", (0, outward * SHOULDER_HALF_WIDTH, SHOULDER_HEIGHT))
        add(f"{side}_shoulder_roll", f"{side}_shoulder_pitch", axis=(1, 0, 0))
        add(f"{side}_shoulder_yaw", f"{side}_shoulder_roll", axis=(0, 0, 1))
        add(f"{side}_elbow_pitch", f"{side}_shoulder_yaw", (0, 0, -UPPER_ARM))
        add(f"{side}_elbow_yaw", f"{side}_elbow_pitch", axis=(0, 0, 1))
        add(f"{side}_wrist_pitch", f"{side}_elbow_yaw", (0, 0, -FOREARM))
        add(f"{side}_wrist_roll", f"{side}_wrist_pitch", axis=(1, 0, 0))
        for part, place in HAND_PARTS.items():
            add(f"{side}_{part}", f"{side}_wrist_roll", place)
        bones += [(f"{side}_{a}", f"{side}_{b}") for a, b in BONES]
    names = list(joints)
    parents, places, axes, rests = zip(*joints.values())
    return Skeleton(
        parents=tuple(names.index(parent) if parent else -1 for parent in parents),
        places=tuple(tuple(map(float, place)) for place in places), axes=tuple(tuple(map(float, axis)) for axis in axes),
        states=tuple(JOINTS.index(name) if name in JOINTS else -1 for name in names), rests=rests,
        bones=tuple((names.index(a), names.index(b)) for a, b in bones), camera=names.index(CAMERA), fovy=CAMERA_FOVY,
    )


def _arm(side: Side) -> str:
    """An arm hanging down: fingers point along -z, the palm faces the body."""
    outward = 1 if side == "left" else -1
    palm = -outward
    hand = _body(
        f"{side}_hand", (0, 0, -FOREARM),
        _joint(f"{side}_wrist_pitch", (0, 1, 0), armature=0.02, damping=0.15),
        _joint(f"{side}_wrist_roll", (1, 0, 0), armature=0.02, damping=0.15),
        _mass(0.5, (0.0012, 0.0012, 0.0006), (0, 0, -0.06)),
        visible("mesh", "joint", mesh="cuff", pos=(0, 0, -0.008)),
        visible("mesh", "finger", mesh="palm", pos=(0, 0, -0.066)),
        visible("box", "shell", size=(0.028, 0.004, 0.03), pos=(0, -palm * 0.017, -0.064)),
        _touch("box", (0.042, 0.015, 0.046), mass=0, pos=(0, 0, -0.066), group=HIDDEN_GROUP),
        tag("site", name=f"{side}_palm", pos=(0, palm * 0.045, -0.095), size=0.006, group=HIDDEN_GROUP),
        _fingers(side, palm),
        _thumb(side, palm),
    )
    forearm = _body(
        f"{side}_forearm", (0, 0, -UPPER_ARM),
        _joint(f"{side}_elbow_pitch", (0, 1, 0), armature=0.06, damping=0.5),
        _joint(f"{side}_elbow_yaw", (0, 0, 1), armature=0.04, damping=0.3),
        _mass(1.3, (0.008, 0.008, 0.002), (0, 0, -0.11)),
        visible("cylinder", "joint", size=(0.046, 0.05), euler=(90, 0, 0)),
        visible("mesh", "shell", mesh="forearm", pos=(0, 0, -0.03)),
        _touch("capsule", 0.036, mass=0, fromto=(0, 0, -0.06, 0, 0, -0.22), group=HIDDEN_GROUP),
        hand,
    )
    return _body(
        f"{side}_upper_arm", (0, outward * SHOULDER_HALF_WIDTH, SHOULDER_HEIGHT),
        _joint(f"{side}_shoulder_pitch", (0, 1, 0), armature=0.12, damping=1),
        _joint(f"{side}_shoulder_roll", (1, 0, 0), armature=0.12, damping=1),
        _joint(f"{side}_shoulder_yaw", (0, 0, 1), armature=0.08, damping=0.6),
        _mass(2.6, (0.018, 0.018, 0.006), (0, 0, -0.12)),
        visible("sphere", "joint", size=0.066),
        visible("mesh", "shell", mesh="upper_arm", pos=(0, 0, -0.035)),
        visible("mesh", "accent", mesh="band", pos=(0, 0, -0.20)),
        forearm,
    )


def _fingers(side: Side, palm: int) -> str:
    """Four fingers that move together, on two hinges."""

    def row(length: float, thickness: float) -> str:
        reach = zip((-0.033, -0.011, 0.011, 0.033), (0.86, 1.0, 1.05, 0.97))
        ends = [(x, 0, 0, x, 0, -length * share) for x, share in reach]
        return "".join(_touch("capsule", thickness, mass=0.012, fromto=e, material="finger") for e in ends)

    tips = _body(f"{side}_fingertips", (0, 0, -0.046), _finger_joint(side, "fingertip", (palm, 0, 0), 86), row(0.036, 0.0088))
    hinge = _finger_joint(side, "finger", (palm, 0, 0), 83)
    return _body(f"{side}_fingers", (0, palm * 0.004, -0.116), hinge, row(0.044, 0.0098), tips)


def _thumb(side: Side, palm: int) -> str:
    tip = _body(
        f"{side}_thumbtip", (0.026, 0, -0.030),
        _finger_joint(side, "thumbtip", (palm * 0.5, palm * 0.2, palm), 63),
        _touch("capsule", 0.0098, mass=0.015, fromto=(0, 0, 0, 0.012, 0, -0.034), material="finger"),
    )
    return _body(
        f"{side}_thumb", (0.040, palm * 0.006, -0.045),
        _finger_joint(side, "thumb", (0, 0, palm), 86),
        _touch("capsule", 0.0115, mass=0.02, fromto=(0, 0, 0, 0.026, 0, -0.030), material="finger"),
        tip,
    )


def _body(name: str, pos: Sequence[float], *inner: str) -> str:
    return tag("body", "".join(inner), name=name, pos=pos, gravcomp=1)


def _joint(name: str, axis: Sequence[float], *, armature: float, damping: float) -> str:
    limits = np.degrees(joint_limits(name))
    return tag("joint", name=name, axis=axis, range=limits, armature=armature, damping=damping)


def _finger_joint(side: Side, name: str, axis: Sequence[float], closed: float) -> str:
    return tag("joint", name=f"{side}_{name}", axis=axis, range=(0, closed), armature=0.002, damping=0.04)


def _mass(mass: float, inertia: Sequence[float], pos: Sequence[float] = (0, 0, 0)) -> str:
    return tag("inertial", pos=pos, mass=mass, diaginertia=inertia)


def _touch(shape: str, size: float | Sequence[float], *, group: int = VISIBLE_GROUP, **attributes: object) -> str:
    """A geom that collides with objects and furniture."""
    return tag("geom", class_="robot", type=shape, size=size, group=group, **attributes)


def robot_actuators() -> str:
    """Servos: positions for all joints of the state vector and the fingers, velocities for the base."""
    xml = ""
    for name in JOINTS:
        joint = name.split("_", 1)[1]
        stiffness, torque = NECK_SERVO if name == "neck_pitch" else ARM_SERVO.get(joint, LEG_SERVO)
        xml += tag("position", name=name, joint=name, kp=stiffness, dampratio=1, forcerange=(-torque, torque))
    for side in SIDES:
        for finger, finger_stiffness in zip(FINGERS, FINGER_STIFFNESS):
            name, limits = f"{side}_{finger}", (-FINGER_TORQUE, FINGER_TORQUE)
            xml += tag("position", name=name, joint=name, kp=finger_stiffness, kv=FINGER_DAMPING, forcerange=limits)
    for name, gain in zip(BASE, BASE_GAIN):
        xml += tag("velocity", name=name, joint=name, kv=gain)
    return xml
