"""Inverse kinematics: joint angles that bring a palm to a pose, by damped least squares."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hwm.sim.body.robot import JOINTS, LEG, SIDES, Side

ARM_SLICE = {side: slice(6 + 7 * k, 13 + 7 * k) for k, side in enumerate(SIDES)}
LEAN = np.array([LEG.index(name) for name in ("hip_yaw", "hip_pitch", "knee_pitch", "ankle_pitch")])
"""Joints of the leg column that help an arm reach."""
LEAN_LIMITS = np.array([(-0.5, 0.5), (-0.95, -0.1), (0.6, 1.35), (-0.72, -0.25)])
LEAN_WEIGHT = np.array([0.03, 0.20, 0.05, 0.05])
"""How willingly they move, relative to the arm.  The hip hardly turns: the camera would turn away from the hand."""
LEAN_PULL, ARM_PULL = np.array([0.03, 0.03, 0.05, 0.05]), np.full(7, 0.012)
"""Pull towards the resting posture per iteration."""
ROTATION_WEIGHT = 0.35
"""Metres that one radian of orientation error counts for."""
DAMPING = 1.5e-3
LARGEST_STEP = 0.2
CLOSE_ENOUGH = 0.004
MARGIN = 0.02
"""Radians kept from the joint limits."""


class Pose(NamedTuple):
    """Where a palm should be: world position in metres, direction of the fingers, normal out of the palm."""

    position: np.ndarray
    fingers: np.ndarray
    palm: np.ndarray

    def moved(self, offset: np.ndarray) -> Pose:
        return self._replace(position=self.position + offset)


class Reach(NamedTuple):
    """arm (7,) and leg (6,) joint angles, radians; error: distance left, metres."""

    arm: np.ndarray
    leg: np.ndarray
    error: float


class Reacher:
    """Solves for one robot on a scratch copy of its state.

    joints, dofs: addresses in qpos and qvel of the joints of the state vector.
    """

    def __init__(self, model: Any, joints: np.ndarray, dofs: np.ndarray, limits: np.ndarray) -> None:
        import mujoco

        self._mujoco, self._model, self._data = mujoco, model, mujoco.MjData(model)
        self._joints, self._dofs, self._limits = joints, dofs, limits
        self._sites = {side: model.site(f"{side}_palm").id for side in SIDES}
        self._jacobians = np.zeros((2, 3, model.nv))

    def solve(self, side: Side, pose: Pose, *, qpos: np.ndarray, rest: np.ndarray, lean: bool, iterations: int) -> Reach:
        """Search from the configuration `qpos`.

        rest: posture (21,) that free directions are drawn to.  lean: let the leg column help.
        """
        mujoco, model, data = self._mujoco, self._model, self._data
        data.qpos[:] = qpos
        arm = np.arange(len(JOINTS))[ARM_SLICE[side]]
        used = np.r_[arm, LEAN] if lean else arm
        weight = np.r_[np.ones(7), LEAN_WEIGHT] if lean else np.ones(7)
        pull = np.r_[ARM_PULL, LEAN_PULL] if lean else ARM_PULL
        low, high = self._limits[used, 0] + MARGIN, self._limits[used, 1] - MARGIN
        if lean:
            low[7:], high[7:] = LEAN_LIMITS.T
        place, dof, home = self._joints[used], self._dofs[used], rest[used]
        site, wanted, error = self._sites[side], _palm_frame(side, pose), np.inf
        position, rotation = self._jacobians
        for iteration in range(iterations):
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            mujoco.mj_jacSite(model, data, position, rotation, site)
            away = pose.position - data.site_xpos[site]
            error = float(np.linalg.norm(away))
            turn = _rotation_error(wanted, data.site_xmat[site].reshape(3, 3))
            jacobian = np.vstack([position[:, dof], ROTATION_WEIGHT * rotation[:, dof]]) * weight
            residual = np.r_[np.clip(away, -0.12, 0.12), ROTATION_WEIGHT * np.clip(turn, -0.5, 0.5)]
            normal = jacobian @ jacobian.T + DAMPING * np.eye(6)
            now = data.qpos[place]
            relax = 0.5 if iteration < iterations - 15 else 0.1
            step = weight * (jacobian.T @ np.linalg.solve(normal, residual)) + relax * pull * (home - now)
            data.qpos[place] = np.clip(now + np.clip(step, -LARGEST_STEP, LARGEST_STEP), low, high)
            if error < CLOSE_ENOUGH and iteration > 25:
                break
        joints = data.qpos[self._joints]
        return Reach(joints[ARM_SLICE[side]].copy(), joints[: len(LEG)].copy(), error)


def _palm_frame(side: Side, pose: Pose) -> np.ndarray:
    """Rotation of the palm site: its -z along the fingers, its y out of the palm (right hand) or the back (left)."""
    z = -pose.fingers / np.linalg.norm(pose.fingers)
    y = pose.palm * (-1 if side == "left" else 1)
    y = y - z * (y @ z)
    y /= np.linalg.norm(y)
    return np.stack([np.cross(y, z), y, z], 1)


def _rotation_error(wanted: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Axis times about sin(angle) of the rotation from actual to wanted, world frame."""
    between = wanted @ actual.T
    error = 0.5 * np.array([between[2, 1] - between[1, 2], between[0, 2] - between[2, 0], between[1, 0] - between[0, 1]])
    if np.trace(between) < 0:
        error /= np.linalg.norm(error) + 1e-9
    return error
