"""Where a robot's bones stand in its camera's picture, told by its states: what a network need not learn of its body."""

import math

import torch
from torch import Tensor, nn

from hwm.robot import Skeleton

NEAR = 0.08
"""Metres in front of the camera from which on a bone is seen; what is nearer is cut off."""
SOFT = (0.33, 0.125)
"""Half sides of the picture over which being near a bone fades."""
TURN, SHIFT, WIDER = 0.03, 0.005, 0.03
"""Radians, metres and share of the picture's scale that a mounting off by 1 means."""
MOUNTING = 7
"""Numbers that tell by how much a camera is mounted otherwise."""


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
    halves_S2: Tensor

    def __init__(self, skeleton: Skeleton, *, size: tuple[int, int], patch: int) -> None:
        super().__init__()
        self.skeleton, self.size, (H, W) = skeleton, size, size
        axes_J3 = torch.tensor(skeleton.axes)
        turns_J33 = torch.linalg.cross(axes_J3[:, None], torch.eye(3).expand(len(axes_J3), 3, 3)).transpose(1, 2)
        self.scale = scale = 1 / math.tan(math.radians(skeleton.fovy) / 2)
        # To the right and down, in half sides of the picture a metre away, and the depth.
        camera_33 = torch.tensor([[0, -scale * H / W, 0], [0, 0, -scale], [1, 0, 0]])
        buffers = {"places_J3": torch.tensor(skeleton.places), "turns_J33": turns_J33, "squares_J33": turns_J33 @ turns_J33}
        buffers |= {"camera_33": camera_33, "rests_J": torch.tensor(skeleton.rests)}
        buffers["centres_S2"], buffers["halves_S2"] = (_centres(size, side) for side in (patch, 2))
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
        seen, apart, along, close = self._nearest(points, self.centres_S2)
        told = [apart[..., 0].clamp(-1, 1), apart[..., 1].clamp(-1, 1), along, NEAR * close]
        told += [torch.exp(-apart.square().sum(-1) / soft**2) for soft in SOFT]
        return torch.cat([seen * x for x in told], -1)

    def drawn(self, points: Tensor, radii: Tensor) -> Tensor:
        """A soft silhouette of every bone at half the size of frames, (..., bones, H / 2, W / 2): 1 on the bone, a half where
        it is as thick as `radii` (bones,) says, in metres."""
        seen, apart, _, close = self._nearest(points, self.halves_S2)
        thick = self.scale * radii * close
        picture = seen * torch.exp2(-apart.square().sum(-1) / (thick.square() + 1e-6))
        return picture.transpose(-1, -2).unflatten(-1, (self.size[0] // 2, self.size[1] // 2))

    def mounted(self, points: Tensor, off: Tensor) -> Tensor:
        """Where joints are before a camera that is mounted otherwise.

        off: (..., MOUNTING): its turn about the axes right, down and ahead, its shift along them, and how much larger all seems.
        """
        unit = points.new_tensor([self.scale * self.size[0] / self.size[1], self.scale, 1.0])
        place, off = points / unit, off.to(points.dtype)[..., None, :]
        turn, shift, larger = TURN * off[..., :3], SHIFT * off[..., 3:6], 1 + WIDER * off[..., 6:]
        place = place + torch.linalg.cross(turn.expand_as(place), place) + shift
        return place * unit * torch.cat([larger, larger, torch.ones_like(larger)], -1)

    def _nearest(self, points: Tensor, places_S2: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of each bone whether it is seen (..., 1, bones), the way to its nearest point from each place (..., S, bones, 2), how
        far along it that is and the inverse of its depth (..., S, bones)."""
        near, far = (points[..., list(ends), :] for ends in zip(*self.skeleton.bones))
        near, far = _cut(near, far), _cut(far, near)
        seen = ((near[..., 2] >= NEAR) & (far[..., 2] >= NEAR)).to(points.dtype)[..., None, :]
        a, b = (x[..., :2] / x[..., 2:].clamp(min=NEAR) for x in (near, far))
        closeness = [1 / x[..., 2].clamp(min=NEAR)[..., None, :] for x in (near, far)]
        way, apart = (b - a)[..., None, :, :], places_S2[:, None] - a[..., None, :, :]
        along = ((apart * way).sum(-1) / (way.square().sum(-1) + 1e-6)).clamp(0, 1)
        return seen, along[..., None] * way - apart, along, torch.lerp(*closeness, along)


def _centres(size: tuple[int, int], side: int) -> Tensor:
    """Centres of the squares of a picture, row by row, in half sides of it, (S, 2): to the right and down."""
    down, right = ((2 * torch.arange(n // side) + 1) * (side / n) - 1 for n in size)
    return torch.stack(torch.meshgrid(right, down, indexing="xy"), -1).flatten(0, 1)


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
