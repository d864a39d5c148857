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
from hwm.training.loop import _restore
from hwm.training.optim import Ema, adamw, optimizer_tensors
from hwm.training.parallel import Parallel
from hwm.training.processes import joined
from hwm.training.run_folder import config_hash

torch.set_num_threads(1)
source, target = Path(sys.argv[1]), Path(sys.argv[2])
config = replace(CONFIG, train=replace(CONFIG.train, steps=3, parallel=sys.argv[3]))
with joined(device="cpu", timeout=60) as processes:
    model, device = build(), torch.device("cpu")
    with torch.no_grad():  # what is not loaded shows
        for parameter in model.parameters():
            parameter.add_(1.0)
    Parallel(model, config.train, processes, device)
    optimizer, ema = adamw(model, config.train, device=device), Ema(model, config.train.ema)
    position = _restore(
        source / "checkpoints", model, optimizer, ema, config=config, say=lambda line: None, processes=processes
    )
    state = asdict(position) | {"config": config_hash(config), "best_step": 0}
    tensors = {"model": model.state_dict(), "optimizer": optimizer_tensors(model, optimizer), "ema": ema.average}
    checkpoint.save(target / "checkpoints", state, tensors, keep=1, processes=processes)
