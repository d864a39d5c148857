"""How well a twin foresees the robot's motion, beside what needs no model, and whether its spread knows the error.

From each clip's context the twin rolls out two seconds under the recorded commands.  Errors are those of the mean of its members.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwm.data.clips import Clips
from hwm.data.motion import Motion
from hwm.data.windows import evenly
from hwm.evaluate.doubting import CLIPS_RANK, clip_correlation, resampled
from hwm.evaluate.intervals import Interval
from hwm.evaluate.metrics import shown
from hwm.evaluate.page.plots import Panel, draw
from hwm.evaluate.page.report import render
from hwm.evaluate.protocols import MOTION, Protocol, Scoring
from hwm.evaluate.scores import ORIGINAL, Means, Row, Score, Scores, Table, frame_span, no_intervals
from hwm.predict.doubt import DISAGREEMENT, Scale

SECONDS = (0.1, 0.5, 1.0, 2.0)
"""How far ahead the tables look; the verdict is on the last."""
ERROR, ANGLES, SCALE, HELD = "state error", "angle error", "error to spread", "held by learned 95%"
TWIN, SPREAD = "twin", "spread of the members"
COMMANDED, STAYS, DRIFTS = "state = command", "state = last", "state = last + difference"
ROWS = (
    Row(TWIN, "model", "the mean of the members' rollouts under the recorded commands"),
    Row(COMMANDED, "baseline", "the robot is at once where it is asked to be"),
    Row(STAYS, "baseline", "the robot stays where it was last seen"),
    Row(DRIFTS, "baseline", "it goes on with the change of the last frame seen"),
    Row(SPREAD, "doubt", "standard deviation over the members, root mean square over the state's numbers"),
)
ABOUT = " ".join(["Means over clips, 95 % intervals over recordings.", *(shown(x).about for x in (ERROR, ANGLES, SCALE, HELD))])


def span_of(seconds: float) -> str:
    """The name of a span that ends so far ahead."""
    return f"{seconds:g} s"


@torch.no_grad()
def foreseen(twin: Any, states_BFA: Tensor, commands_BFA: Tensor) -> dict[str, Tensor]:
    """What each row of `ROWS` says of the frames after the context, (B, N, A) in standard deviations, with the truth under ""."""
    C = twin.context_grids
    rows_BFA, asked_BFA = twin.normalised(states_BFA), twin.normalised(commands_BFA)
    last_B1A, truth_BNA = rows_BFA[:, C - 1 : C], rows_BFA[:, C:]
    steps_N1 = torch.arange(1, truth_BNA.shape[1] + 1, device=truth_BNA.device)[:, None]
    members_MBNA = twin.rollout(states_BFA[:, :C], commands_BFA[:, :-1])
    before_B1A = rows_BFA[:, max(C - 2, 0) : max(C - 1, 1)]
    return {
        "": truth_BNA,
        TWIN: members_MBNA.mean(0),
        COMMANDED: asked_BFA[:, C - 1 : -1],
        STAYS: last_B1A.expand_as(truth_BNA),
        DRIFTS: last_B1A + steps_N1 * (last_B1A - before_B1A),
        SPREAD: members_MBNA.std(0, correction=0),
    }


def measured(
    twin: Any, dataset: Motion, scoring: Scoring, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> Scores:
    """Score a twin and the baselines on clips that share no frame, `scoring.clips` of them.

    Raises ValueError, naming the data, where no recording is long enough.
    """
    reach, device = round(SECONDS[-1] * dataset.hz), twin.shift_scale.device
    clips = Clips(dataset, kind="motion", length=twin.context_grids + reach, overlap=False)
    chosen = evenly(scoring.clips or len(clips), len(clips))
    parts: list[dict[str, Tensor]] = []
    for first in range(0, len(chosen), scoring.batch_size):
        batch = clips.batch(chosen[first : first + scoring.batch_size]).to(device)
        assert batch.commands_BFA is not None
        part = foreseen(twin, batch.states_BFA, batch.commands_BFA)
        parts.append({name: rows.double().cpu() for name, rows in part.items()})
        progress(min(first + scoring.batch_size, len(chosen)), len(chosen))
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    segments = clips.segments()[chosen]
    settings: dict[str, Any] = {
        "protocol": MOTION.name, "reference": ORIGINAL, "span": span_of(SECONDS[-1]), "copy": STAYS, "controls": {},
        "perceptual": [], "hz": dataset.hz, "num_clips": len(chosen), "num_segments": len(np.unique(segments)),
        "members": twin.config.members,
        "seed": scoring.seed,
        "which": scoring.which, "data_fingerprint": dataset.fingerprint,
    }  # fmt: skip
    scores = Scores(MOTION.name, TWIN, settings, list(ROWS), [], [])
    settings["no_intervals"] = no_intervals(settings)
    frames = {span_of(s): max(1, round(s * dataset.hz)) - 1 for s in SECONDS}
    means, scale_A = Means(segments, scoring.seed), twin.shift_scale[1].double().cpu()
    angles = [i for i, unit in enumerate(dataset.robot.units) if unit == "rad"]
    errors = {row.name: found[row.name] - found[""] for row in ROWS if row.role != "doubt"}
    sizes = {name: error_NFA.square().mean(2).sqrt() for name, error_NFA in errors.items()}
    for name, size_NF in sizes.items():
        every = [*((frame_span(i + 1), i) for i in range(reach)), *frames.items()]
        values = means.each(size_NF[:, [i for _, i in every]])
        scores.scores += [Score(name, ERROR, ORIGINAL, span, value) for (span, _), value in zip(every, values)]
        if angles:
            off_NF = (errors[name] / scale_A)[:, :, angles].abs().mean(2)
            values = means.each(off_NF[:, list(frames.values())])
            scores.scores += [Score(name, ANGLES, ORIGINAL, span, value) for span, value in zip(frames, values)]
        if name != TWIN:
            scores.differences += [
                means.difference(TWIN, name, sizes[TWIN][:, i], size_NF[:, i], metric=ERROR, reference=ORIGINAL, span=span)
                for span, i in frames.items()
            ]
    if twin.config.members > 1:
        for span, i in frames.items():
            for metric, value in _doubts(errors[TWIN][:, i].numpy(), found[SPREAD][:, i].numpy(), means).items():
                scores.scores.append(Score(SPREAD, metric, ORIGINAL, span, value))
        doubts_NF, errors_NF = (x.square().mean(2).sqrt().numpy() for x in (found[SPREAD], errors[TWIN]))
        scores.facts["doubt"] = {DISAGREEMENT: asdict(Scale.fit(doubts_NF.ravel(), errors_NF.ravel()))}
    else:
        scores.rows.pop()
    return scores


def _doubts(errors_NA: np.ndarray, spreads_NA: np.ndarray, means: Means) -> dict[str, Interval]:
    """What the spread is worth: its rank by clips, its scale, and whether a scale learned on every other recording holds."""
    errors_N, spreads_N = (np.sqrt(np.square(x).mean(1)) for x in (errors_NA, spreads_NA))

    def ratio(times_N: np.ndarray) -> float:
        return float(np.sqrt((times_N @ errors_N**2) / max(times_N @ spreads_N**2, 1e-30)))

    found = {CLIPS_RANK: clip_correlation(spreads_N, errors_N, means)}
    found[SCALE] = resampled(ratio, len(errors_N), means).within(0, np.inf)
    assert means.groups is not None
    order = np.unique(means.groups, return_inverse=True)[1]
    learned, other = order % 2 == 0, order % 2 == 1
    if learned.any() and other.any():
        ratios_NA = np.abs(errors_NA) / np.maximum(spreads_NA, 1e-12)
        inside_N = (ratios_NA[other] <= np.quantile(ratios_NA[learned], 0.95)).mean(1)
        found[HELD] = Means(means.groups[other], means.seed).one(torch.from_numpy(inside_N)).within(0, 1)
    return found


def motion_tables(scores: Scores) -> list[Table]:
    """Errors of every row by how far ahead, in both units, and what the spread is worth."""
    spans = [span_of(s) for s in SECONDS]

    def table(title: str, lines: Sequence[tuple[str, str, str]]) -> Table:
        rows = []
        for label, row, metric in lines:
            if there := {s.span: s.value for s in scores.select(row=row, metric=metric)}:
                rows.append([label, *(there[span].text(shown(metric).digits) if span in there else "–" for span in spans)])
        return Table(title, ["", *spans], rows, TWIN)

    names = scores.names("model", "baseline")
    tables = [table(shown(metric).head, [(name, name, metric) for name in names]) for metric in (ERROR, ANGLES)]
    tables.append(table(SPREAD, [(shown(metric).title, SPREAD, metric) for metric in (CLIPS_RANK, SCALE, HELD)]))
    return [table for table in tables if table.rows]


def motion_plots(scores: Scores) -> dict[str, bytes]:
    """Errors over time, of every row."""
    frames, hz = range(1, round(SECONDS[-1] * scores.settings["hz"]) + 1), scores.settings["hz"]
    curves = {
        name: [(n / hz, scores.of(name, ERROR, span=frame_span(n))) for n in frames] for name in scores.names("model", "baseline")
    }
    top = max(value.mean for name, curve in curves.items() if name != DRIFTS for _, value in curve)
    return {"Error over time": draw([Panel("", "seconds ahead", shown(ERROR).head, curves, limits=(0, 1.15 * top))])}


def motion_verdict(scores: Scores) -> str:
    """What the numbers say, in a sentence."""
    span, digits = scores.settings["span"], shown(ERROR).digits
    own = scores.of(TWIN, ERROR).text(digits)
    best = min(scores.names("baseline"), key=lambda name: scores.of(name, ERROR).mean)
    gap = scores.difference(TWIN, best, ERROR).value
    sure = "" if gap.excludes_zero() else ", which is not more than chance"
    return (f"{span} ahead the twin errs by {own} standard deviations of a state, the best of the baselines, {best}, by "
            f"{scores.of(best, ERROR).text(digits)}: a difference of {gap.text(digits, sign=True)}{sure}.")  # fmt: skip


def motion_text(scores: Scores) -> str:
    """Tables and verdict for the terminal."""
    return "\n\n".join([*(table.text() for table in motion_tables(scores)), motion_verdict(scores)])


def motion_page(scores: Scores, protocol: Protocol, record: dict[str, Any]) -> str:
    """The page of a twin's scores, in the look of the experiments'."""
    where = f"{scores.settings['num_clips']} clips of {scores.settings['num_segments']} recordings. {ABOUT}"
    section = {"title": "Errors and spread", "about": where, "plots": motion_plots(scores), "tables": motion_tables(scores),
               "pictures": [], "links": {}}  # fmt: skip
    few = {**record, "scores": [s for s in record["scores"] if not s["span"].startswith("frame ")]}
    look: dict[str, Any] = {"title": f"hwm {protocol.title}", "lead": motion_verdict(scores), "sections": [section]}
    return render("experiments/experiment.html.j2", **look, record=few)
