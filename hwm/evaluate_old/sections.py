"""The sections of a report, each drawn from the plain values in results.json; empty where there is nothing to show."""

from __future__ import annotations

import json

from hwm.evaluate_old import old_pictures as pictures
from hwm.evaluate_old import old_plots as plots
from hwm.evaluate_old import page
from hwm.evaluate_old.metrics import PSNR_CAP
from hwm.evaluate_old.page import Json
from hwm.evaluate_old.results import (
    AUTOREGRESSIVE,
    COPY_FRAME,
    ORIGINAL,
    PERCEPTUAL_DIGITS,
    PERMUTED,
    RECONSTRUCTION,
    SCORED_FRAME,
    Example,
)

METRICS = {
    "TFD": "TFD is the tokenizer Fréchet distance: the Fréchet distance between the features of the shipped tokenizer's "
    "encoder on predicted and on true frames, at every place of every grid. It needs no further file. It is not an FID: "
    "the features are of another network, and its values compare with other TFDs only.",
    "FID": "FID is the Fréchet distance between the features of the Inception network of the given weight file, every "
    "frame by itself. It is biased upwards, the more the fewer frames: published values use many thousands.",
    "LPIPS": "LPIPS is the learned perceptual distance of two pictures, frame by frame, with the given weight files.",
}


def header(record: Json, recipe: str) -> str:
    """The verdict and the numbers behind it."""
    kicker = " · ".join(["Evaluation", recipe] if recipe else ["Evaluation"])
    return (
        f"<header><p class=kicker>{page.text(kicker)}</p><h1>{page.text(record['verdict'][0])}</h1>"
        f"<p class=lead>{page.text(' '.join(record['verdict'][1:]))}</p>{_tiles(record)}</header>"
    )


def _tiles(record: Json) -> str:
    settings, span = record["settings"], record["settings"]["headline_span"]
    horizon, score = settings["future_frames"], "psnr_scored" if span == SCORED_FRAME else "psnr_mean"
    model = _row(record, record["headline"], RECONSTRUCTION)
    copied = _row(record, COPY_FRAME, RECONSTRUCTION)
    gaps = {
        d["second"]: d["difference"]
        for d in record["differences"]
        if (d["metric"], d["reference"], d["span"]) == ("psnr", RECONSTRUCTION, span)
    }
    tiles = [
        (
            f"PSNR at frame {horizon}" if span == SCORED_FRAME else f"PSNR, frames 1–{horizon}",
            page.number(model[score], 2, " dB"),
            "copying " + page.number(copied[score], 2, " dB"),
        ),
        ("over copying", page.number(gaps[COPY_FRAME], 2, " dB", sign=True), page.interval(gaps[COPY_FRAME], 2)),
        ("over permuted states", page.number(gaps[PERMUTED], 2, " dB", sign=True), page.interval(gaps[PERMUTED], 2)),
    ]
    for metric in settings["perceptual"]:
        of = {row["name"]: row["all_frames"] for row in record["perceptual"] if row["metric"] == metric}
        copying = "copying " + page.number(of[COPY_FRAME], PERCEPTUAL_DIGITS[metric], "")
        own = page.number(of[record["headline"]], PERCEPTUAL_DIGITS[metric], "")
        tiles.append((f"{metric}, lower is better", own, copying))
    tokens = next((t for t in record["tokens"] if t["name"] == AUTOREGRESSIVE), None)
    if tokens is not None and tokens["cross_entropy"] is not None:
        accuracy = "" if tokens["accuracy"] is None else f"accuracy {tokens['accuracy']['mean']:.1%}"
        tiles.append(("cross-entropy of the tokens", page.number(tokens["cross_entropy"], 3, " nats"), accuracy))
    cells = "".join(
        f"<div><dt>{page.text(a)}</dt><dd>{b}</dd><dd class=small>{page.text(c)}</dd></div>" for a, b, c in tiles
    )
    return f"<dl class=tiles>{cells}</dl>"


def predictions(examples: list[Example]) -> str:
    """Videos of the examples, and one of them frame by frame."""
    if not examples:
        return ""
    parts = {1: "whole", 2: "half", 3: "third", 4: "quarter", 6: "sixth", 8: "eighth"}
    part = parts.get(len(examples), f"{len(examples)}th part")
    about = (
        f"Clips are chosen by how much their recorded future moves: from each {part} of the evaluated clips the one "
        f"that moves most, whatever the model made of it. The context panel stops at its last frame, which is what "
        f"copying predicts. Error: black is none, white a difference of {pictures.FULL_ERROR} of 255 or more. The bar "
        f"below is grey in the past and blue in the future."
    )
    videos = f"<div class=videos>{''.join(_video(example) for example in examples)}</div>"
    moving = min(examples, key=lambda example: example.psnr_copy)
    return page.section("Predictions", about, videos) + page.section("One clip, frame by frame", "", _film_strip(moving))


def _video(example: Example) -> str:
    frames = pictures.comparison_frames(example)
    labels = "".join(f"<span>{name}</span>" for name in pictures.PANELS)
    data, poster = page.encoded(pictures.mp4(frames)), page.encoded(pictures.jpeg(frames[-1]))
    gain = example.psnr - example.psnr_copy
    return (
        f"<figure><div class=panels>{labels}</div>"
        f'<video autoplay loop muted playsinline controls poster="data:image/jpeg;base64,{poster}" '
        f'src="data:video/mp4;base64,{data}"></video>'
        f"<figcaption>clip {example.clip}: last frame {example.psnr:.2f} dB, {gain:+.2f} dB over copying</figcaption></figure>"
    )


def _film_strip(example: Example) -> str:
    columns = pictures.strip_columns(len(example.truth), 6)
    head = "".join(f"<th>frame {column + 1}</th>" for column in columns)
    body = "".join(
        f"<tr><th>{name}</th>"
        + "".join(f'<td><img alt="" src="data:image/jpeg;base64,{page.encoded(pictures.jpeg(f))}"></td>' for f in frames)
        + "</tr>"
        for name, frames in pictures.film_strip(example).items()
    )
    return f"<table class=strip><tr><th></th>{head}</tr>{body}</table><p class=note>Clip {example.clip}.</p>"


def horizon(record: Json) -> str:
    """Curves and tables of the pixel scores."""
    references = record["settings"]["references"]
    about = "Mean over clips with 95 % intervals over segments. Against the reconstruction, baselines pass through the same "
    about += "tokenizer; against the recorded video they start from recorded frames." if ORIGINAL in references else "tokenizer."
    return page.section(
        "Quality over the horizon",
        about,
        page.image(plots.horizon_plot(record, "psnr", "PSNR, dB"), "PSNR over the future frames")
        + page.image(plots.horizon_plot(record, "ssim", "SSIM"), "SSIM over the future frames")
        + "".join(_pixel_table(record, reference) for reference in references),
    )


def _pixel_table(record: Json, reference: str) -> str:
    frames = record["settings"]["future_frames"]
    names = {
        RECONSTRUCTION: "Against the tokenizer's own reconstruction of the truth",
        ORIGINAL: "Against the recorded video",
    }
    spans = (f"frame {frames}", f"frames 1–{frames}")
    head = ["row", *(f"PSNR, {span}" for span in spans), *(f"SSIM, {span}" for span in spans), "pooled PSNR"]
    first = record["settings"]["headline_span"] == SCORED_FRAME
    score, pooled = ("psnr_scored", "pooled_psnr_scored") if first else ("psnr_mean", "pooled_psnr_mean")
    rows = [row for row in record["pixels"] if row["reference"] == reference]
    body = [
        (
            row["name"],
            *(page.cell(row[key], digits) for key, digits in (("psnr_scored", 2), ("psnr_mean", 2))),
            *(page.cell(row[key], digits) for key, digits in (("ssim_scored", 3), ("ssim_mean", 3))),
            f"{row[pooled]:.2f}",
        )
        for row in sorted(rows, key=lambda row: -row[score]["mean"])
    ]
    return page.table(names[reference], head, body, strong=record["headline"])


def differences(record: Json) -> str:
    """The headline row against every other, clip by clip."""
    units = {"psnr": " dB", "cross entropy": " nats"}
    body = [
        (
            f"{d['first']} − {d['second'].removeprefix('model, ')}",
            d["reference"],
            d["span"],
            page.cell(d["difference"], PERCEPTUAL_DIGITS.get(d["metric"], 3), sign=True)
            + units.get(d["metric"], " " + d["metric"]),
            "–" if d["share_higher"] is None else f"{d['share_higher']:.0%}",
        )
        for d in record["differences"]
    ]
    table = page.table("All paired differences", ["difference", "reference", "over", "mean", "clips above zero"], body)
    return page.section(
        "Against every baseline, clip by clip",
        "Paired differences: what makes a clip easy or hard cancels. Right of zero the model is better.",
        page.image(plots.difference_plot(record), "Paired differences in PSNR with intervals")
        + page.details("All paired differences, in numbers", table),
    )


def perceptual(record: Json) -> str:
    """Distances between what networks see in predicted and true frames."""
    metrics = record["settings"]["perceptual"]
    if not metrics:
        return ""
    scores = {(row["name"], row["metric"]): row for row in record["perceptual"]}
    names = list(dict.fromkeys(row["name"] for row in record["perceptual"]))
    names.sort(key=lambda name: scores[name, metrics[0]]["all_frames"]["mean"])
    notes = {m: next(row["note"] for row in record["perceptual"] if row["metric"] == m) for m in metrics}
    head = ["row", *metrics]
    body = [(name, *(page.cell(scores[name, m]["all_frames"], PERCEPTUAL_DIGITS[m]) for m in metrics)) for name in names]
    missing = "".join(f"<p class=note>{m}: no interval, {page.text(note)}.</p>" for m, note in notes.items() if note)
    frames = record["settings"]["future_frames"]
    title = f"Distance to the reconstruction of the truth, frames 1–{frames}; lower is better"
    return page.section(
        "As networks see it",
        "PSNR rewards the mean of all possible futures, which is blurred; these scores ask whether predicted frames look "
        "like true ones. A Fréchet distance compares sets of frames: it sees that a copied frame is sharp, not that it is "
        "the wrong one, so read it beside the PSNR. " + " ".join(METRICS[m] for m in metrics),
        page.image(plots.perceptual_plot(record), "Distances of every row with intervals")
        + page.table(title, head, body, strong=record["headline"])
        + missing,
    )


def tokens(record: Json) -> str:
    """Scores of the predicted distributions; none for a model that predicts latents."""
    if not record["tokens"]:
        return ""
    settings = record["settings"]
    rows = [(t["name"], page.cell(t["cross_entropy"], 3), page.cell(t["accuracy"], 3)) for t in record["tokens"]]
    head = ["row", "cross-entropy, nats", "accuracy"]
    forced = "Teacher-forced, the model sees the true grids before the one it predicts; autoregressive, its own. "
    about = forced if settings["future_grids"] > 1 else ""
    about += f"A uniform guess over {settings['vocab_size']} ids costs {settings['uniform_cross_entropy']:.2f} nats."
    content = page.table("Over all future grids", head, rows, strong=AUTOREGRESSIVE) + _top_k(record)
    if settings["future_grids"] > 1:
        content = page.image(plots.grid_plot(record), "Cross-entropy and accuracy of every future grid") + content
    return page.section("Tokens", about, content)


def _top_k(record: Json) -> str:
    if record["coverage"] is None:
        return ""
    meaning = {
        "floor": "softmax over the kept; a miss has probability 1e-8",
        "min": "a miss joins with the smallest kept logit",
        "uniform_rest": "a miss has an equal part of the probability left",
        "fill_min": "all others have the smallest kept logit",
        "ignore": "misses left out: optimistic, not for comparison",
    }
    body = [
        (row["policy"], meaning[row["policy"]], page.text(row["note"]) or page.cell(row["cross_entropy"], 3))
        for row in record["top_k"]
    ]
    title = f"Top-{record['settings']['top_k']} cross-entropy, autoregressive; coverage {page.cell(record['coverage'], 4)}"
    return page.table(title, ["rule", "for tokens outside", "cross-entropy, nats"], body, strong="floor")


def cost(rows: list[tuple[str, str]]) -> str:
    """What a prediction costs.  rows: names and values, from `table.cost_rows`."""
    about = "Measured in this evaluation, on its own hardware: compare only what was measured on one machine."
    return page.section("What a prediction costs", about, page.facts(dict(rows))) if rows else ""


def training(record: Json) -> str:
    """Training and validation curves of the run."""
    picture = plots.training_plot(record["training"])
    if picture is None:
        return ""
    about = ""
    if any("val/ce_auto" in r and "val/ce_teacher" in r for r in record["training"]):
        about = "Autoregressive validation is what the scores above are about; teacher-forced validation is not."
    return page.section("Training", about, page.image(picture, "Training and validation curves"))


def method(record: Json) -> str:
    """Everything that decides the numbers."""
    s = record["settings"]
    own = "the model's own: " if s["own_sampling"] else ""
    rows = {
        "command": record["command"],
        "protocol": f"{s['protocol']}: {s['context_grids']} context grids ({s['context_frames']} frames), "
        f"{s['future_grids']} future grids ({s['future_frames']} frames); the reference passes the same tokenizer",
        "clips": f"{s['num_clips']}, evenly spread over the data"
        + ("" if s["num_segments"] is None else f", from {s['num_segments']} segments"),
        "headline": f"{record['headline']} (chosen beforehand: decode={s['decode']!r}), "
        + ("the last future frame" if s["headline_span"] == SCORED_FRAME else "all future frames"),
        "sampling": f"{own}temperature {s['sampling']['temperature']}, top-k {s['sampling']['top_k']}, "
        f"top-p {s['sampling']['top_p']}",
        "seed": str(s["seed"]),
        "tokenizer": f"{s['tokenizer']} ({s['tokenizer_fingerprint'][:16]})",
        "states zeroed": "every row replaced by the state that the model's normalisation maps to zero: "
        + ", ".join(f"{v:.3g}" for v in s["zeroed_states"]),
        "states permuted": "each clip gets the states of a clip of another segment",
        "intervals": f"{s['confidence']:.0%}, bootstrap over segments (clips where segments are unknown): percentiles of "
        "means, the standard deviation of Fréchet distances",
        "pictures": f"PSNR of identical pictures counts as {PSNR_CAP:g} dB; SSIM with a 7x7 uniform window",
        "time": ", ".join(f"{name} {value:.1f} s" for name, value in record["seconds"].items()),
        "written": record["written"],
        **record["environment"],
    }
    config = page.text(json.dumps(record["config"], indent=1))
    details = page.details("Configuration of the run", f"<pre>{config}</pre>") if record["config"] else ""
    return page.section("How this was measured", "", page.facts(rows) + details)


def _row(record: Json, name: str, reference: str) -> Json:
    return next(r for r in record["pixels"] if (r["name"], r["reference"]) == (name, reference))
