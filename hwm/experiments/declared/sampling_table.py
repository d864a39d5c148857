"""Samples, steps and guidance as Table 2 of the Revontuli report, their curves, and all families at frame 76.

All rows are scored on the same clips of unseen rooms with the same seeds.  The published figures stand beside ours and are
never mixed with them: they were measured on other data at another size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hwm.evaluate.intervals import Interval
from hwm.evaluate.protocols import COPY_FRAME, ONE_SAMPLE, mean_of
from hwm.evaluate.scores import LAST, ORIGINAL, Scores, Table
from hwm.experiments.compare import Column, Compare
from hwm.experiments.experiment import Experiment, Found, Section, Train, config_of
from hwm.experiments.published import LEADERBOARD, SAMPLING, leaderboard
from hwm.experiments.sampling_grid import STEPS, Grid, Options, beyond, given, name_of, twins

BLOCKS = {1: "trained without condition dropout", 2: "trained with condition dropout", 3: "the same, more solver steps"}
PRINTED = {"psnr": "val_psnr", "ssim": "val_ssim", "LPIPS": "val_lpips", "FID": "val_fid"}
"""What the published rows say of a metric, on their validation set."""
CLIPS_SHOWN = (
    "The same clips in every column: of each equal part of the scored ones the one whose frame 76 differs most from frame 16, "
    "whatever the models made of it."
)


def declare(plan: Options) -> Experiment:
    """The runs, given or trained, and all that the table and its curves ask of them."""
    plan.check()
    runs: Mapping[str, Train | Path] = given(plan.runs) if plan.runs else twins(plan)
    configs = {label: config_of(run) for label, run in runs.items()}
    grid = Grid(configs, plan, {label for label, run in runs.items() if getattr(run, "validation", beyond(configs[label]))})
    return Experiment(
        "Sampling track: steps, samples and guidance", "sampling", runs, grid.scorings(), lambda found: sections(found, grid),
        lead=f"{plan.source}: 17 frames seen, 77 states given, frame 76 predicted and scored on clips of unseen rooms, the same "
        f"for every row, seed {plan.seed}.",
        verdict=lambda found: verdict(
            {row.published: found[row.key].of(mean_of(row.samples), "psnr").mean for row in grid.rows},
            plan.samples, plan.many_steps, found[grid.study].facts.get("saturation"), grid.asked[grid.study][0],
        ),
        timed=True, extra={"rows": [{"name": grid.row_name(row), **asdict(row)} for row in grid.rows],
               "published": [vars(row) for row in (*SAMPLING, *LEADERBOARD)]},
    )  # fmt: skip


def verdict(rows: Mapping[int, float], samples: int, steps: int, fit: dict[str, Any] | None, run: str) -> list[str]:
    """What our rows say, each beside what the published ones say.  rows: PSNR by the number of the published row."""
    sentences = []
    for first, second, what in (
        (2, 0, f"Averaging {samples} samples instead of one changes PSNR by"),
        (6, 5, f"{steps} steps instead of 20 at guidance 1.5 by"),
        (5, 4, "Guidance 1.5 instead of 2.0 by"),
        (7, 6, f"No guidance instead of 1.5 at {steps} steps by"),
        (3, 2, "Learning from the validation data too by"),
    ):
        if first in rows and second in rows:
            gain, printed = rows[first] - rows[second], SAMPLING[first].val_psnr - SAMPLING[second].val_psnr
            sentences.append(f"{what} {gain:+.2f} dB (published rows: {printed:+.2f}).")
    if fit is not None and not fit["clipped"]:
        sentences.append(f"By the fit of 1 / N averaging ends at a pooled PSNR of {fit['psnr_limit']:.2f} dB ({run}).")
    return sentences


def sections(found: Found, grid: Grid) -> list[Section]:
    """Table 2, its pictures, curves and calibration, the families, the runs."""
    from hwm.evaluate.page.plots import against, calibration_plot, draw, ensemble_plot
    from hwm.evaluate.table import scores_table

    study, samples = found[grid.study], grid.plan.samples
    metrics = ["psnr", "pooled psnr", "ssim", "gmsd", "sharpness", *study.settings["perceptual"]]
    there = {row.block: grid.asked[row.key][0] for row in grid.rows}
    about = [f"Block {block}: {BLOCKS[block]} ({label})." for block, label in there.items()]
    about += [f"Block {n} is left out: no run of a guided model {BLOCKS[n]} was given." for n in (1, 2) if n not in there]
    if same := [key for key in {row.key for row in grid.rows} if seen_before(found, grid, key)]:
        about.append(f"{', '.join(map(grid.name, same))}: scored on what it learned from, so not comparable, as published.")
    about.append("Rows that differ only in their number share samples. Seconds are of one clip on one thread, beside other work.")
    calibration, curves = study.facts.get("calibration"), curves_of(grid)
    in_table = list(dict.fromkeys(row.key for row in grid.rows))
    rest = [key for key in grid.own.values() if key not in in_table]
    mean, by_run = mean_of(samples), {label: [key] for label, key in grid.own.items()}
    psnr = [Column("PSNR of 1, dB", row=ONE_SAMPLE), Column(f"of {samples}, dB", row=mean)]
    gains = [Column("over copying, dB", row=mean, over="copy")]
    gains.append(Column("over permuted states, dB", row="control", over="permuted"))
    alike = [Column(f"{title} of {n}", title.lower(), row=mean_of(n), interval=False)
             for title in ("SSIM", "GMSD", "sharpness") for n in (1, samples)]  # fmt: skip
    costs = [Column("parameters, M", "parameters", scale=1e6, digits=2), Column("s for 1 sample", lambda s: seconds(s, 1)),
             Column(f"s for {samples}", lambda s: seconds(s, samples)),
             gains[1], Column("over zeroed states, dB", row="control", over="zeroed")]  # fmt: skip
    by_gmsd = "GMSD (lower is more alike)"
    families = Compare("families", by_run, [*psnr, *gains, *alike])
    found_sections = [
        Section(
            "Tables 2 and 1 of the Revontuli report", " ".join(about),
            {"PSNR of every row, ours and published": lambda f: bars(f, grid)},
            [lambda f: ours(f, grid, metrics), lambda f: published(), lambda f: leaderboard("sampling")],
        ),
        Section("Pictures of the table's rows", CLIPS_SHOWN, pictures=strip(in_table, grid)),
        Section(
            "Samples averaged",
            f"{grid.name(grid.study)}: the mean of N samples, its fit MSE = floor + variance / N and the limit of that; what "
            "else can be made of the samples (blur and tolerance chosen on clips that are not scored).",
            {"PSNR against samples averaged and against sharpness": lambda f: ensemble_plot(study) or b"",
             "PSNR against GMSD": lambda f: draw([against(study, "averaging samples", "gmsd", by_gmsd)], height=4.2)},
            [lambda f: scores_table(study, "what to make of the samples", metrics, ORIGINAL, LAST)],
        ),
        Section(
            "What steps and guidance trade",
            "PSNR rewards means of what may happen; GMSD sees whether edges lie where they should. "
            "All points share clips and seeds, so that they differ by less than their bands, which are of the clips.",
            {f"PSNR against {x}": compare.curves(x, *compare.columns[:2]) for x, compare in curves.items()},
            list(curves.values()),
        ) if curves else None,
        Section(
            "Calibration",
            f"{grid.name(grid.study)}, {study.headline}: whether the samples differ where their mean is wrong. Rank correlation "
            f"of spread and error over pixels {calibration['pixel_correlation']:.2f}.",
            {"Reliability, sparsification and ranks": lambda f: calibration_plot(calibration)},
        ) if calibration else None,
        Section(
            "All families at frame 76",
            "Every run by the same protocol: a model of sampling clips predicts frame 76 at once, the others roll out to it. Own "
            f"sampling, temperature 1 where that is greedy; flows in {STEPS} steps, without guidance. Over other states: the "
            "mean of a few samples with the states of another recording's clip, and with neutral ones.",
            {"PSNR over copying and over permuted states": families.dots(*gains)},
            [families, Compare("cost, and what the states are worth", by_run, costs)],
            strip(rest, grid) if len(grid.own) > 1 and rest else lambda f: (),
        ),
        Section("Runs and reports", tables=[lambda f: trained(f, grid)], links={grid.name(key): key for key in grid.asked}),
    ]  # fmt: skip
    return [section for section in found_sections if section is not None]


def seen_before(found: Found, grid: Grid, key: str) -> bool:
    """Whether a scoring is on data that its run learned from: only the sets of 1X hold no others than train and validation."""
    from hwm.prepare import recorded

    sets = recorded(found.raw, training=False)
    return grid.asked[key][0] in grid.beyond and sets.test == sets.val


def seconds(scores: Scores, samples: int) -> float:
    """Wall time of a picture from so many samples: measured for one and for the largest ensemble, in proportion between."""
    assert scores.cost is not None
    figures, largest = scores.cost.figures, scores.settings["members"][-1]
    return figures["seconds, 1 sample"] if samples == 1 else figures[f"seconds, {largest} samples"] * samples / largest


def curves_of(grid: Grid) -> dict[str, Compare]:
    """What is plotted against steps and guidance, by the words for these; two columns of PSNR come first."""

    def compare(head: str, rows: Mapping[str, Sequence[str]], samples: int, *groups: str) -> Compare:
        row, label = mean_of(samples), grid.asked[next(key for keys in rows.values() for key in keys if key)][0]
        columns = [Column("PSNR, dB", row=row), Column("one sample: PSNR, dB", row=ONE_SAMPLE)]
        columns += [Column(title, title.lower(), row=row, interval=False) for title in ("GMSD", "sharpness")]
        return Compare(f"{head}, {label}, {row}", rows, columns, groups or ("",), head=head)

    curves, plan = {}, grid.plan
    if grid.steps:
        curves["steps"] = compare("steps", {str(n): [key] for n, key in grid.steps.items()}, plan.samples // 2)
    if grid.guidance:
        by_scale = {f"{scale:g}": keys for scale, keys in grid.guidance.items()}
        many = compare("guidance", by_scale, plan.samples, f"{STEPS} steps", f"{plan.many_steps} steps")
        curves["scale of guidance by the states (1: none)"] = many
    return curves


def ours(found: Found, grid: Grid, metrics: Sequence[str]) -> Table:
    """Our Table 2, then copying the last frame."""
    from hwm.evaluate.metrics import shown

    def line(name: str, block: object, scores: Scores, row: str, took: str, printed: int | None = None) -> list[str]:
        cells = [name, str(block)]
        for metric in metrics:
            value = scores.of(row, metric)
            cells.append(value.text(2) if metric == "psnr" else f"{value.mean:.{shown(metric).digits}f}")
            if field := PRINTED.get(metric):
                digits = 2 if metric in ("psnr", "FID") else 3
                cells.append("" if printed is None else f"{getattr(SAMPLING[printed], field):.{digits}f}")
        return [*cells, took]

    rows = []
    for row in grid.rows:
        scores = found[row.key]
        took = f"{seconds(scores, row.samples):.2f}"
        rows.append(line(grid.row_name(row), row.block, scores, mean_of(row.samples), took, row.published))
    titles = [title for m in metrics for title in (shown(m).head, *[f"published {shown(m).head}"] * (m in PRINTED))]
    return Table("ours", ["row", "block", *titles, "s a clip"], [*rows, line(COPY_FRAME, "", found[grid.study], COPY_FRAME, "")])


def published() -> Table:
    """The rows of the report's Table 2."""
    head = ["row", "block", "val. PSNR, dB", "test PSNR, dB", "val. SSIM", "val. LPIPS", "val. FID", "remark"]
    rows = [
        [name_of(r.steps, r.samples, r.guidance), str(r.block), f"{r.val_psnr:.2f}", f"{r.test_psnr:.2f}", f"{r.val_ssim:.3f}",
         f"{r.val_lpips:.3f}", f"{r.val_fid:.2f}", r.remark]
        for r in SAMPLING
    ]  # fmt: skip
    return Table("Published: 1X validation and test clips at 512x512, Wan2.2 TI2V-5B; not comparable with ours", head, rows)


def trained(found: Found, grid: Grid) -> Table:
    """What the runs are."""
    rows = []
    for label in grid.configs:
        facts, rate = found.facts(label), getattr(config_of(found.run(label)).model, "condition_dropout", None)
        numbers = [str(facts["training_steps"]), str(facts["training_clips"]), "–" if rate is None else f"{rate:g}"]
        rows.append([label, facts["recipe"], *numbers, Path(facts["tokenizer"]).name])
    return Table("runs", ["run", "recipe", "training steps", "clips seen in training", "condition dropout", "tokenizer"], rows)


def bars(found: Found, grid: Grid) -> bytes:
    """PSNR of the table's rows as the slides draw it: ours left, the published ones right, each on an axis of its own."""
    from hwm.evaluate.page.plots import Panel, draw

    def panel(title: str, words: str, rows: list[tuple[str, Interval]], levels: dict[str, float]) -> Panel:
        ends = [end for _, v in rows for end in (v.mean, v.low, v.high) if end is not None] + list(levels.values())
        room = 0.15 * (max(ends) - min(ends)) + 0.2
        limits = max(0, min(ends) - room), max(ends) + room
        return Panel(title, f"PSNR, dB (axis cut){words}", rows=rows, bars=True, levels=levels, limits=limits)

    own = [(grid.row_name(row), found[row.key].of(mean_of(row.samples), "psnr")) for row in grid.rows]
    copied = found[grid.study].of(COPY_FRAME, "psnr").mean
    words = [name_of(r.steps, r.samples, r.guidance) + " *" * r.remark.startswith("1st") for r in SAMPLING]
    printed = [(word, Interval(r.val_psnr)) for word, r in zip(words, SAMPLING)]
    panels = [panel("ours, unseen rooms", "", own, {COPY_FRAME: copied})]
    panels.append(panel("published, validation", "; * see the remark", printed, {}))
    return draw(panels, height=0.34 * max(len(own) + 1, len(printed)) + 1.3)


def strip(keys: Sequence[str], grid: Grid) -> Callable[[Found], list[dict[str, tuple[bytes, str]]]]:
    """A line of pictures a clip: seen, truth, and of every scoring one sample (of the first of each run) and the mean."""

    def pictures(found: Found) -> list[dict[str, tuple[bytes, str]]]:
        lines: list[dict[str, tuple[bytes, str]]] = [{} for _ in found.record(keys[0])["examples"]]
        for key in keys:
            label, headline = grid.asked[key][0], found[key].headline
            columns = {"frame 16, seen": "seen", "frame 76, truth": "truth", f"{label}, {ONE_SAMPLE}": ONE_SAMPLE}
            for title, name in (columns | {f"{grid.name(key)}, {headline}": headline}).items():
                for number, line in enumerate(lines):
                    line.setdefault(title, found.picture(key, number, name))
        return lines

    return pictures
