"""The page of the sampling experiment: Table 2, curves, pictures and families, in one file that loads nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hwm.evaluate_old.page import encoded, text
from hwm.evaluate_old.results import COPY_FRAME
from hwm.evaluate_old.sampling_plots import calibration_plot, ensemble_plot
from hwm.evaluate_old.sampling_results import ONE_SAMPLE, mean_of
from hwm.experiments import pages, sampling_cells, sampling_plots

Json = dict[str, Any]


def page(record: Json, out: Path) -> str:
    """The page as one string of HTML.  out: the experiment's folder, in which the pictures lie."""
    settings = record["settings"]
    lead = (
        f"{settings['data']}: 17 frames seen, 77 states given, frame 76 predicted and scored on {settings['num_clips']} clips "
        f"of unseen rooms, the same for every row, seed {settings['seed']}. " + " ".join(sampling_cells.verdict(record))
    )
    sections = [
        _table(record),
        _pictures(record, out, "Pictures of the table's rows", [p for p in record["pictures"] if p["in_table"]]),
        _samples(record),
        _tradeoffs(record),
        _calibration(record),
        _families(record, out),
        _runs(record),
    ]
    return pages.document("Sampling track: steps, samples and guidance", lead, [part for part in sections if part], record)


def _table(record: Json) -> str:
    blocks = {row["block"]: row["run"] for row in record["rows"]}
    words = [f"block {number}: {sampling_cells.BLOCKS[number]} ({run})" for number, run in blocks.items()]
    if record["runs"] and all(run["family"] != "wan" for run in record["runs"]):
        words = [f"block 1 only, of {blocks[1]}: its family knows no guidance by the states"]
    about = (
        f"{'; '.join(words).capitalize()}. Ours: PSNR is the mean over clips with its 95 % interval over recordings, pooled the "
        "PSNR of the mean error; rows that differ in the number of samples share their samples. Seconds are of one clip on one "
        "thread, beside other work. Published figures are of other data at another size and compare in their order at most. "
        + " ".join(sampling_cells.missing(record))
    )
    content = pages.image(sampling_plots.bars_plot(record), "PSNR of every row, ours and published")
    content += pages.html_table("ours", *sampling_cells.ours(record))
    content += pages.html_table(f"published: {sampling_cells.PUBLISHED}", *sampling_cells.published(record))
    return pages.section("Table 2 of the Revontuli report", about, content)


def _samples(record: Json) -> str:
    found = record["study"]["results"]
    about = (
        f"{record['study']['run']}, {_steps_of(record)}: the mean of N samples, its fit MSE = floor + variance / N and the limit "
        "of that; beside it what else can be made of the samples (blur and tolerance chosen on clips that are not scored)."
    )
    content = pages.image(ensemble_plot(found), "PSNR against samples averaged and against sharpness")
    content += pages.html_table("what to make of the samples", *sampling_cells.alternatives(record))
    return pages.section("Samples averaged", about, content)


def _steps_of(record: Json) -> str:
    family = next(row for row in record["families"] if row["label"] == record["study"]["run"])
    return "its own sampling" if family["steps"] is None else f"{family['steps']} steps"


def _tradeoffs(record: Json) -> str:
    settings, words = record["settings"], [
        "PSNR rewards means of what may happen; GMSD sees whether edges lie where they should. All points share clips and "
        "seeds, so that they differ by less than their bands, which are of the clips."
    ]
    if record["steps"]["points"]:
        words.append(f"Steps: {record['steps']['run']} without guidance, {ONE_SAMPLE} and {mean_of(settings['half'])}.")
    if record["guidance"]["points"]:
        words.append(f"Guidance: {record['guidance']['run']}. The orange line is {COPY_FRAME}.")
    content = pages.image(sampling_plots.tradeoff_plot(record), "PSNR against GMSD, steps and guidance")
    for title, cells in sampling_cells.curves(record)[1:]:
        content += pages.html_table(title, *cells)
    return pages.section("What steps, guidance and averaging trade", " ".join(words), content)


def _calibration(record: Json) -> str:
    found = record["study"]["results"]
    if found["calibration"] is None:
        return ""
    about = (
        f"{record['study']['run']}, {found['headline']}: whether the samples differ where their mean is wrong. Error over "
        f"predicted error {_ratio(found['calibration']['error_to_spread'])} (1 is calibrated, above is overconfident), rank "
        f"correlation of spread and error over pixels {found['calibration']['pixel_correlation']:.2f}."
    )
    return pages.section("Calibration", about, pages.image(calibration_plot(found), "Reliability, sparsification and ranks"))


def _ratio(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.2f}"


def _families(record: Json, out: Path) -> str:
    samples = record["settings"]["samples"]
    control = record["families"][0]["control"]
    about = (
        f"Every run by the same protocol: a model of every fourth frame predicts frame 76 at once, the others roll out to it. "
        f"Own sampling, temperature 1 where that is greedy; flows in 20 steps, without guidance. Over copying: the mean of "
        f"{samples}; over other states: the mean of {control} with the states of another recording's clip, and with neutral ones."
    )
    content = pages.image(sampling_plots.families_plot(record), "PSNR over copying and over permuted states")
    content += pages.html_table("families", *sampling_cells.families(record))
    content += pages.html_table("cost, and what the states are worth", *sampling_cells.costs(record))
    own = [p for p in record["pictures"] if not p["in_table"] or len(record["pictures"]) == 1]
    grid = _grid(own, out) if len(record["families"]) > 1 else ""
    return pages.section("All families at frame 76", about, content + grid)


def _pictures(record: Json, out: Path, heading: str, shown: list[Json]) -> str:
    about = (
        "The same clips in every column: of each equal part of the scored ones the one whose frame 76 differs most from frame "
        "16, whatever the models made of it. Means are of all samples of the scoring, as the heading says."
    )
    return pages.section(heading, about, _grid(shown, out))


def _grid(shown: list[Json], out: Path) -> str:
    """Clips below each other; seen, truth, and for every scoring one sample (of the first of each run) and the mean."""
    if not shown or not shown[0]["examples"]:
        return ""
    columns: list[tuple[str, Json, str, str | None]] = [
        ("frame 16, seen", shown[0], "seen", COPY_FRAME),
        ("frame 76, truth", shown[0], "truth", None),
    ]
    for i, place in enumerate(shown):
        if place["run"] not in {other["run"] for other in shown[:i]}:
            columns.append((f"{place['name']}, {ONE_SAMPLE}", place, "sample", ONE_SAMPLE))
        columns.append((f"{place['name']}, {mean_of(place['members'])}", place, "mean", mean_of(place["members"])))
    head = "".join(f"<th>{text(name)}</th>" for name, *_ in columns)
    body = ""
    for number in range(len(shown[0]["examples"])):
        cells = [_picture(out, place, number, kind, row) for _, place, kind, row in columns]
        body += "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    return f"<table class=strip><tr>{head}</tr>{body}</table>"


def _picture(out: Path, place: Json, number: int, kind: str, row: str | None) -> str:
    example = place["examples"][number]
    data = (out / place["folder"] / f"{example['clip']}-{kind}.jpg").read_bytes()
    note = "&nbsp;" if row is None else f"{example['psnr'][row]:.2f} dB"
    return f'<img alt="" src="data:image/jpeg;base64,{encoded(data)}"><span class=note>{note}</span>'


def _runs(record: Json) -> str:
    head = ["run", "recipe", "training steps", "clips seen in training", "condition dropout", "tokenizer"]
    rows = []
    for run in record["runs"]:
        dropout = "–" if run["condition_dropout"] is None else f"{run['condition_dropout']:g}"
        numbers = [str(run["training_steps"]), str(run["training_clips"]), dropout]
        rows.append([run["label"], run["recipe"], *numbers, Path(run["tokenizer"]).name])
    content = pages.html_table("runs", head, rows) + pages.links("Reports of the scorings", record["reports"])
    return pages.section("Runs and reports", "", content)
