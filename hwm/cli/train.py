"""The verbs around training: train a recipe, check beforehand whether it will go well, list the recipes and their needs."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from json import dumps
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any

from hwm.safe_load.paths import one_line
from hwm.work.ranges import Range

if TYPE_CHECKING:
    from hwm.config import RunConfig
    from hwm.doctor.costs import RecipeCosts
    from hwm.recipes import Recipe


def train(
    recipe: str = "", /,
    *, out: Path, data: tuple[str, ...] = (), val: str = "", config: Path | None = None, tokenizer: str = "",
    seed: int | None = None, init: str = "", anew: tuple[str, ...] = (), nproc: Annotated[int, Range(0, 4096)] = 0,
    device: str = "auto", set: tuple[str, ...] = (),
) -> int:
    """Train a recipe in a run folder; run it again to resume, on as many processes as you like.

    Under torchrun (also through Slurm) the same command is one of its processes: docs/scaling.md.
    A run that is complete goes on with more steps: --set train.steps=N.  Its learning rate then rises and falls once more.

    Args:
        recipe: Name of a recipe (`hwm recipes`); may be left out with --config.
        out: Run folder.
        data: Training data; several folders are learned from together, of one robot, tokenizer and clock.
        val: Held-out data, for validation while training.
        config: A config.toml to start from instead of a recipe.
        tokenizer: The tokenizer that made the tokens, for pictures.
        seed: Seed of initialisation, data order and dropout.
        init: Trained weights to start from, without their optimiser: a run (its best checkpoint, averaged weights where it has
            them), a folder of `hwm export`, a shipped name or user/name@revision of the hub.  Every weight must find its
            place, or be named with --anew.
        anew: What of these weights starts anew: states (all that reads the robot's states, for another robot), or modules by
            their names.
        nproc: Processes on this machine, one a GPU; they share every step's clips.  0: one, in this process.
        device: cpu, cuda or another; auto: train.device of the recipe, which by itself is the first GPU where there is one.
        set: Changes, such as train.steps=500 model.width=256 train.parallel=fsdp.
    """
    if bool(recipe) == bool(config):
        raise ValueError("give either a recipe or --config FILE")
    chosen = _configured(recipe, config, set, data=data, val=val, device=device, tokenizer=tokenizer, seed=seed,
                         init=init, anew=anew)  # fmt: skip
    from hwm.training.device import choose_device
    from hwm.training.processes import under_launcher
    choose_device(chosen.train.device, name="device" if chosen.train.device == device else "train.device")
    if under_launcher():
        if nproc:
            raise ValueError("torchrun says how many processes there are; leave --nproc away")
        return _as_one_of_many(chosen, out)
    if nproc > 1:
        from hwm.runs import check
        from hwm.training.launch import launch

        # Checked here, where a mistake costs a second, and not in every process.
        result = check(chosen, out, world=nproc, prolong=True) or launch(chosen, out, nproc=nproc)
    else:
        from hwm.runs import train as run
        result = run(chosen, out, prolong=True)
    if result.stopped:
        print(f"stopped at step {result.step}, saved; the same command goes on from there")
        return 128 + (result.signal or signal.SIGTERM)
    print(f"{out}: {result.step} steps")
    return 0


def _configured(
    recipe: str, file: Path | None, changes: Sequence[str], *, data: Sequence[str], val: str, device: str, tokenizer: str = "",
    seed: int | None = None, init: str = "", anew: Sequence[str] = (),
) -> RunConfig:
    """A recipe, or the file of a configuration, with what the command line changes."""
    from hwm.config import RunConfig, changed, from_toml, override, to_toml
    from hwm.recipes import recipe as find
    given = {"data.train": list(data) or None, "data.val": val or None, "tokenizer": tokenizer or None, "seed": seed}
    given |= {"init": init or None}
    given["train.device"] = None if device == "auto" else device
    chosen = changed(from_toml(RunConfig, file) if file else find(recipe), {k: v for k, v in given.items() if v is not None})
    if anew:
        chosen = changed(chosen, {"anew": list(anew)})
    chosen = override(chosen, changes)
    to_toml(chosen)  # what it cannot be written with is said before anything is done
    return chosen


def _as_one_of_many(config: RunConfig, out: Path) -> int:
    """One process of a launcher's.  Ends the interpreter itself: threads that still talk may abort its orderly end."""
    import dataclasses

    from hwm.work.memory import EXIT_CODE, shortage
    from hwm.work.outcome import tell_outcome
    from hwm.work.signals import stop_with_parent
    stop_with_parent()
    code, rank = 1, int(os.environ["RANK"])
    try:
        from hwm.runs import train as run
        from hwm.training.processes import STALE_STORE, joined
        if rank == 0 and os.environ.get("TORCHELASTIC_RUN_ID") and os.environ.get(STALE_STORE) != "1":
            print(f"WARNING: start torchrun with {STALE_STORE}=1, or its restarts may hang", file=sys.stderr)
        with joined(device=config.train.device, timeout=config.train.timeout) as processes:
            result = run(config, out, processes=processes, prolong=True)
        if rank == 0 and not tell_outcome(dataclasses.asdict(result)):
            print(f"{out}: {'stopped at step ' if result.stopped else ''}{result.step}{'' if result.stopped else ' steps'}")
        code = 128 + (result.signal or signal.SIGTERM) if result.stopped else 0
    except Exception as error:
        short = shortage(error)
        if short or isinstance(error, ValueError | OSError):  # the processes that replace these would end with it too
            code = EXIT_CODE if short else 2
            message = short or one_line(error)
            print(f"hwm train: error in process {rank}: {message}", file=sys.stderr)
            tell_outcome({"error": message, "code": code})
        else:
            # The rule when another process died: the peers' connections break.  The launcher then starts all again.
            print(f"hwm train: process {rank} stops: {traceback.format_exc(limit=-2)}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def doctor(
    recipe: str = "", /,
    *, data: tuple[str, ...] = (), val: str = "", video: str = "", config: Path | None = None, set: tuple[str, ...] = (),
    out: Path = Path(), nproc: Annotated[int, Range(1, 4096)] = 1, device: str = "auto", json: bool = False, quick: bool = False,
) -> int:
    """Check a machine, a dataset and a recipe together, before a training spends hours on them.

    One line a check, from cheap to dear: ok, warn or FAIL, what was found, and what to do about it.  Ends with one
    sentence; the exit code is 0 when ready, with or without warnings, and 1 when not.  Nothing is left behind.

    Args:
        recipe: Name of a recipe (`hwm recipes`); without one and without --config only the machine is checked.
        data: Training data, of one folder or several; without it the recipe runs on random clips.
        val: Held-out data.
        video: The raw dataset that tokens or latents were made from: how well the tokenizer rebuilds it, as `hwm tokenize` says.
        config: A config.toml instead of a recipe.
        set: Changes, as for `hwm train`.
        out: Folder of the run to be; a temporary folder beside or in it holds what the checks write.
        nproc: Processes that will train together on this machine.
        device: As for `hwm train`.
        json: Print one JSON object at the end; the lines go to standard error.
        quick: Leave out the check of every byte of the data and take fewer steps.
    """
    if recipe and config:
        raise ValueError("give either a recipe or --config FILE, not both")
    chosen = _configured(recipe, config, set, data=data, val=val, device=device) if recipe or config else None
    if chosen is None and (data or val or video or set):
        raise ValueError("--data, --val, --video and --set need a recipe; `hwm data check FOLDER` checks data alone")
    from hwm.doctor import examine
    stream = sys.stderr if json else sys.stdout
    found = examine(
        chosen, out=out, video=video, nproc=nproc, quick=quick, device=device,
        say=lambda line: print(line, file=stream, flush=True),
    )  # fmt: skip
    if json:
        print(dumps(found.as_dict(), indent=1))
    return 1 if found.failed else 0


def recipes(name: str = "", /, *, sizes: bool = False, costs: bool = False, json: bool = False) -> int:
    """List the recipes by what they are trained on, or reckon what one of them needs.

    What is reckoned is counted from shapes, with nothing loaded and nothing measured.  --sizes gives parameters, how many of
    them are trained, and the memory of what does not depend on the batch: weights, gradients, moments of AdamW, moving
    average.  Activations take longer to count: --costs adds them for all, NAME for one recipe, in detail.

    Args:
        name: A recipe: memory by micro-batch, with and without checkpointing, FLOP of a step, hours on usual cards.
        sizes: With parameters and the memory of weights and optimiser; takes seconds.
        costs: Also training memory at each recipe's micro-batch and TFLOP of a step; takes minutes.
        json: Print a JSON list of objects with name, family, parameters, trainable_parameters, summary, and
            with --costs or NAME also costs.
    """
    from hwm.recipes import RECIPES
    from hwm.recipes import recipe as find
    if name:
        find(name)  # refuses another, naming the nearest
    chosen = [entry for entry in RECIPES if name in ("", entry.name)]
    if json:
        print(dumps([_as_json(entry, costs=costs or bool(name)) for entry in chosen], indent=1))
    elif name:
        from hwm.doctor.costs import recipe_costs
        print(f"{name}: {chosen[0].summary}\n\n{_details(recipe_costs(chosen[0].build()))}")
    elif not sizes and not costs:
        places = {entry.place: [other for other in chosen if other.place == entry.place] for entry in chosen}
        for place, own in sorted(places.items(), key=lambda item: ("two", "one", "sev", "tok", "rea", "twi").index(item[0][:3])):
            print(f"{place}:")
            for entry in own:
                print(fill(entry.summary, 110, initial_indent=f"  {entry.name:<27}", subsequent_indent=" " * 29))
        print("\nStart with `hwm train st-demo`.  hwm recipes NAME reckons what one needs; --sizes gives the sizes of all.")
    else:
        print(f"{'':<27}{'parameters':>13}{'trained':>12}{'state':>12}" + f"{'training':>12}{'a step':>15}" * costs)
        for entry in chosen:
            print(_line(entry, costs=costs), flush=True)
        print("\nstate: weights, gradients, moments, moving average; hwm recipes NAME reckons one in detail")
    return 0


def _count(entry: Recipe, *, costs: bool) -> Any:
    """RecipeCosts, or only StateCosts; None for a model without the libraries that it is made of."""
    from hwm.doctor.costs import recipe_costs, state_costs
    config = entry.build()
    try:
        return recipe_costs(config, both=False) if costs else state_costs(config)
    except ValueError:
        if config.model.needs:
            return None
        raise


def _line(entry: Recipe, *, costs: bool) -> str:
    counted = _count(entry, costs=costs)
    if counted is None:
        return f"{entry.name:<27}  needs the extra wan: pip install 'humanoid-world-models[wan]'"
    state = counted.state if costs else counted
    line = f"{entry.name:<27}{state.parameters / 1e6:>11.2f} M{state.trainable_parameters / 1e6:>10.2f} M"
    line += f"{_short(state.total, 'B'):>12}"
    if costs:
        memory = counted.memory(counted.config.train.batch_size)
        line += f"{_short(memory, 'B'):>12}{_short(counted.step_flop, 'FLOP'):>15}"
    return f"{line}  {entry.summary}"


def _as_json(entry: Recipe, *, costs: bool) -> dict[str, Any]:
    counted = _count(entry, costs=costs)
    state = counted.state if counted and costs else counted
    row: dict[str, Any] = {
        "name": entry.name,
        "family": entry.build().model.family,
        "parameters": state and state.parameters,
        "trainable_parameters": state and state.trainable_parameters,
        "summary": entry.summary if counted else f"{entry.summary}  Needs the extra wan.",
    }
    if costs:
        row["costs"] = counted and counted.as_dict()
    return row


def _details(costs: RecipeCosts) -> str:
    """The arithmetic of a recipe, a line each."""
    from hwm.doctor.costs import CARDS, GB, MICRO_BATCHES, PEAKS, UTILISATION, WORKSPACE
    state, train = costs.state, costs.config.train
    steps = {"kept": costs.plain} | ({"recomputed": costs.checkpointed} if costs.checkpointed else {})
    each = list(steps.values())

    def row(name: str, *values: str) -> str:
        return f"{name:<42}" + "".join(f"{value:>14}" for value in values)

    adapter = " (adapter, state encoder)" if state.trainable_parameters < state.parameters else ""
    lines = [
        f"Reckoned from shapes, not measured.  GB are 10^9 bytes; {WORKSPACE - 1:.0%} for workspace and fragmentation",
        "are added to training memory.",
        "",
        row("parameters", f"{state.parameters / 1e6:.2f} M"),
        row("  of them trained", f"{state.trainable_parameters / 1e6:.2f} M"),
        row("frozen weights and buffers", _short(state.frozen_weights, "B")),
        row(f"trained weights{adapter}", _short(state.trained_weights, "B")),
        row("their gradients", _short(state.gradients, "B")),
        row("moments of AdamW", _short(state.moments, "B")),
        row("moving average", _short(state.average, "B")),
        "",
        row("activations", *steps),
        row("of a clip", *(_short(step.clip_bytes, "B") for step in each)),
        row("whatever the micro-batch", *(_short(step.fixed_bytes, "B") for step in each)),
        row("arithmetic of a clip", *(_short(step.clip_flop, "FLOP") for step in each)),
    ]
    for clips in MICRO_BATCHES:
        lines.append(row(f"training memory, micro-batch {clips}", *(_short(costs.memory(clips, step), "B") for step in each)))
    for card in CARDS:
        lines.append(row(f"largest micro-batch in {card} GB", *(str(costs.largest(card * GB, step) or "none") for step in each)))
    kept = "recomputed" if costs.step is costs.checkpointed else "kept"
    total, memory = train.steps * costs.step_flop, costs.memory(train.batch_size)
    lines += [
        "",
        f"The recipe: {train.steps} steps of {train.batch_size} x {train.accumulate} clips, activations {kept}: training memory "
        f"{_short(memory, 'B')}, {_short(costs.step_flop, 'FLOP')} a step, {total:.3g} FLOP in all",
    ]
    if not costs.in_bfloat16:
        return "\n".join([*lines, "No hours on cards: it computes in float32, and their peaks are of bfloat16."])
    for name, peak in PEAKS.items():
        lines.append(row(f"on one {name}", f"{costs.hours(peak):.1f} h") + f"  at {UTILISATION:.0%} of {peak / 1e12:.0f} TFLOP/s")
    return "\n".join(lines)


def _short(value: float, unit: str) -> str:
    """Three digits and a prefix of ten."""
    prefixes = ["", "k", "M", "G", "T", "P", "E"]
    while value >= 999.5 and len(prefixes) > 1:
        value, prefixes = value / 1000, prefixes[1:]
    digits = 0 if value >= 99.95 or not prefixes[0] else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {prefixes[0]}{unit}"
