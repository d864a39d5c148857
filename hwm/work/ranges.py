"""The range of every number that a user may set: declared where the number stands, checked by one function.

    width: Annotated[int, Range(1, 65_536)] = 512

A field or parameter of several numbers has the range of each of them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from inspect import signature
from typing import Any, get_type_hints


class BadSetting(ValueError):
    """A number that cannot be.  name: of the field or parameter, "train.steps" or "clips"; the message begins with it."""

    def __init__(self, name: str, fault: str) -> None:
        super().__init__(f"{name} {fault}")
        self.name, self.fault = name, fault


@dataclass(frozen=True)
class Range:
    """From `least` to `most`, both included but for what is said.

    above, below: `least`, `most` itself is left out.  some: of several numbers there must be at least one.
    """

    least: float
    most: float
    above: bool = False
    below: bool = False
    some: bool = False

    def check(self, name: str, value: Any) -> None:
        """Raise BadSetting for a number, or one of several, that is not finite or not within; None passes."""
        numbers = value if isinstance(value, (tuple, list)) else () if value is None else (value,)
        if self.some and value is not None and not numbers:
            raise BadSetting(name, "must hold at least one number, got none")
        for number in numbers:
            if isinstance(number, float) and not math.isfinite(number):
                raise BadSetting(name, f"must be a finite number, got {number}")
            if number < self.least or (self.above and number == self.least):
                limit = f"more than {self.least:g}" if self.above else f"{self.least:g} or more"
            elif number > self.most or (self.below and number == self.most):
                limit = f"less than {self.most:g}" if self.below else f"{_plain(self.most)} or less"
            else:
                continue
            raise BadSetting(name, f"must be {limit}, got {_plain(number)}")


def _plain(number: float) -> str:
    """A number with all its digits, unless there are too many to read."""
    return str(number) if isinstance(number, float) or abs(number) < 10**20 else "a number of more than 20 digits"


@cache
def ranges_of(owner: Callable[..., Any]) -> dict[str, Range]:
    """The ranges declared in a dataclass or in the parameters of a function, by name."""
    hints = get_type_hints(owner, include_extras=True)
    return {name: mark for name, hint in hints.items() for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Range)}


def check_ranges(owner: Callable[..., Any], values: Mapping[str, Any], *, prefix: str = "") -> None:
    """Raise BadSetting for the first of these values that is outside the range declared for it.

    prefix: goes before the name in the message, such as "train.".
    """
    for name, found in ranges_of(owner).items():
        if name in values:
            found.check(prefix + name, values[name])


def call_within(function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Any:
    """Call a function with arguments that lie in the ranges of its parameters."""
    check_ranges(function, signature(function).bind(*arguments, **options).arguments)
    return function(*arguments, **options)
