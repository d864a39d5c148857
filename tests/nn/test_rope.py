import math

import pytest
import torch

from hwm.nn.rope import axis_widths, grid_positions, rope_angles, rotate


@pytest.mark.parametrize("sizes", [(17,), (4, 5), (3, 4, 5)])
def test_every_pair_turns_by_its_angle(sizes: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    positions = grid_positions(*sizes)
    x = torch.randn(2, len(positions), 24, generator=generator)
    angles = rope_angles(positions, 24)
    turned = rotate(x, angles)
    for pair in range(12):
        matrix = torch.stack([angles[:, pair].cos(), -angles[:, pair].sin(), angles[:, pair].sin(), angles[:, pair].cos()], -1)
        one = (matrix.view(-1, 2, 2) @ x[..., 2 * pair : 2 * pair + 2, None])[..., 0]
        torch.testing.assert_close(turned[..., 2 * pair : 2 * pair + 2], one)
    assert rotate(x.bfloat16(), angles).dtype == torch.bfloat16


def test_first_pair_turns_by_one_radian_a_step_and_the_last_slowest() -> None:
    angles = rope_angles(torch.tensor([[0.0], [1.0], [3.0]]), 8, theta=16.0)
    torch.testing.assert_close(angles, torch.tensor([0.0, 1.0, 3.0])[:, None] * torch.tensor([1, 0.5, 0.25, 0.125]))


def test_axes_turn_their_own_channels_only() -> None:
    widths = axis_widths(72, 3)
    assert widths == (24, 24, 24) and axis_widths(64, 2) == (32, 32) and axis_widths(64, 3) == (24, 20, 20)
    angles = rope_angles(torch.tensor([[0.0, 2.0, 0.0]]), 72)[0]
    assert (angles[:12] == 0).all() and (angles[24:] == 0).all() and math.isclose(angles[12], 2.0)


@pytest.mark.parametrize("head,axes", [(7, 1), (2, 2), (6, 2), (4, 3), (64, 4)])
def test_heads_that_cannot_be_split(head: int, axes: int) -> None:
    with pytest.raises(ValueError, match="rotary axes"):
        axis_widths(head, axes)


def test_grid_positions_are_row_major() -> None:
    assert grid_positions(2, 3).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
