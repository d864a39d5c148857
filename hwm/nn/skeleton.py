"""Where a robot's bones stand in its camera's picture, told by its states: what a network need not learn of its body."""

import math

import torch
from torch import Tensor, nn

from hwm.robot import Skeleton

NEAR = 0.08
"""Metres in front of the camera from which on a bone is seen; what is nearer is cut off."""
SOFT = (0.33, 0.125)
"""Half sides of the picture over which being near a bone fades."""


class Bones(nn.Module):
    """The bones of a skeleton as a map over the patches of its camera's picture (ours).

    skeleton: with a bone or more.  size: of frames, height and width.  patch: side of a patch.  All of it is float32 and without
    weights; the camera stands where it should, and what a mounting is off by is for the network to see.
    """

    places_J3: Tensor
    turns_J33: Tensor
    squares_J33: Tensor
    rests_J: Tensor
    camera_33: Tensor
    centres_S2: Tensor

    def __init__(self, skeleton: Skeleton, *, size: tuple[int, int], patch: int) -> None:
        super().__init__()
        self.skeleton, (H, W) = skeleton, size
        axes_J3 = torch.tensor(skeleton.axes)
        turns_J33 = torch.linalg.cross(axes_J3[:, None], torch.eye(3).expand(len(axes_J3), 3, 3)).transpose(1, 2)
        scale = 1 / math.tan(math.radians(skeleton.fovy) / 2)
        # To the right and down, in half sides of the picture a metre away, and the depth.
        camera_33 = torch.tensor([[0, -scale * H / W, 0], [0, 0, -scale], [1, 0, 0]])
        down_P, right_Q = ((2 * torch.arange(n) + 1) * (patch / side) - 1 for n, side in ((H // patch, H), (W // patch, W)))
        buffers = {"places_J3": torch.tensor(skeleton.places), "turns_J33": turns_J33, "squares_J33": turns_J33 @ turns_J33}
        buffers |= {"camera_33": camera_33, "rests_J": torch.tensor(skeleton.rests)}
        buffers["centres_S2"] = torch.stack(torch.meshgrid(right_Q, down_P, indexing="xy"), -1).flatten(0, 1)
        for name, value in buffers.items():
            self.register_buffer(name, value.float(), persistent=False)

    @property
    def channels(self) -> int:
        """Numbers that a patch is told."""
        return len(self.skeleton.bones) * (4 + len(SOFT))

    def points(self, states: Tensor) -> Tensor:
        """Raw states (..., A) to where the joints are before the camera, (..., J, 3): to the right and down, each times the
        depth, in half sides of the picture, and the depth in metres."""
        found: list[Tensor] = []
        turned: list[Tensor] = []
        for joint, (parent, row) in enumerate(zip(self.skeleton.parents, self.skeleton.states)):
            angle = self.rests_J[joint] + (states[..., row].float() if row >= 0 else torch.zeros_like(states[..., 0]).float())
            sin, cos = angle.sin()[..., None, None], angle.cos()[..., None, None]
            turn = torch.eye(3, device=states.device) + sin * self.turns_J33[joint] + (1 - cos) * self.squares_J33[joint]
            place = self.places_J3[joint].expand(*states.shape[:-1], 3)
            if parent >= 0:
                place, turn = found[parent] + _times(turned[parent], place), _product(turned[parent], turn)
            found.append(place)
            turned.append(turn)
        camera = self.skeleton.camera
        view = _product(self.camera_33, turned[camera].transpose(-1, -2))
        return _times(view[..., None, :, :], torch.stack(found, -2) - found[camera][..., None, :])

    def forward(self, points: Tensor) -> Tensor:
        """Of joints where `points` finds them, what every patch is told, (..., S, channels): of each bone the way from the
        patch to the nearest point of it, in half sides of the picture and at most 1, how near that is, how far along the bone
        and how near to the camera."""
        near, far = (points[..., list(ends), :] for ends in zip(*self.skeleton.bones))
        near, far = _cut(near, far), _cut(far, near)
        seen = ((near[..., 2] >= NEAR) & (far[..., 2] >= NEAR)).to(points.dtype)
        a, b = (x[..., :2] / x[..., 2:].clamp(min=NEAR) for x in (near, far))
        closeness = [1 / x[..., 2].clamp(min=NEAR) for x in (near, far)]
        way, apart = (b - a)[..., None, :, :], self.centres_S2[:, None] - a[..., None, :, :]
        along = ((apart * way).sum(-1) / (way.square().sum(-1) + 1e-6)).clamp(0, 1)
        apart = along[..., None] * way - apart
        distance = apart.norm(dim=-1)
        close = closeness[0][..., None, :] + along * (closeness[1] - closeness[0])[..., None, :]
        told = [apart[..., 0].clamp(-1, 1), apart[..., 1].clamp(-1, 1), along, NEAR * close]
        told += [torch.exp(-(distance / soft).square()) for soft in SOFT]
        return torch.cat([seen[..., None, :] * x for x in told], -1)


def _cut(end: Tensor, other: Tensor) -> Tensor:
    """The end of a bone (..., 3), or where the bone comes to be seen."""
    share = (NEAR - end[..., 2:]) / (other[..., 2:] - end[..., 2:]).clamp(min=1e-6)
    hidden = (end[..., 2:] < NEAR) & (other[..., 2:] > NEAR)
    return torch.where(hidden, end + share * (other - end), end)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Not a product of matrices to torch, which would take it to bfloat16 in training."""
    return (matrix * vector[..., None, :]).sum(-1)


def _product(one: Tensor, other: Tensor) -> Tensor:
    return (one[..., :, :, None] * other[..., None, :, :]).sum(-2)
