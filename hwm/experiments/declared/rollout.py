"""A minute of rollout: how long runs follow the robot, beside copying and beside how far real frames wander by themselves."""

from collections.abc import Sequence

from hwm.evaluate.intervals import Interval
from hwm.evaluate.protocols import COLOUR, COPY_FRAME, EARLIER, ENTROPY, MASK_IOU, ONE_SAMPLE, STATE_ERROR, TRUE_FRAMES
from hwm.evaluate.scores import Scores, Table, frame_span
from hwm.experiments.experiment import Experiment, Found, Section
from hwm.experiments.following import HZ, Following

Curve = list[tuple[float, Interval]]
METRICS = ("psnr", "moving psnr", MASK_IOU, STATE_ERROR, COLOUR, "sharpness", ENTROPY, "TFD of pictures")
"""What is shown over time, where it is measured."""
AGAINST_COPYING = ("psnr", "moving psnr", MASK_IOU)
"""In which it is said how long a run is ahead."""
BESIDE = (COPY_FRAME, TRUE_FRAMES, EARLIER)
"""Rows that are the same for all runs."""
SHOWN = (0.3, 2, 10, 30, 60)
"""Seconds in the table, or the nearest ones that were scored."""
ABOUT = (
    "One sample, fed with its own predictions and the recorded states, against the frames as recorded. Beside it stand copying "
    "the last seen frame, what readers read off true frames, and the true frames of ten seconds before: as far do real frames "
    "wander by themselves. Bands are 95 % intervals over recordings; distances of sets of features have none."
)


def declare(plan: Following) -> Experiment:
    """One rollout of every recording a run."""
    runs = plan.wanted()
    keys = {run: f"rollout/{run}" for run in runs}

    def sections(found: Found) -> list[Section]:
        there = [metric for metric in METRICS if any(curve(found[key], ONE_SAMPLE, metric) for key in keys.values())]
        plots = {"Over time": lambda found: plot(found, keys, there)}
        tables = [lambda found, metric=metric: table(found, keys, metric) for metric in there]
        return [Section("A minute", ABOUT, plots, tables, links=keys)]

    def verdict(found: Found) -> list[str]:
        from hwm.evaluate.metrics import shown

        said = []
        for run, key in keys.items():
            ends = {metric: until(found[key], metric) for metric in AGAINST_COPYING}
            words = [f"by {shown(metric).title} for {end:.2g} s" for metric, end in ends.items() if end is not None]
            said.append(f"{run}: its mean stays ahead of copying the last frame {', '.join(words)} of {plan.longest / HZ:g} s.")
        return said

    return Experiment(
        "How long does it follow?", "rollout", runs, {key: plan.rollout(run) for run, key in keys.items()}, sections,
        lead=f"{', '.join(runs)}: {plan.source}, seed {plan.seed}, rollouts of {plan.longest / HZ:g} s from {plan.cohort} "
        "recordings of unseen rooms.",
        verdict=verdict, worlds=plan.worlds,
    )  # fmt: skip


def curve(scores: Scores, row: str, metric: str) -> Curve:
    """A row's score over the seconds ahead."""
    spans = {frame_span(place): frames / HZ for place, frames in enumerate(scores.settings["ahead"], 1)}
    found = {score.span: score.value for score in scores.select(row=row, metric=metric) if score.span in spans}
    return [(second, found[span]) for span, second in spans.items() if span in found and found[span].mean == found[span].mean]


def until(scores: Scores, metric: str) -> float | None:
    """The second up to which a sample scores higher than copying without a break; None where it is not measured."""
    pairs = list(zip(curve(scores, ONE_SAMPLE, metric), curve(scores, COPY_FRAME, metric)))
    behind = next((i for i, ((_, own), (_, copied)) in enumerate(pairs) if own.mean <= copied.mean), len(pairs))
    return None if not pairs else pairs[behind - 1][0][0] if behind else 0.0


def curves(found: Found, keys: dict[str, str], metric: str) -> dict[str, Curve]:
    """Of every run, and of what stands beside all of them."""
    first = found[next(iter(keys.values()))]
    of_runs = {run: curve(found[key], ONE_SAMPLE, metric) for run, key in keys.items()}
    return {label: own for label, own in {**of_runs, **{row: curve(first, row, metric) for row in BESIDE}}.items() if own}


def plot(found: Found, keys: dict[str, str], metrics: Sequence[str]) -> bytes:
    """Scores of all runs over time."""
    from hwm.evaluate.metrics import shown
    from hwm.evaluate.page.plots import Panel, draw

    panels = []
    for metric in metrics:
        own = curves(found, keys, metric)
        latest = max(second for points in own.values() for second, _ in points)
        ticks = [second for second in SHOWN if second <= latest]
        panels.append(Panel("", "seconds ahead", shown(metric).head, own, log=True, ticks=ticks))
    return draw(panels)


def table(found: Found, keys: dict[str, str], metric: str) -> Table:
    """The same at some seconds."""
    from hwm.evaluate.metrics import shown

    own = curves(found, keys, metric)
    seconds = [second for second, _ in next(iter(own.values()))]
    wanted = list(dict.fromkeys(min(seconds, key=lambda second: abs(second - at)) for at in SHOWN))
    rows = [[label, *(dict(points)[at].text(shown(metric).digits) if at in dict(points) else "–" for at in wanted)]
            for label, points in own.items()]  # fmt: skip
    return Table(shown(metric).head, ["", *(f"{second:.3g} s" for second in wanted)], rows)
