"""The readers by which an evaluation measures what predicted frames show, opened for use."""

from __future__ import annotations

from typing import Any

from hwm.evaluate.metrics import Metric
from hwm.evaluate.reading import mask_iou, state_errors
from hwm.publish.trained import fingerprint, located, shipped
from hwm.runs import Run, expect_robot, load_run

MASK_READER = "robot-mask"
"""Name of the shipped reader that finds the simulated robot's arms."""


def reader(name: str, reads: str, *, device: str) -> Run:
    """A trained reader.  Raises ValueError as `load_run`, and for what reads something else or is no reader."""
    run = load_run(located(name), device=device)
    model: Any = run.config.model
    if model.role != "reader" or model.reads != reads:
        recipe = {"mask": "robot-mask", "states": "state-readout"}[reads]
        raise ValueError(f"{name}: reads no {reads} off frames; give a run of the recipe {recipe}")
    return run


def readers_of(dataset: Any, *, masks: bool, readout: str, device: str) -> tuple[list[Metric], dict[str, str]]:
    """The metrics that read predicted frames of a dataset's clips, and the fingerprint of every reader by its use.

    masks: whether the data tell where the robot's arms are.  readout: run that reads states; empty: none are read.
    Raises ValueError for a run that reads the states of another robot, or learned from this very dataset.
    """
    found: list[Metric] = []
    runs = {"masks": reader(MASK_READER, "mask", device=device)} if masks and MASK_READER in shipped() else {}
    if runs:
        found.append(mask_iou(runs["masks"].model))
    if readout:
        run = runs["readout"] = reader(readout, "states", device=device)
        expect_robot(dataset, run.config.model, {"robot": run.identity.get("robot")})
        if run.identity.get("train") == dataset.fingerprint:
            raise ValueError(f"{readout}: learned to read from {dataset.root} itself; give one that was trained on other video")
        found += state_errors(run.model, dataset.robot.groups)
    return found, {name: fingerprint(run.model.state_dict()) for name, run in runs.items()}
