import mujoco
import numpy as np
import pytest
import torch

from hwm.nn.skeleton import Bones
from hwm.robot import EVE
from hwm.sim.body.humanoid import HZ
from hwm.sim.body.reach import ARM_SLICE
from hwm.sim.body.robot import CAMERA, CAMERA_FOVY, CAMERA_PLACE, HAND_PARTS, JOINTS, SIDES, Camera, joint_limits, skeleton
from hwm.sim.manipulation import UP, grasp_pose


def test_the_joints_are_the_state_vector_in_order():
    assert [name.upper() for name in JOINTS] == list(EVE.names[:21])


def test_the_model_has_the_limits_in_radians(scene):
    for name in JOINTS:
        np.testing.assert_allclose(scene.model.joint(name).range, joint_limits(name), atol=1e-5)


def test_arms_are_mirror_images():
    for joint in JOINTS[6:13]:
        left, right = joint_limits(joint), joint_limits(joint.replace("left", "right"))
        assert left == right or left == (-right[1], -right[0])


def test_the_skeleton_is_that_of_the_model(scene):
    """Joints, seen by a camera that is mounted as it should be, stand where the simulator's own kinematics puts them."""
    model, data, rng = scene.model, mujoco.MjData(scene.model), np.random.default_rng(0)
    camera = model.camera(CAMERA)
    right, up = Camera().axes().reshape(2, 3)
    mujoco.mju_mat2Quat(camera.quat, np.stack([right, up, -np.cross(up, right)], 1).ravel())
    camera.pos[:] = CAMERA_PLACE
    bodies = {"elbow_pitch": "forearm", "wrist_roll": "hand", "shoulder_yaw": "upper_arm"}
    bones = Bones(skeleton(), size=(64, 64), patch=8).double()
    names = [name for name in JOINTS if name.startswith("neck")] + ["camera"]
    names += [f"{side}_{part}" for side in SIDES for part in (*(n[5:] for n in JOINTS[6:13]), *HAND_PARTS)]
    for _ in range(3):
        states = np.array([rng.uniform(*joint_limits(name)) for name in JOINTS] + [0.0] * 4)
        for name, angle in zip(JOINTS, states):
            data.qpos[model.joint(name).qposadr[0]] = angle
        mujoco.mj_kinematics(model, data)
        mujoco.mj_camlight(model, data)
        eye, axes = data.camera(CAMERA).xpos, data.camera(CAMERA).xmat.reshape(3, 3)
        points = bones.points(torch.from_numpy(states))
        for side in SIDES:
            for joint, body in bodies.items():
                x, y, z = axes.T @ (data.body(f"{side}_{body}").xpos - eye)
                scale = 1 / np.tan(np.radians(CAMERA_FOVY / 2))
                np.testing.assert_allclose(points[names.index(f"{side}_{joint}")], [scale * x, -scale * y, -z], atol=2e-6)


@pytest.mark.parametrize("side", SIDES)
def test_inverse_kinematics_brings_the_palm_to_a_point_on_the_table(robot, side):
    out = 0.25 if side == "left" else -0.25
    pose = grasp_pose(robot, side, np.array([0.5, out, 0.95]), "side")
    before = robot.data.qpos.copy()
    found = robot.reach(side, pose, lean=True)
    assert found.error < 0.01
    low, high = robot.limits[ARM_SLICE[side]].T
    assert (found.arm >= low).all() and (found.arm <= high).all()
    np.testing.assert_array_equal(robot.data.qpos, before)


def test_the_palm_arrives_where_it_is_sent(robot):
    target = np.array([0.5, 0.2, 1.0])
    seconds = robot.move_palm("left", grasp_pose(robot, "left", target, "side"))
    for _ in range(int(HZ * (seconds + 0.7))):
        robot.step()
    assert np.linalg.norm(robot.palm("left") - target) < 0.05


def test_signs_of_the_state_vector(robot):
    """Shoulder pitch < 0 raises the arm forward, elbow pitch < 0 bends it, neck pitch > 0 looks down."""
    start, gaze = robot.palm("right"), robot.gaze_pitch
    goal = robot.tracks["right"].goal - [0.5, 0, 0, 0, 0, 0, 0]
    robot.go("right", goal, 0.5)
    robot.go("neck", [robot.tracks["neck"].goal[0] + 0.3], 0.5)
    for _ in range(40):
        robot.step()
    raised = robot.palm("right")
    assert raised[2] > start[2] + 0.05
    assert robot.gaze_pitch > gaze + 0.2
    robot.go("right", np.r_[goal[:3], goal[3] - 0.6, goal[4:]], 0.5)
    for _ in range(40):
        robot.step()
    assert np.linalg.norm(robot.palm("right") - robot.where("right_upper_arm")) < np.linalg.norm(
        raised - robot.where("right_upper_arm")
    )


def test_driving_shows_in_the_velocities(robot):
    """The integral of the measured velocity is the way driven."""
    seconds = robot.drive(-0.3, 0.4)
    way = 0.0
    for _ in range(int(HZ * (seconds + 0.7))):
        robot.step()
        way += robot.state()[23] / HZ
    assert way == pytest.approx(-0.3, abs=0.02)
    seconds, angle = robot.turn(0.5, 0.7), 0.0
    for _ in range(int(HZ * (seconds + 0.7))):
        robot.step()
        angle += robot.state()[24] / HZ
    assert angle == pytest.approx(0.5, abs=0.03)
    np.testing.assert_allclose(robot.where("base")[:2], [-0.3, 0], atol=0.03)


def test_closing_a_hand_closes_it(robot):
    opened = robot.state()[21]
    robot.hand("left", 0.9, 0.3)
    for _ in range(30):
        robot.step()
    assert robot.state()[21] > 0.7 > 0.3 > opened


def test_a_hand_holds_only_what_is_near(robot):
    name, thing = next((n, t) for n, t in robot.scene.things.items() if t.grasp == "side")
    assert not robot.grip.take("left", name)
    address = robot.model.joint(robot.model.body(name).jntadr[0]).qposadr[0]
    robot.data.qpos[address : address + 3] = robot.palm("left")
    robot._see()
    assert robot.grip.take("left", name) and robot.grip.held["left"] == name
    robot.move_palm("left", grasp_pose(robot, "left", robot.palm("left") + 0.2 * UP, "side"))
    for _ in range(60):
        robot.step()
    assert np.linalg.norm(robot.where(name) - robot.palm("left")) < 0.15 + thing.height
    robot.grip.release()
    assert robot.grip.held == {"left": None, "right": None}
