"""The model card of a published folder: what the run itself knows, and what only its maker can say.

The head is what the hub reads (YAML; text is written as JSON strings, which YAML takes too).  No number stands here that no file
of the run holds; what nobody said is told as not said.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hwm.config import RunConfig, to_dict
from hwm.evaluate.motion import motion_tables
from hwm.evaluate.protocols import MOTION, PROTOCOLS
from hwm.evaluate.scores import Scores
from hwm.evaluate.table import cost_table, differences_table, pictures_table, tokens_tables, verdict_differences
from hwm.publish.folder import CARD, Published, without_places
from hwm.recipes import RECIPES
from hwm.robot import Embodiment
from hwm.safe_load.paths import is_file
from hwm.safe_load.text import read_json
from hwm.training.identity import FREE, PLACES
from hwm.training.run_folder import read_metrics

UNSAID = "not said"
MAX_RESULTS_BYTES = 50_000_000


@dataclass(frozen=True)
class Said:
    """What no file of a run says and its maker may.  licence: of the weights.  data: what it learned from, with its licence."""

    title: str = ""
    licence: str = ""
    data: str = ""
    hardware: str = ""
    limits: str = ""


def results_in(folder: Path) -> list[Scores]:
    """The scores of a run that lie in its folder, of every protocol."""
    names = dict.fromkeys(protocol.results for protocol in PROTOCOLS.values())
    found = [folder / name for name in names if is_file(folder / name)]
    return [Scores.from_json(read_json(path, max_bytes=MAX_RESULTS_BYTES, kind="results"), where=str(path)) for path in found]


def training_seconds(run: Path) -> float:
    """Training time by the run's log, 0 where there is none."""
    seconds = [record["seconds"] for record in read_metrics(run / "metrics.jsonl") if record.get("seconds")]
    return float(max(seconds, default=0.0))


def card(
    published: Published, said: Said, *, parameters: int, robot: Embodiment | None, results: Sequence[Scores] = (),
    seconds: float = 0.0, sums: Mapping[str, str] = {}, tokenizer: str = "", narrowed: str = "",
) -> str:
    """The text of a card.

    parameters: of the model.  robot: whose states it reads.  results: scores of it.  seconds: of training.  sums: checksums.
    tokenizer: the one that made its data, in words.  narrowed: how weights were rounded, in words.
    """
    config = published.config
    title, world = said.title or config.recipe, config.model.role in ("world model", "twin")
    parts = [_head(config, said, results, title), f"# {title}\n", _what(published, parameters, robot, tokenizer, said, seconds)]
    if robot is not None and world:
        parts.append(_states(robot))
    parts += [_scores(found) for found in results]
    if not results and world:
        parts.append("## Scores\n\nNone lie with the run: `hwm evaluate THIS_FOLDER --data HELD_OUT --out scores` gives them.\n")
    parts.append(_use(config, world))
    limits = said.limits or f"Known limits: {UNSAID}. It has seen the data above and no other; expect less anywhere else."
    stored = f"\n\n{narrowed}" if narrowed else ""
    listed = "\n".join(f"    {digest}  {name}" for name, digest in sums.items())
    parts.append(f"## Limits\n\n{limits}{stored}\n")
    parts.append(f"## Files\n\nSHA-256 of every file, as in checksums.json; hwm compares them before it opens one.\n\n{listed}\n")
    return "\n".join(parts)


def _head(config: RunConfig, said: Said, results: Sequence[Scores], title: str) -> str:
    """YAML for the hub: tags, licence, metrics."""
    role = config.model.role
    world = role == "world model"
    tags = ["world-model", "action-conditioned", "video-prediction", "humanoid"] if world else [f"video-{role}"]
    if role == "twin":
        tags = ["robot-dynamics", "humanoid"]
    lines = {"library_name": "hwm", "pipeline_tag": "robotics", "license": said.licence or "other", "tags": ["hwm", *tags]}
    if base := getattr(config.model, "base", ""):
        lines["base_model"] = base
    text = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in lines.items()]
    if results:
        entries = [entry for found in results for entry in _metrics(found)]
        index = [{"name": title, "results": entries}]
        text.append(f"model-index: {json.dumps(index, ensure_ascii=False)}")
    return "---\n" + "\n".join(text) + "\n---\n"


def _metrics(scores: Scores) -> Iterable[dict[str, Any]]:
    """Numbers of the headline's row for the hub's index, each with its interval in its name."""
    place = {"reference": scores.settings["reference"], "span": scores.settings["span"]}
    found = scores.select(row=scores.headline, **place)
    metrics = [
        {"type": score.metric, "value": score.value.mean, "name": f"{score.metric}, {place['span']}, {score.value.text(2)}"}
        for score in found
        if score.value.mean == score.value.mean
    ]
    if metrics:
        data = {"name": Path(str(scores.settings.get("data", "held-out data"))).name, "type": "video"}
        task = "robotics" if scores.protocol == MOTION.name else "video-prediction"
        yield {"task": {"type": task}, "dataset": data, "metrics": metrics}


def _what(
    published: Published, parameters: int, robot: Embodiment | None, tokenizer: str, said: Said, seconds: float
) -> str:
    """What it is, and a table of how it came about."""
    config, model = published.config, published.config.model
    sizes: Any = model
    if model.role == "tokenizer":
        per = f"blocks of {sizes.block} frames, a grid every {sizes.temporal_stride}, a cell every {sizes.spatial_stride} pixels"
        gives = "latents" if sizes.continuous else "tokens"
        what = f"Causal video tokenizer ({gives}): {per}; {parameters / 1e6:.2f} M parameters."
    elif model.role == "reader":
        gives = "which pixels show the robot's arms" if sizes.reads == "mask" else "the robot's state, but for velocities"
        what = (f"Reads off a single frame of {sizes.grid[0]}x{sizes.grid[1]} {gives}, to measure what predicted frames show; "
                f"{parameters / 1e6:.2f} M parameters.")  # fmt: skip
    elif model.role == "twin":
        what = (f"Twin of a robot's own dynamics: {sizes.members} networks that foresee its states from its commands, after "
                f"{sizes.context_grids} frames of both; {parameters / 1e6:.2f} M parameters.")  # fmt: skip
    else:
        seen = "frames" if model.kind == "video" else f"grids of {model.kind}"
        reach = getattr(model, "reach", 0)
        told = "the states then and to come" if reach else f"{sizes.num_states} rows of states"
        what = (f"World model of a robot's camera, family `{model.family}`: it sees {sizes.context_grids} {seen} of "
                f"{sizes.grid[0]}x{sizes.grid[1]} and {told}, and predicts {reach or sizes.future_grids} more; "
                f"{parameters / 1e6:.2f} M parameters.")  # fmt: skip
    hz = f" at {robot.hz} Hz" if robot is not None and robot.hz else ""
    train, prints = config.train, published.identity
    began, took = prints.get("init"), f"{seconds / 3600:.2f} h of training" if seconds else f"time {UNSAID}"
    from_what = f"{began['name']} (weights {str(began['weights'])[:16]})" if isinstance(began, dict) else "random weights"
    clips, learned = train.batch_size * train.accumulate, " ".join(Path(place).name for place in config.data.train)
    facts = {
        "data": said.data or f"{learned or UNSAID}{hz}; source and licence {UNSAID}",
        "fingerprint of the data": str(prints.get("train") or UNSAID)[:16],
        "tokenizer": tokenizer,
        "training": f"`{command(config, robot)}`",
        "started from": from_what,
        "seed, steps": f"seed {config.seed}, step {published.step} of {train.steps}, {clips} clips each",
        "hardware and time": f"{said.hardware or f'hardware {UNSAID}'}, {took}",
        "weights": f"averaged over the updates (decay {train.ema:g})" if train.ema else "of the last update of the checkpoint",
        "licence of the weights": said.licence or UNSAID,
        "made with": f"hwm {prints.get('hwm', UNSAID)}",
    }
    rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in facts.items() if value)
    return f"{what}\n\n| | |\n|---|---|\n{rows}\n"


def command(config: RunConfig, robot: Embodiment | None = None) -> str:
    """The command that trains this configuration: its recipe, fitted to the data's robot, with what differs from it."""
    config = without_places(config)
    built = {entry.name: entry for entry in RECIPES}
    plain = built[config.recipe].build() if config.recipe in built else RunConfig(model=type(config.model)())
    plain = plain if robot is None else replace(plain, model=plain.model.for_robot(robot))
    here, usual = _dotted(to_dict(config)), _dotted(to_dict(plain))
    told = {"seed", "recipe", "anew", *PLACES} | FREE
    differ = [key for key, value in here.items() if key not in told and usual.get(key) != value]
    changes = [shlex.quote(f"{key}={_plain(here[key])}") for key in differ]
    init = f" --init {config.init}" + (f" --anew {' '.join(config.anew)}" if config.anew else "") if config.init else ""
    val = f" --val {config.data.val}" if config.data.val else ""
    of = config.recipe if config.recipe in built else "--config CONFIG"
    sets = f" --set {' '.join(changes)}" if changes else ""
    return f"hwm train {of} --data {' '.join(config.data.train) or 'DATA'}{val} --seed {config.seed}{init}{sets} --out RUN"


def _dotted(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _plain(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")) if not isinstance(value, str) else value


def _states(robot: Embodiment) -> str:
    raw = set(robot.raw)
    rows = [f"| {i} | {_cell(name)} | {_cell(unit)} | {'as it is' if i in raw else 'mean 0, deviation 1'} |"
            for i, (name, unit) in enumerate(zip(robot.names, robot.units))]  # fmt: skip
    head = f"## States of {robot.name}\n\nOne row a frame, in this order (robot.toml); shifts and scales are in the weights.\n"
    return "\n".join([head, "| | state | unit | enters |", "|---|---|---|---|", *rows, ""])


def _scores(scores: Scores) -> str:
    settings = scores.settings
    places = dict.fromkeys((s.reference, s.span) for s in scores.scores)
    best = (settings["reference"], settings["span"])
    if scores.protocol == MOTION.name:
        tables = motion_tables(scores)
    else:
        tables = [pictures_table(scores, *place) for place in places if place == best]
        tables += tokens_tables(scores)
        tables.append(differences_table(scores, verdict_differences(scores), "paired differences"))
    clips = f"{settings.get('num_clips')} clips of {settings.get('num_segments') or 'unknown'} recordings"
    text = [f"## Scores, protocol {scores.protocol}\n", f"{clips}; 95 % intervals; seed {settings.get('seed', 0)}.\n"]
    text += [f"**{_cell(table.title)}**\n\n{table.markdown()}\n" for table in tables if table.rows]
    if (calibration := scores.facts.get("calibration")) is not None:
        plain = {name: value for name, value in calibration.items() if isinstance(value, int | float)}
        rows = "\n".join(f"| {name.replace('_', ' ')} | {value:.4g} |" for name, value in plain.items())
        text.append(f"**calibration of the spread**\n\n| | |\n|---|---|\n{rows}\n")
    if scores.cost is not None:
        text.append(f"**cost of a prediction**\n\n{cost_table(scores.cost).markdown()}\n")
    return "\n".join(text)


def _use(config: RunConfig, world: bool) -> str:
    if not world:
        used = {"tokenizer": "hwm tokenize RAW OUT --tokenizer THIS_FOLDER"}
        read = "hwm evaluate RUN --data DATA --video RAW"
        reads = f"{read} --readout THIS_FOLDER" if getattr(config.model, "reads", "") == "states" else f"{read}   # with masks"
        lines = [used.get(config.model.role, reads),
                 f"hwm train {config.recipe} --init THIS_FOLDER --out RUN --data RAW --val HELD_OUT   # fine-tuned"]  # fmt: skip
    else:
        lines = ["hwm predict THIS_FOLDER --data DATA --out rollout.mp4"] if config.model.role == "world model" else []
        lines += ["hwm evaluate THIS_FOLDER --data DATA --out scores",
                  f"hwm train {config.recipe} --init THIS_FOLDER --out RUN --data DATA --val HELD_OUT"]  # fmt: skip
    code = "\n".join(f"    {line}" for line in lines)
    call = "frames, states, num_frames=34, samples=4"
    python = f"\n\n    import hwm\n    future = hwm.load('THIS_FOLDER').predict({call}).mean" if world else ""
    if config.model.role == "twin":
        python = ("\n\n    from hwm.models.twin import Motion\n    from hwm.runs import load_run"
                  "\n    motion = Motion(load_run('THIS_FOLDER').model)    # then reset(states), step(command)")  # fmt: skip
    return f"## Use\n\n{code}{python}\n\nThis page is `{CARD}`; nothing in the folder can run.\n"


def _cell(text: str) -> str:
    """Text that stays in its cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|")
