"""Grasp assistance: closed fingers push an object, and a constraint that is switched on then holds it fast.

Friction alone drops most objects at this time step.  A grasp succeeds only if the palm is close enough; misses stay misses.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hwm.sim.body.robot import SIDES, Side
from hwm.sim.home.objects import Thing

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
