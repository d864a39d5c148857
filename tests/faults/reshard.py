"""Load the newest checkpoint of a tiny run of 3 steps and save it again, with another number of processes.

    python tests/faults/reshard.py IN OUT parallel        (under torchrun or alone)
"""

import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from tiny_training import CONFIG, build

from hwm.training import checkpoint
from hwm.training.identity import record
from hwm.training.learner import Learner
from hwm.training.loop import _restore
from hwm.training.processes import joined

torch.set_num_threads(1)
source, target = Path(sys.argv[1]), Path(sys.argv[2])
config = replace(CONFIG, train=replace(CONFIG.train, steps=3, parallel=sys.argv[3]))
with joined(device="cpu", timeout=60) as processes:
    model = build()
    with torch.no_grad():  # what is not loaded shows
        for parameter in model.parameters():
            parameter.add_(1.0)
    learner = Learner(model, config, device=torch.device("cpu"), processes=processes)
    position = _restore(source / "checkpoints", learner, config=config, identity={}, say=lambda line: None, processes=processes)
    state = asdict(position) | record(config, {}) | {"best_step": 0}
    checkpoint.save(target / "checkpoints", state, learner.tensors(), keep=1, processes=processes)
