"""Bones in a picture: closed forms of where joints are, and what patches are told of them."""

import math

import pytest
import torch

from hwm.nn.skeleton import MOUNTING, NEAR, SHIFT, TURN, WIDER, Bones
from hwm.robot import Skeleton

ARM = Skeleton(
    parents=(-1, -1, 1), places=((0.0, 0.0, 0.0), (2.0, 0.0, 0.0), (0.0, 0.0, 1.0)), axes=((0.0, 1.0, 0.0),) * 3,
    states=(1, 0, -1), rests=(0.0, 0.0, 0.0), bones=((1, 2),), camera=0, fovy=90.0,
)
"""A bone of a metre that stands upright two metres before a camera; state 0 tips it forward, state 1 the camera."""


def bones(size=(8, 8), skeleton=ARM) -> Bones:
    return Bones(skeleton, size=size, patch=2).double()


def test_joints_stand_where_trigonometry_puts_them():
    for tip in (0.0, 0.4, -1.1):
        camera, foot, hand = bones().points(torch.tensor([tip, 0.0]))
        assert camera.abs().max() == 0 and foot.tolist() == pytest.approx([0, 0, 2])
        assert hand.tolist() == pytest.approx([0, -math.cos(tip), 2 + math.sin(tip)], abs=1e-6)
    _, foot, hand = bones().points(torch.tensor([0.0, math.atan(0.5)]))  # the camera looks down by as much as the hand is high
    assert foot[2] == pytest.approx(2 * math.cos(math.atan(0.5))) and foot[1] < 0 and hand[1] / hand[2] == pytest.approx(-4 / 3)
    wide = bones((8, 16)).points(torch.tensor([[0.0, 0.0]]) + torch.zeros(3, 5, 2))
    assert wide.shape == (3, 5, 3, 3)


def test_a_camera_to_the_side_sees_to_the_right_what_is_to_its_right():
    aside = Skeleton(**{**vars(ARM), "places": ((0.0, 1.0, 0.0), *ARM.places[1:])})
    _, foot, _ = bones(skeleton=aside).points(torch.zeros(2))
    assert foot.tolist() == pytest.approx([1, 0, 2])
    _, foot, _ = bones((8, 16), aside).points(torch.zeros(2))
    assert foot[0] == pytest.approx(0.5)  # in half sides of a picture twice as wide


def test_patches_know_the_way_to_a_bone_and_how_far_along_it():
    """The bone stands in the picture from its middle to (0, -1/2); patches are a quarter and three quarters from the middle."""
    net = bones()
    told = net(net.points(torch.zeros(2))).view(4, 4, -1)
    right, down, along = told[..., 0], told[..., 1], told[..., 2]
    at = torch.tensor([-0.75, -0.25, 0.25, 0.75], dtype=torch.float64)
    assert told.shape[-1] == net.channels and torch.allclose(right, -at.expand(4, 4), atol=1e-6)
    assert torch.allclose(down[:, 0], torch.tensor([0.25, 0.0, -0.25, -0.75]).double(), atol=1e-5)
    assert torch.allclose(along[:, 2], torch.tensor([1.0, 0.5, 0.0, 0.0]).double(), atol=1e-5)
    assert torch.allclose(told[..., 3], torch.tensor(NEAR / 2).double())
    assert (told[1, 1:3, 4:] > told[1, 0:1, 4:]).all() and (told <= 1).all()


def test_what_is_behind_the_camera_is_not_seen_and_what_comes_from_there_is_cut():
    net = bones()
    away = net(net.points(torch.tensor([0.0, math.pi])))
    assert away.abs().max() == 0
    through = Skeleton(**{**vars(ARM), "places": (ARM.places[0], (-1.0, 0.5, 0.0), (3.0, 0.0, 0.0)), "bones": ((1, 2),)})
    net = bones(skeleton=through)
    told = net(net.points(torch.zeros(2)))
    assert told.isfinite().all() and (told[..., 0] < 0).all()  # it enters from far to the left


def test_a_camera_mounted_otherwise_sees_all_turned_shifted_and_larger():
    net = bones((8, 16))
    points, off = net.points(torch.tensor([0.3, 0.1])), torch.zeros(MOUNTING, dtype=torch.float64)
    assert torch.equal(net.mounted(points, off), points)
    for entry, expected in (
        (6, points * torch.tensor([1 + WIDER, 1 + WIDER, 1])),
        (5, points + torch.tensor([0, 0, SHIFT])),
        (3, points + torch.tensor([SHIFT / 2, 0, 0])),  # in half sides of a picture twice as wide
        (4, points + torch.tensor([0, SHIFT, 0])),
        (1, points + TURN * torch.stack([points[:, 2] / 2, 0 * points[:, 1], -2 * points[:, 0]], -1)),
        (0, points + TURN * torch.stack([0 * points[:, 0], -points[:, 2], points[:, 1]], -1)),
    ):
        one = off.clone()
        one[entry] = 1
        assert torch.allclose(net.mounted(points, one), expected, atol=1e-6), entry


def test_a_silhouette_is_as_thick_as_its_bone():
    """The bone stands upright from the picture's middle to (0, -1/2), two metres away: 0.5 metres are an eighth of it."""
    net = bones((64, 64))
    drawn = net.drawn(net.points(torch.zeros(2)), torch.tensor([0.5]).double())[0]
    assert drawn.shape == (32, 32) and drawn[15, 15] > 0.95 and drawn[31].max() < 1e-3
    row = drawn[12]  # 0.21875 above the middle
    assert row[19] > 0.5 > row[20] and torch.allclose(row, row.flip(0))
