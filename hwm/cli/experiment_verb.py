"""The verb that runs whole experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def experiment(
    name: Literal["hwm-tables", "flow-steps", "sampling-table"],
    /,
    *,
    out: Path,
    data: Path | None = None,
    size: Literal["tiny", "medium"] = "tiny",
    variants: tuple[Literal["base", "modality", "full", "split"], ...] = ("base", "modality", "full", "split"),
    families: tuple[Literal["wan", "st", "masked", "flow"], ...] | None = None,
    runs: tuple[Path, ...] = (),
    minutes: float = 30.0,
    steps: int = 0,
    clips: int | None = None,
    samples: int | None = None,
    many_steps: int | None = None,
    most: int | None = None,
    seed: int = 0,
    workers: int = 0,
    inception: Path | None = None,
    lpips: tuple[Path, ...] = (),
    device: str = "cpu",
) -> int:
    """Train and score what a paper's table asks for: tables, plots and one page; goes on where it was interrupted.

    hwm-tables: Masked- and Flow-HWM in their four variants under one budget, as Tables 1 and 2 of the HWM paper.
    flow-steps: quality against the number of solver steps, for Flow-HWM as published and with shortcut training.
    sampling-table: samples, steps and guidance of Wan as Table 2 of the Revontuli report, and all families at frame 76.

    Args:
        name: The experiment.
        out: Folder for data, runs, tables and page; the experiments may share one.
        data: Folder of raw datasets (train_v..., val_v...); default: the built-in robot is simulated.
        size: Twins to train: tiny for two CPU cores, medium for one GPU.
        variants: Which variants; flow-steps and sampling-table train the first.
        families: sampling-table: Which families to train; default: all.
        runs: sampling-table: Run folders to score instead of training; of Wan the first one trained with condition dropout
            and the first without it fill the table.
        minutes: Robot time simulated for training.
        steps: Training steps of every model; 0: those of its recipe.
        clips: Clips to score on, from rooms never trained on; default: 192, for sampling-table 48.
        samples: sampling-table: Samples averaged in the table's larger rows, at least 4; default: 20.
        many_steps: sampling-table: Solver steps of the table's last block; default: 100.
        most: sampling-table: Samples at the end of the curve of PSNR against their number; default: 50.
        seed: Seed of rooms, training and scoring.
        workers: Trainings at a time, and for sampling-table scorings; 0: one per core, on a GPU one.
        inception: Inception weights for FID.
        lpips: sampling-table: AlexNet weights and LPIPS heads for LPIPS.
        device: cpu or cuda, for training and scoring.
    """
    own: dict[str, object] = {"--families": families, "--runs": runs or None, "--lpips": lpips or None}
    own |= {"--samples": samples, "--many-steps": many_steps, "--most": most}
    given = [option for option, value in own.items() if value is not None]
    if name != "sampling-table" and given:
        raise ValueError(f"{', '.join(given)}: only with sampling-table")
    if runs and families is not None:
        raise ValueError("--families chooses what is trained; with --runs nothing is, so leave it out")
    from hwm.experiments.flow_steps import flow_steps
    from hwm.experiments.hwm_tables import hwm_tables
    from hwm.experiments.plan import Plan

    plan = Plan(
        out=out,
        data=data,
        size=size,
        minutes=minutes,
        steps=steps,
        clips=clips if clips is not None else 48 if name == "sampling-table" else 192,
        seed=seed,
        workers=workers,
        inception=inception,
        lpips=lpips,
        device=device,
    )
    if name == "sampling-table":
        from hwm.experiments.sampling_grid import Sizes
        from hwm.experiments.sampling_table import FAMILIES, sampling_table

        scale = {"samples": samples, "many_steps": many_steps, "most": most}
        sizes = Sizes(**{option: value for option, value in scale.items() if value is not None})
        page = sampling_table(plan, families=families or FAMILIES, variant=variants[0], runs=runs, sizes=sizes)
    else:
        page = hwm_tables(plan, variants) if name == "hwm-tables" else flow_steps(plan, variants[0])
    print(f"\npage: {page}")
    return 0
