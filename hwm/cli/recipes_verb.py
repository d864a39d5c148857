"""The verb that lists the recipes and reckons what they need."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwm.recipe_costs import RecipeCosts
    from hwm.recipes import Recipe


def recipes(name: str = "", /, *, costs: bool = False, json_output: bool = False) -> int:
    """List the recipes with their sizes, or reckon what one of them needs.

    All of it is counted from shapes, with nothing loaded and nothing measured.  The list gives parameters, how many of
    them are trained, and the memory of what does not depend on the batch: weights, gradients, moments of AdamW, moving
    average.  Activations take longer to count: --costs adds them for all, NAME for one recipe, in detail.

    Args:
        name: A recipe: memory by micro-batch, with and without checkpointing, FLOP of a step, hours on usual cards.
        costs: Also training memory at each recipe's micro-batch and TFLOP of a step; takes minutes.
        json_output: Print a JSON list of objects with name, family, parameters, trainable_parameters, summary, and
            with --costs or NAME also costs.
    """
    from hwm.recipes import RECIPES
    from hwm.recipes import recipe as find

    if name:
        find(name)  # refuses another, naming the nearest
    chosen = [entry for entry in RECIPES if name in ("", entry.name)]
    if json_output:
        print(json.dumps([_as_json(entry, costs=costs or bool(name)) for entry in chosen], indent=1))
    elif name:
        from hwm.recipe_costs import recipe_costs

        print(f"{name}: {chosen[0].summary}\n\n{_details(recipe_costs(chosen[0].build()))}")
    else:
        print(f"{'':<27}{'parameters':>13}{'trained':>12}{'state':>12}" + f"{'training':>12}{'a step':>15}" * costs)
        for entry in chosen:
            print(_line(entry, costs=costs), flush=True)
        print("\nstate: weights, gradients, moments, moving average; hwm recipes NAME reckons one in detail")
    return 0


def _count(entry: Recipe, *, costs: bool) -> Any:
    """RecipeCosts, or only StateCosts; None for a Wan model without the libraries that it is made of."""
    from hwm.config import WanConfig
    from hwm.recipe_costs import recipe_costs, state_costs

    config = entry.build()
    try:
        return recipe_costs(config, both=False) if costs else state_costs(config)
    except ValueError:
        if isinstance(config.model, WanConfig):
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
    from hwm.recipe_costs import CARDS, GB, MICRO_BATCHES, PEAKS, UTILISATION, WORKSPACE

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
