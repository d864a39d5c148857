"""Tables 1 and 2 of the HWM paper: both families in their four variants, trained under one budget, scored by one protocol.

Every model sees the same number of clips of the same recordings, in the same order; the budget is clips, not time, so
that the tables repeat.  The published figures stand beside ours and are never mixed with them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hwm.evaluate_old.results import COPY_FRAME, PERMUTED, RECONSTRUCTION, ZEROED
from hwm.experiments import pages, plots
from hwm.experiments.plan import Plan
from hwm.experiments.published import TABLES
from hwm.recipes import recipe
from hwm.work.files import atomic_path

TITLES = {"masked": "Masked-HWM (Table 1)", "flow": "Flow-HWM (Table 2)"}

Row = dict[str, Any]


def hwm_tables(plan: Plan, variants: Sequence[str]) -> Path:
    """Train and score the models of both families; writes tables.json, tables.md and tables.html, returns the page."""
    names = {(family, variant): f"{family}-hwm-{variant}-{plan.size}" for family in TITLES for variant in variants}
    data = plan.encoded([recipe(name).tokenizer for name in names.values()])
    trainings = {key: plan.training(name, data) for key, name in names.items()}
    plan.train(list(trainings.values()))
    rows = []
    for (family, variant), training in trainings.items():
        test = data[recipe(names[family, variant]).tokenizer].test
        folder = plan.out / "scores" / training.out.name
        scores = _row(plan.score(training.out, test, out=folder))
        rows.append({"family": family, "variant": variant, **scores, "report": str(folder / "report.html")})
    record = {"experiment": "hwm-tables", "settings": _settings(plan, trainings), "rows": rows}
    for name, text in (
        ("tables.json", json.dumps(record, indent=1) + "\n"),
        ("tables.md", "\n\n".join(markdown(record, family) for family in TITLES) + "\n"),
        ("tables.html", page(record, plan.out)),
    ):
        with atomic_path(plan.out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print("\n" + (plan.out / "tables.md").read_text())
    return plan.out / "tables.html"


def _settings(plan: Plan, trainings: dict[Any, Any]) -> Row:
    first = next(iter(trainings.values()))
    batch = recipe(first.out.name).train.batch_size
    return {
        "size": plan.size,
        "data": str(plan.data) if plan.data else f"built-in robot, {plan.minutes:g} minutes",
        "steps": first.steps,
        "training_clips": first.steps * batch,
        "seed": plan.seed,
        "scored_clips": plan.clips,
    }


def _row(result: Row) -> Row:
    """What the tables need of one results.json."""
    span = "all frames"

    def difference(second: str) -> Row:
        for row in result["differences"]:
            if (row["second"], row["metric"], row["reference"], row["span"]) == (second, "psnr", RECONSTRUCTION, span):
                return dict(row["difference"])
        raise ValueError(f"results.json holds no difference to {second}")

    pixels = {row["name"]: row for row in result["pixels"] if row["reference"] == RECONSTRUCTION}
    perceptual = {(row["name"], row["metric"]): row["all_frames"] for row in result["perceptual"]}
    headline = result["headline"]
    sampled = next(name for name in pixels if name.startswith("model, ") and name != headline and "states" not in name)
    rows = {
        "parameters": result["cost"]["parameters"],
        "weight_bytes": result["cost"]["weight_bytes"],
        "peak_bytes": result["cost"]["peak_bytes"],
        "samples_per_second": result["cost"]["samples_per_second"],
        "psnr": pixels[headline]["psnr_mean"],
        "ssim": pixels[headline]["ssim_mean"],
        "psnr_sample": pixels[sampled]["psnr_mean"],
        "psnr_copy": pixels[COPY_FRAME]["psnr_mean"],
        "over_copy": difference(COPY_FRAME),
        "over_zeroed": difference(ZEROED),
        "over_permuted": difference(PERMUTED),
        "environment": result["environment"],
        "num_clips": result["settings"]["num_clips"],
    }
    for metric in ("TFD", "FID"):
        if (headline, metric) in perceptual:
            rows[metric.lower()] = perceptual[headline, metric]
            rows[f"{metric.lower()}_sample"] = perceptual[sampled, metric]
            rows[f"{metric.lower()}_copy"] = perceptual[COPY_FRAME, metric]
    return rows


COLUMNS = (
    ("parameters", "parameters, M"),
    ("peak_bytes", "peak memory, MB"),
    ("samples_per_second", "samples/s"),
    ("psnr", "PSNR, dB"),
    ("psnr_sample", "PSNR of a sample, dB"),
    ("over_copy", "over copying, dB"),
    ("over_zeroed", "over zeroed states, dB"),
    ("over_permuted", "over permuted states, dB"),
    ("tfd", "TFD"),
    ("tfd_sample", "TFD of a sample"),
    ("fid", "FID"),
)


def cells(record: Row, family: str) -> tuple[list[str], list[list[str]]]:
    """Head and rows of our table of one family, plain text: one variant a row, then copying the last frame."""
    rows = [row for row in record["rows"] if row["family"] == family]
    columns = [(key, title) for key, title in COLUMNS if all(row.get(key) is not None for row in rows)]
    copying = {"psnr": rows[0]["psnr_copy"], "tfd": rows[0].get("tfd_copy"), "fid": rows[0].get("fid_copy")}
    return ["variant", *(title for _, title in columns)], [
        *([row["variant"], *(_cell(key, row[key]) for key, _ in columns)] for row in rows),
        ["copy last frame", *(_cell(key, copying[key]) if copying.get(key) else "" for key, _ in columns)],
    ]


def _cell(key: str, value: Any) -> str:
    if key == "parameters":
        return f"{value / 1e6:.2f}"
    if key == "peak_bytes":
        return f"{value / 1e6:.1f}"
    if key == "samples_per_second":
        return f"{value:.2f}"
    digits, sign = (4, "") if key.startswith("tfd") else (2, "+" if key.startswith("over") else "")
    inside = "" if value["low"] is None else f" [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"
    return f"{value['mean']:{sign}.{digits}f}{inside}"


def published_cells(family: str, variants: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the paper's table."""
    head = ["variant", "parameters, B", "peak memory, GB", "samples/s", "FID", "PSNR, dB"]
    rows = []
    for variant, p in TABLES[family].items():
        if variant in variants:
            numbers = (p.peak_memory_gb, p.samples_per_second, p.fid, p.psnr_db)
            rows.append([variant, f"{p.parameters_billion:g}", *(f"{n:.2f}" for n in numbers)])
    return head, rows


def markdown(record: Row, family: str) -> str:
    """Our table and the published one of a family."""
    settings = record["settings"]
    variants = [row["variant"] for row in record["rows"] if row["family"] == family]
    ours = pages.markdown_table(*cells(record, family))
    paper = pages.markdown_table(*published_cells(family, variants))
    return (
        f"## {TITLES[family]}\n\nOurs: {settings['size']} twins, {settings['data']}, {settings['training_clips']} training "
        f"clips each, seed {settings['seed']}, scored on {record['rows'][0]['num_clips']} clips of unseen rooms\n\n{ours}\n\n"
        f"Published: 1X data at 256x256, NVIDIA A6000; not comparable with the figures above\n\n{paper}"
    )


def page(record: Row, out: Path) -> str:
    """The whole experiment as one page of HTML."""
    settings, sections = record["settings"], []
    for family, title in TITLES.items():
        rows = [row for row in record["rows"] if row["family"] == family]
        if not rows:
            continue
        variants = [row["variant"] for row in rows]
        reports = {row["variant"]: str(Path(row["report"]).relative_to(out)) for row in rows}
        sections.append(
            pages.section(
                title,
                "Ours: all eight future frames against the tokenizer's reconstruction, mean over clips of unseen rooms with "
                "95 % intervals over recordings. PSNR is of the mean of what the model predicts; the paper scores a sample. "
                "TFD is a distance in the features of the shipped tokenizer and no FID.",
                pages.image(plots.variants_plot(rows), f"{title}: PSNR over copying, and parameters")
                + pages.html_table("ours", *cells(record, family))
                + pages.html_table("published: 1X data, 256x256, NVIDIA A6000", *published_cells(family, variants))
                + pages.links("Reports with videos", reports),
            )
        )
    lead = (
        f"{settings['size']} twins of the published models, {settings['data']}, seed {settings['seed']}: every model learned "
        f"from {settings['training_clips']} clips in the same order. Figures of the paper are marked as published; they were "
        "measured on other data at another size and compare with ours in their order at most."
    )
    return pages.document("Humanoid World Models: two families, four variants", lead, sections, record)
