"""Tables of an evaluation as plain text, and what the numbers say in sentences: for the terminal and for the page."""

from collections.abc import Callable, Iterable
from math import isnan
from typing import Any

from hwm.evaluate.intervals import Interval
from hwm.evaluate.metrics import CHANGE, MARGIN, METRICS, READ, STATE_ERROR, TOLD_APART, Metric, shown
from hwm.evaluate.protocols import PROTOCOLS, mean_of
from hwm.evaluate.scores import ALL, ALL_GRIDS, LAST, ORIGINAL, RECONSTRUCTION, TOKENS, Cost, Difference, Score, Scores, Table

TRUTHS = {RECONSTRUCTION: "the tokenizer's reconstruction of the truth", ORIGINAL: "the recorded video"}
TRUTHS |= {TOKENS: "the true tokens"}
"""What scores are held against, in the sentence of the verdict."""
OF_PICTURES = tuple(name for metric in METRICS + READ for name in (metric.name, metric.pooled) if name)


def judged(scores: Scores) -> Metric:
    """The score that the verdict is in: the first one of pictures, or of tokens where these alone were scored."""
    return shown("cross-entropy") if scores.settings["reference"] == TOKENS else METRICS[0]


def ahead(scores: Scores) -> str:
    """How far the last scored frame lies after the last seen one: "17 frames (0.57 s)", by the rate of the data."""
    frames, hz = scores.settings["future_frames"], scores.settings.get("hz")
    return f"{frames} frames" + (f" ({frames / hz:.2f} s)" if hz else "")


def places(scores: Scores, span: str) -> str:
    """A span in words: "17 frames (0.57 s) ahead", "frames 1–17"."""
    some = scores.settings.get("ahead")
    mean = f"frames {', '.join(map(str, some))}" if some else f"frames 1–{ahead(scores).partition(' ')[0]}"
    return {LAST: f"{ahead(scores)} ahead", ALL: mean}.get(span, span)


def short(reference: str) -> str:
    """What scores are held against, in a title."""
    words = {RECONSTRUCTION: "the reconstruction", ORIGINAL: "the recorded video", TOKENS: "the true tokens"}
    return words.get(reference, reference)


def scores_table(scores: Scores, title: str, metrics: Iterable[str], reference: str, span: str) -> Table:
    """Every row with a score of these metrics, best first by the first of them; a note stands where there is no number."""
    columns = list(dict.fromkeys(metrics))
    cells = {(s.row, s.metric): s for s in scores.select(reference=reference, span=span) if s.metric in columns}
    rows = list(dict.fromkeys(row for row, _ in cells))
    first = columns[0] if columns else ""
    worst: dict[str, Callable[[float], float]] = {"higher": lambda x: -x, "lower": lambda x: x, "one": lambda x: abs(x - 1)}
    rows.sort(key=lambda r: worst[shown(first).better](cells[r, first].value.mean) if (r, first) in cells else float("inf"))

    def cell(row: str, metric: str) -> str:
        score = cells.get((row, metric))
        text = "–" if score is None else score.value.text(shown(metric).digits)
        return score.note if score is not None and text == "–" and score.note else text

    head = ["row", *(shown(metric).head for metric in columns)]
    return Table(title, head, [[row, *(cell(row, m) for m in columns)] for row in rows], scores.headline)


def pictures_table(scores: Scores, reference: str, span: str) -> Table:
    """All scores of pictures against one reference over one span."""
    found = {score.metric for score in scores.select(reference=reference, span=span)}
    title = f"against {short(reference)}, {places(scores, span)}"
    return scores_table(scores, title, (m for m in OF_PICTURES if m in found), reference, span)


def groups_table(scores: Scores, reference: str, span: str) -> Table | None:
    """The error in reading each group of the robot's states; None where none were read."""
    wanted = [name for name in scores.settings.get("readers", ()) if name.startswith(f"{STATE_ERROR}, ")]
    if not scores.select(reference=reference, span=span, metric=wanted[0] if wanted else ""):
        return None
    found = scores_table(scores, f"{STATE_ERROR} against {short(reference)}, {places(scores, span)}", wanted, reference, span)
    return Table(found.title, [name.removeprefix(f"{STATE_ERROR}, ") for name in found.head], found.rows, found.strong)


def changes_table(scores: Scores) -> Table | None:
    """By how much other states change the prediction; None where no pictures were scored."""
    place = {"reference": scores.settings["reference"], "span": scores.settings["span"]}
    if not scores.select(metric=CHANGE, **place):
        return None
    return scores_table(scores, f"what other states change, {places(scores, place['span'])}", [CHANGE], **place)


def left_out(scores: Scores, reference: str, span: str) -> list[str]:
    """What a table of pictures leaves out, a sentence for each score that is not of all clips."""
    found, metrics = scores.select(reference=reference, span=span), [metric.name for metric in METRICS + READ]
    return list(dict.fromkeys(f"{shown(s.metric).title}: {s.note}." for s in found if s.note and s.metric in metrics))


def networks_tables(scores: Scores) -> list[Table]:
    """The scores of feature networks, of every reference and span of which there are some."""
    wanted = list(scores.settings["perceptual"])
    found = dict.fromkeys((s.reference, s.span) for s in scores.scores if s.metric in wanted and s.span in (LAST, ALL))
    return [scores_table(scores, f"distance to {short(r)}, {places(scores, span)}", wanted, r, span) for r, span in found]


def doubts_table(scores: Scores) -> Table | None:
    """The scores of ways of doubting; None where none were scored."""
    rows, s = scores.names("doubt"), scores.settings
    found = [score for score in scores.scores if score.row in rows]
    if not found:
        return None
    title = f"doubt and error against {short(s['reference'])}, {places(scores, found[0].span)}"
    return scores_table(scores, title, [score.metric for score in found], found[0].reference, found[0].span)


def tokens_tables(scores: Scores) -> list[Table]:
    """The scores of token distributions: those that several rows have in one table, those of a single row in another."""
    found: dict[str, list[Score]] = {}
    for score in scores.select(reference=TOKENS, span=ALL_GRIDS):
        found.setdefault(score.metric, []).append(score)
    shared = [metric for metric, own in found.items() if len(own) > 1]
    single = [own[0] for own in found.values() if len(own) == 1]
    tables = []
    if shared:
        table = scores_table(scores, f"tokens, {ALL_GRIDS}", shared, TOKENS, ALL_GRIDS)
        tables.append(Table(table.title, table.head, table.rows, compared_tokens(scores)))
    if single:
        values = [s.note if s.note and isnan(s.value.mean) else s.value.text(shown(s.metric).digits) for s in single]
        rows = [[s.metric, value, shown(s.metric).about] for s, value in zip(single, values)]
        head = ["score", "value", "what becomes of tokens outside of the ids kept"]
        tables.append(Table(f"{single[0].row}, {ALL_GRIDS}", head, rows))
    return tables


def compared_tokens(scores: Scores) -> str:
    """The row of tokens that is compared with others, empty without one."""
    return next((d.first for d in scores.differences if d.reference == TOKENS), "")


def differences_table(scores: Scores, differences: Iterable[Difference], title: str) -> Table:
    """Paired differences over clips."""
    rows = []
    for d in differences:
        names = f"{d.second}" if d.first == scores.headline else f"{d.first} minus {d.second}"
        look, share = shown(d.metric), "–" if d.share_higher is None else f"{d.share_higher:.0%}"
        rows.append([names, d.value.text(look.digits, sign=True), share, look.head, short(d.reference), places(scores, d.span)])
    return Table(title, ["difference", "mean", "clips above zero", "score", "against", "over"], rows)


def verdict_differences(scores: Scores) -> list[Difference]:
    """Those in its own score over the span and against the reference of the verdict."""
    place = (judged(scores).name, scores.settings["reference"], scores.settings["span"])
    return [d for d in scores.differences if (d.metric, d.reference, d.span) == place]


def cost_table(cost: Cost) -> Table:
    """What a prediction costs, in words."""
    peak = "–" if cost.peak_bytes is None else f"{cost.peak_bytes / 2**20:.1f} MiB"
    rows = [
        ["parameters", f"{cost.parameters:,}"],
        ["weights", f"{cost.weight_bytes / 2**20:.1f} MiB"],
        *([name, f"{value:.{3 if value < 10 else 2}f}"] for name, value in cost.figures.items()),
        ["peak memory", f"{peak} ({cost.peak_meaning})"],
        ["measured on", f"{cost.device}, {cost.how}"],
    ]
    return Table("cost of a prediction", ["", ""], rows)


def text_table(scores: Scores) -> str:
    """The scores as text: pictures against every reference, tokens, networks, paired differences, cost, verdict."""
    span = scores.settings["span"]
    references = dict.fromkeys(s.reference for s in scores.scores if s.reference != TOKENS)
    tables = [pictures_table(scores, reference, span) for reference in references]
    tables += filter(None, (groups_table(scores, reference, span) for reference in references))
    remarks = dict.fromkeys(line for reference in references for line in left_out(scores, reference, span))
    tables += tokens_tables(scores) + networks_tables(scores)
    tables += list(filter(None, [doubts_table(scores), changes_table(scores)]))
    about = f"{scores.headline} minus ({places(scores, span)})"
    paired = differences_table(scores, verdict_differences(scores), about)
    tables.append(Table(about, ["", judged(scores).head, "clips higher"], [row[:3] for row in paired.rows]))
    tables += [] if scores.cost is None else [cost_table(scores.cost)]
    return "\n\n".join(table.text() for table in tables) + "\n\n" + "\n".join([*verdict(scores), *remarks])


def verdict(scores: Scores) -> list[str]:
    """What the numbers say about the headline row, in plain sentences: outcome, use of the states, evidence, ensemble."""
    s, protocol, metric = scores.settings, PROTOCOLS[scores.protocol], judged(scores)
    segments = "" if s["num_segments"] is None else f" from {s['num_segments']} segments"
    clips = f"over {s['num_clips']} clips{segments}"
    if s["reference"] == TOKENS:
        return [*_of_tokens(scores, metric, clips), *_doubts(s)]
    control, permuted = s["control"], s["controls"]["permuted"]
    what = _the(scores.headline) if protocol.ensembles else "the prediction"
    start = f"{ahead(scores)} ahead {what}" if s["span"] == LAST else f"Over {ahead(scores)} {what}"
    own = scores.of(scores.headline, metric.name)
    pooled = scores.of(scores.headline, metric.pooled)
    sentences = [
        _over_copying(start, scores.difference(scores.headline, s["copy"]).value),
        _use_of_states("it" if control == scores.headline else _the(control), scores.difference(control, permuted).value),
        f"It reaches {own.mean:.2f} dB (pooled {pooled.mean:.2f}) against {TRUTHS[s['reference']]}, "
        f"{clips}.",
    ]
    if single := one_sample(scores):
        gain = scores.difference(scores.headline, single).value
        sharp = scores.of(scores.headline, "sharpness").mean
        sentences.append(f"Averaging gains {_size(gain)} over {single}, at {sharp:.0%} of the truth's sharpness.")
    if found := scores.select(row=scores.headline, metric=TOLD_APART, reference=s["reference"], span=s["span"]):
        share, gap = found[0].value, scores.of(scores.headline, MARGIN)
        sentences.append(
            f"Of {s['branches']} futures of one start it resembles its own most in {_percent(share)} of clips, by chance in "
            f"{100 / s['branches']:.1f} %, with a margin of {gap.text(2, sign=True)} dB over the nearest other one."
        )
    return sentences + _doubts(s)


def _percent(share: Interval) -> str:
    """A share with its interval, in percent."""
    return Interval(*(None if x is None else 100 * x for x in (share.mean, share.low, share.high))).text(0) + " %"  # type: ignore[arg-type]


def _of_tokens(scores: Scores, metric: Metric, clips: str) -> list[str]:
    """The verdict where tokens alone were scored: outcome, use of the states, evidence."""
    s, found = scores.settings, {d.second: d for d in scores.differences}
    start = f"Over {ahead(scores)} the likeliest token" if s["future_grids"] > 1 else f"{ahead(scores)} ahead the likeliest token"
    sentences = [_over_copying(start, found[s["copy"]].value, shown("accuracy"), "the last grid")] if s["copy"] in found else []
    if (permuted := s["controls"]["permuted"]) in found:
        sentences.append(_use_of_states("it", found[permuted].value.negative(), metric))
    own = scores.of(scores.headline, metric.name)
    forced = ", teacher-forced" if PROTOCOLS[scores.protocol].forced else ""
    uniform = f"{s['uniform_cross_entropy']:.{metric.digits}f}"
    return [*sentences, f"A token costs {own.mean:.{metric.digits}f} nats{forced}, a uniform guess {uniform}, {clips}."]


def _doubts(settings: dict[str, Any]) -> list[str]:
    """Why there are no intervals, and what else is missing."""
    few = settings.get("no_intervals")
    return ([f"{few[:1].upper()}{few[1:]}."] if few else []) + settings.get("missing", [])


def one_sample(scores: Scores) -> str:
    """The row of a single sample beside a headline that is the mean of several; empty without."""
    single = mean_of(1)
    return single if scores.headline != single and single in scores.names("model") else ""


def _the(row: str) -> str:
    return row if row == mean_of(1) else f"the {row}"


def _over_copying(what: str, gain: Interval, metric: Metric = METRICS[0], last: str = "the last frame") -> str:
    if gain.low is None:
        return f"{what} differs by {_size(gain, metric)} from repeating {last}."
    if not gain.excludes_zero():
        return f"{what} is not shown to differ from repeating {last}: {_size(gain, metric)}."
    return f"{what} {'beats' if gain.mean > 0 else 'loses to'} repeating {last} by {_size(gain, metric)}."


def _use_of_states(what: str, loss: Interval, metric: Metric = METRICS[0]) -> str:
    """loss: by how much other states are worse, whichever way the metric goes."""
    start, ways = f"Given another clip's states {what}", ("lower", "higher") if metric.better == "higher" else ("worse", "better")
    if loss.excludes_zero():
        says = "it uses the states" if loss.mean > 0 else "the states mislead it"
        return f"{start} scores {ways[loss.mean < 0]} by {_size(loss, metric)}: {says}."
    change = loss.negative() if metric.better == "higher" else loss
    return f"{start} changes by {_size(change, metric)}: use of the states is not shown."


def _size(value: Interval, metric: Metric = METRICS[0]) -> str:
    """The size of a difference; one that excludes zero is given without its sign: "1.23 dB (95 % interval 0.90 to 1.60)"."""
    digits, unit = metric.digits, metric.unit or f"of {metric.title}"
    if value.low is None or value.high is None:
        return f"{value.mean:+.{digits}f} {unit}"
    if not value.excludes_zero():
        return f"{value.mean:+.{digits}f} {unit} (95 % interval {value.low:+.{digits}f} to {value.high:+.{digits}f})"
    low, high = sorted((abs(value.low), abs(value.high)))
    return f"{abs(value.mean):.{digits}f} {unit} (95 % interval {low:.{digits}f} to {high:.{digits}f})"
