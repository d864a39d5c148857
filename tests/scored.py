"""A scoring of all of some clips in memory."""

import dataclasses

from hwm.contracts import Batch
from hwm.evaluate.protocols import COMPRESSION, Scoring
from hwm.evaluate.scoring import evaluate


def score(model, tokenizer, clips, protocol=COMPRESSION, **options):
    """Scored on all clips; options of `Scoring` and of `evaluate` alike."""
    names = {f.name for f in dataclasses.fields(Scoring)}
    scoring = Scoring(**{"clips": 0, "batch_size": 8} | {k: v for k, v in options.items() if k in names})
    options = {"cost_repeats": 0, "num_examples": 0} | {k: v for k, v in options.items() if k not in names}
    return evaluate(model, tokenizer, clips, protocol, scoring, **options)


class Held:
    """Grids in memory."""

    def __init__(self, grids, states):
        self.grids, self.states = grids, states

    def __len__(self):
        return len(self.grids)

    def batch(self, indices):
        key = "latents_BTCHW" if self.grids.is_floating_point() else "tokens_BTHW"
        return Batch(states_BFA=self.states[indices], **{key: self.grids[indices]})


class Filmed(Held):
    """Video in memory."""

    def batch(self, indices):
        return Batch(states_BFA=self.states[indices], video_BFHWC=self.grids[indices])
