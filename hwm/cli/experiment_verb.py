"""The verb that runs whole experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def experiment(
    name: Literal["hwm-tables", "flow-steps"],
    /,
    *,
    out: Path,
    data: Path | None = None,
    size: Literal["tiny", "medium"] = "tiny",
    variants: tuple[Literal["base", "modality", "full", "split"], ...] = ("base", "modality", "full", "split"),
    minutes: float = 30.0,
    steps: int = 0,
    clips: int = 192,
    seed: int = 0,
    workers: int = 0,
    inception: Path | None = None,
    device: str = "cpu",
) -> int:
    """Train and score what a paper's table asks for: tables, plots and one page; goes on where it was interrupted.

    hwm-tables: Masked- and Flow-HWM in their four variants under one budget, as Tables 1 and 2 of the HWM paper.
    flow-steps: quality against the number of solver steps, for Flow-HWM as published and with shortcut training.

    Args:
        name: The experiment.
        out: Folder for data, runs, tables and page; the two experiments may share one.
        data: Folder of raw datasets (train_v..., val_v...); default: the built-in robot is simulated.
        size: Twins to train: tiny for two CPU cores, medium for one GPU.
        variants: Which variants; flow-steps trains the first.
        minutes: Robot time simulated for training.
        steps: Training steps of every model; 0: those of its recipe.
        clips: Clips to score on, from rooms never trained on.
        seed: Seed of rooms, training and scoring.
        workers: Trainings at a time; 0: one per core, on a GPU one.
        inception: Inception weights for FID.
        device: cpu or cuda, for training and scoring.
    """
    from hwm.experiments.flow_steps import flow_steps
    from hwm.experiments.hwm_tables import hwm_tables
    from hwm.experiments.plan import Plan

    plan = Plan(
        out=out,
        data=data,
        size=size,
        minutes=minutes,
        steps=steps,
        clips=clips,
        seed=seed,
        workers=workers,
        inception=inception,
        device=device,
    )
    page = hwm_tables(plan, variants) if name == "hwm-tables" else flow_steps(plan, variants[0])
    print(f"\npage: {page}")
    return 0
