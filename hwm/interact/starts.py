"""What is driven where nobody says what: a world that comes with the package, from starts that the simulator makes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hwm import __version__
from hwm.interact.world import World
from hwm.publish.trained import SHIPPED
from hwm.robot import EVE
from hwm.safe_load.paths import is_dir, is_file
from hwm.sim.simulate import FOLDERS, expect_packages, simulate
from hwm.work.cache import cache_folder
from hwm.work.ranges import BadSetting

OURS = "hwm-sim"
"""The name under which a world of the built-in robot is shipped."""
DEMO = Path("runs/demo/run")
"""What `hwm demo` trains."""
SECONDS, SEGMENTS = 24.0, (5.5, 6.5)
"""Robot time of the starts, and of each of their rooms."""
SEED = 99_999
"""Of rooms that nobody trains in: the last one that there is."""


def usual_run() -> Path:
    """The shipped world of the built-in robot, else the demo's.  Raises ValueError where there is neither."""
    if is_dir(SHIPPED / OURS):
        return Path(OURS)
    if is_file(DEMO / "config.toml"):
        return DEMO
    raise ValueError(f"no run was named, and {DEMO} is not here: make it with `python3 run.py demo`, or name a run")


def made_starts(world: World, *, progress: Callable[[int, int], None] | None = None) -> Path:
    """A folder of recordings of the built-in robot, in rooms of their own, in the size of the world's frames.

    It is made once and kept in the user's cache.  Raises ValueError for a world of another robot.
    """
    if world.robot not in ("", EVE.name) or world.model.config.state_dim != EVE.dim:
        of = world.robot or f"a robot of {world.model.config.state_dim} states"
        raise BadSetting("data", f"is needed: recordings of {of}, of which the simulator makes none")
    expect_packages()
    side = max(64, -(-max(world.size) // 2) * 2)
    settings: dict[str, Any] = {
        "minutes": SECONDS / 60, "val_minutes": 0.03, "size": side, "seed": SEED, "segment_seconds": SEGMENTS,
        "rooms": round(2 * SECONDS / sum(SEGMENTS)), "commands": True,
    }  # fmt: skip
    mark = hashlib.sha256(repr((__version__, settings)).encode()).hexdigest()[:8]
    out = cache_folder() / "hwm" / f"starts-{side}-{mark}"
    simulate(out, **settings, workers=1, progress=progress)
    return out / FOLDERS["train"]
