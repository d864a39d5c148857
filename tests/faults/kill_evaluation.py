"""Scoring of a tiny model in parts, as a process of its own to be killed.

    python tests/faults/kill_evaluation.py OUT NUM_CLIPS
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))  # for `tiny_training`
from tiny_training import CONFIG, MODEL

from hwm.contracts import Batch
from hwm.evaluate.protocols import COMPRESSION, Scoring
from hwm.evaluate.scoring import evaluate
from hwm.model_config import FSQConfig
from hwm.models.st_transformer import STTransformer
from hwm.tokenizers.autoencoder import FSQTokenizer
from hwm.work.parts import Work
from hwm.work.share import share_from_environment

BATCH = 2


class RandomClips:
    """Clips of random tokens and states."""

    def __init__(self, num: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(MODEL.vocab_size, (num, 6, *MODEL.grid), generator=generator)
        self.states = torch.randn(num, 34, 25, generator=generator)

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, indices) -> Batch:
        return Batch(states_BFA=self.states[indices], tokens_BTHW=self.tokens[indices])


def scored(out: Path | None, num_clips: int) -> str:
    """All numbers, examples included, as text."""
    torch.set_num_threads(1)
    torch.manual_seed(CONFIG.seed)
    model, coder = STTransformer(MODEL), FSQTokenizer(FSQConfig(levels=(4, 4, 2), channels=8, depth=1))
    for weights in model.parameters():
        torch.nn.init.normal_(weights, std=0.3)
    work = None if out is None else Work(out / "results.json", share=share_from_environment())
    scoring = Scoring(clips=0, batch_size=BATCH)
    result = evaluate(model.eval(), coder.eval(), RandomClips(num_clips), COMPRESSION, scoring, cost_repeats=0, work=work)
    record = result.to_json()
    record.pop("seconds")
    return json.dumps([record, [example.pictures[result.headline].tolist() for example in result.examples]])


if __name__ == "__main__":
    text = scored(Path(sys.argv[1]), int(sys.argv[2]))
    (Path(sys.argv[1]) / "numbers").write_text(text)
