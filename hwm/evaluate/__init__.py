"""Scores of what was trained: `hwm.evaluate(RUN, data=HELD_OUT, out=FOLDER)`, described at `hwm.interact.world.evaluate`.

This room is itself that function, as Python gives the name `hwm.evaluate` to the folder, whoever else wants it.
"""

import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    def __call__(self, *given: Any, **options: Any) -> Any:
        from hwm import _evaluate

        return _evaluate(*given, **options)


sys.modules[__name__].__class__ = _Room
