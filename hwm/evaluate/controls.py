"""Controls: states that are not the clip's own, by which one sees what a model makes of its states.

A control is named by a word, which the command line, results and experiments share: "zeroed", "permuted", "late-4" (each row
holds the state of 4 frames before), "early-2"; with ":left_arm" behind it only that group of the robot's state changes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hwm.work.ranges import BadSetting

TRUE, ZEROED, PERMUTED = "true", "zeroed", "permuted"
"""The clip's own states; neutral ones; those of a clip of another segment."""
ALWAYS = (ZEROED, PERMUTED)
"""Controls of every scoring."""
_WORD = re.compile(r"(zeroed|permuted|(late|early)-([1-9]\d{0,3}))(?::(.+))?")


@dataclass(frozen=True)
class Control:
    """Other states.  name: the word.  frames: by which the states lag behind, negative for ahead.

    group, columns: the dimensions of the state that change; empty: all.
    """

    name: str
    frames: int = 0
    group: str = ""
    columns: tuple[int, ...] = ()

    @property
    def words(self) -> str:
        """What is done to the states, as a row's name goes on."""
        what = self.name.partition(":")[0]
        if self.frames:
            what = f"{abs(self.frames)} frame{'s' * (abs(self.frames) > 1)} {'late' if self.frames > 0 else 'early'}"
        return f"states {what}" + (f": {self.group.replace('_', ' ')}" if self.group else "")

    @property
    def about(self) -> str:
        """The same as a sentence."""
        when = "before" if self.frames > 0 else "later"
        told = {ZEROED: "every state neutral", PERMUTED: "states of another segment's clip"}
        what = told.get(self.name.partition(":")[0], f"every state that of {abs(self.frames)} frames {when}")
        return f"{what}, of {self.group.replace('_', ' ')} alone" if self.group else what

    def __call__(self, own_BFA: Tensor, *, neutral_A: Tensor, others_BFA: Tensor) -> Tensor:
        """The states (B, F, A) in the place of a clip's own.

        neutral_A: what the model's normalisation maps to zero.  others_BFA: the states of another segment's clips.  Shifted
        rows that would lie outside of the clip repeat its first or last one.
        """
        if self.frames:
            rows = torch.arange(own_BFA.shape[1], device=own_BFA.device) - self.frames
            found_BFA = own_BFA[:, rows.clamp(0, own_BFA.shape[1] - 1)]
        else:
            found_BFA = others_BFA if self.name.startswith(PERMUTED) else neutral_A.to(own_BFA).expand_as(own_BFA)
        if not self.group:
            return found_BFA
        mixed_BFA = own_BFA.clone()
        mixed_BFA[..., list(self.columns)] = found_BFA[..., list(self.columns)]
        return mixed_BFA


def controls(words: Sequence[str], groups: Mapping[str, Sequence[int]]) -> tuple[Control, ...]:
    """Those of every scoring, then those that are asked for.  groups: dimensions of the robot's state by the group's name.

    Raises ValueError for another word or a group that the robot does not have.
    """
    found = []
    for word in dict.fromkeys((*ALWAYS, *words)):
        if not (match := _WORD.fullmatch(word)):
            forms = 'zeroed, permuted, late-4 or early-4 (any number of frames), each also with ":GROUP" of the robot\'s state'
            raise BadSetting("controls", f"must be of the form {forms}, got {word!r}")
        _, way, frames, group = match.groups()
        if group and group not in groups:
            raise BadSetting("controls", f"must name a group of this robot ({', '.join(groups) or 'it has none'}), got {word!r}")
        columns = tuple(groups[group]) if group else ()
        found.append(Control(word, int(frames or 0) * (-1 if way == "early" else 1), group or "", columns))
    return tuple(found)
