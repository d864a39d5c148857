"""The `hwm` command: one function per verb.  Only the chosen verb's libraries are imported."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

VERBS = """\
usage: hwm VERB [options]        hwm VERB --help explains one

  demo       simulate, tokenize, train, evaluate, report: the whole line in minutes
  simulate   write a dataset of the built-in robot in the 1X v2.0 raw layout
  data       check or describe a dataset
  tokenize   turn raw video into tokens
  train      train a recipe
  evaluate   score a run on held-out data and write its report
  predict    write a video of what a run predicts
  submit     write a challenge submission
  export     publish a trained tokenizer as a folder of its own
  recipes    list the recipes
"""


def demo(
    out: Path = Path("runs/demo"),
    /,
    *,
    minutes: float = 0.0,
    seed: int = 0,
    workers: int = 0,
    steps: int = 0,
    size: Literal[64, 128] = 64,
) -> int:
    """Simulate rooms, tokenize, train st-demo from scratch, evaluate in rooms never seen, report.

    Args:
        out: Folder for data, run and report; a demo that was interrupted there goes on.
        minutes: Minutes of robot time to simulate for training; 0: what the demo is tuned for.
        seed: Seed of rooms, behaviour and training.
        workers: Processes; 0: one per core.
        steps: Training steps; 0: those of the recipe.
        size: Side of the frames in pixels.
    """
    from hwm.demo import run_demo

    return run_demo(out, minutes=minutes, seed=seed, workers=workers, steps=steps, size=size)


def simulate(
    out: Path,
    /,
    *,
    minutes: float = 2.0,
    size: int = 64,
    seed: int = 0,
    workers: int = 0,
    difficulty: float = 0.3,
    val_minutes: float | None = None,
    rooms: int = 0,
    test_clips: int = 0,
    renderer: Literal["auto", "warp", "gl"] = "auto",
) -> int:
    """Write a dataset of the built-in robot: training, seen-room and unseen-room validation sets.

    Args:
        out: Folder for the datasets.
        minutes: Minutes of robot time in the training set, at 30 frames a second.
        size: Side of the square frames in pixels.
        seed: Equal seeds give equal bytes on one machine.
        workers: Processes; 0: one per core.
        difficulty: From 0 (arms only) to 1 (the whole body moves all the time).
        val_minutes: Minutes of each validation set.
        rooms: Rooms in the training set; 0: about two segments a room.
        test_clips: Clips of a sampling-track test set to write as well.
        renderer: auto: ray tracing for small frames, OpenGL for large ones where it works.
    """
    from hwm.progress import Counter
    from hwm.sim.simulate import simulate as run

    with Counter("simulating", unit="frames") as counter:
        summary = run(
            out,
            minutes=minutes,
            size=size,
            seed=seed,
            workers=workers,
            difficulty=difficulty,
            val_minutes=val_minutes,
            rooms=rooms,
            test_clips=test_clips,
            renderer=renderer,
            progress=counter,
        )
    print(f"{summary.frames} frames in {summary.seconds:.1f} s ({summary.frames_per_second:.0f} frames/s)")
    for path in summary.paths:
        print(f"  {path}")
    return 0


def data(
    action: Literal["check", "describe"],
    folder: Path,
    /,
    *,
    json_output: bool = False,
    sheet: Path | None = None,
) -> int:
    """Check a dataset for faults, or describe what is in it.

    Args:
        action: check: sizes, types, ranges, checksums.  describe: counts, hours, statistics, a contact sheet.
        folder: Folder of one dataset.
        json_output: Print JSON.
        sheet: Where `describe` writes its contact sheet; default contact_sheet.png in the current folder.
    """
    from dataclasses import asdict

    from hwm.data import describe as module

    if action == "check":
        report = module.check(folder)
        if json_output:
            print(json.dumps([asdict(finding) for finding in report.findings], indent=1))
        else:
            for finding in report.findings:
                print(f"{finding.severity}: {finding.file}: {finding.message}")
            print(f"{folder}: {'sound' if report.ok else 'has errors'}")
        return 0 if report.ok else 1
    facts = module.describe(folder)
    target = sheet or Path("contact_sheet.png")
    module.contact_sheet(folder, target, tokenizer=_tokenizer_named(facts.get("tokenizer")))
    if json_output:
        print(json.dumps(facts, indent=1))
    else:
        _print_facts(facts)
    print(f"contact sheet: {target}", file=sys.stderr)
    return 0


def _tokenizer_named(name: str | None) -> Any:
    """The shipped tokenizer of that name, to show tokens as pictures; None where there is none."""
    from hwm.tokenizers.store import load_tokenizer, shipped

    return load_tokenizer(name) if name in shipped() else None


def _print_facts(facts: dict[str, Any]) -> None:
    for key, value in facts.items():
        if key == "states":
            print(f"  {'state':<24}{'unit':<18}{'mean':>9}{'std':>9}")
            for name, row in value.items():
                print(f"  {name:<24}{row['unit']:<18}{row['mean']:>9.3f}{row['std']:>9.3f}")
        elif isinstance(value, dict):
            print(f"{key}: " + ", ".join(f"{k} {v:.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items()))
        else:
            print(f"{key}: {value:.3f}" if isinstance(value, float) else f"{key}: {value}")


def tokenize(
    raw: Path,
    out: Path,
    /,
    *,
    tokenizer: str = "fsq-8x8x8",
    size: int = 0,
    phases: int = 1,
    workers: int = 1,
    part: tuple[int, int] = (0, 1),
    trust: bool = False,
    device: str = "cpu",
) -> int:
    """Encode a raw dataset, or every one inside a folder, into tokens or latents; goes on where it was interrupted.

    Args:
        raw: A raw dataset, or a folder with several (then each becomes a folder of `out`).
        out: Folder for the tokens, or for the latents of a continuous tokenizer.
        tokenizer: A shipped name, a folder of `hwm export`, or a folder with an official Cosmos encoder.jit and decoder.jit.
        size: Side to which frames are resized first; 0 keeps them.
        phases: Cut every shard from this many first frames (more training clips from little data); of several
            datasets only those called train.
        workers: Processes.
        part: k n: make only every n-th shard from the k-th, for jobs that share the work.
        trust: Allow a TorchScript tokenizer, which is a program, to run.
        device: cpu, or cuda.
    """
    from hwm.progress import Counter
    from hwm.tokenizers.encode import tokenize as run

    several = sorted(p.parent for p in raw.glob("*/metadata.json")) if not (raw / "metadata.json").is_file() else []
    targets = [(p, out / p.name.removesuffix("_raw")) for p in several] or [(raw, out)]
    for source, target in targets:
        with Counter(f"tokenizing {source.name}", unit="shards") as counter:
            run(
                source,
                target,
                tokenizer=tokenizer,
                size=size,
                # Held-out sets stay aligned with their video.
                phases=phases if not several or source.name.startswith("train") else 1,
                workers=workers,
                part=part,
                trust=trust,
                device=device,
                progress=counter,
            )
        print(target)
    return 0


def train(
    recipe: str = "",
    /,
    *,
    out: Path,
    data: str = "",
    val: str = "",
    config: Path | None = None,
    tokenizer: str = "",
    seed: int | None = None,
    set: tuple[str, ...] = (),
) -> int:
    """Train a recipe in a run folder; run it again to resume.

    Args:
        recipe: Name of a recipe (`hwm recipes`); may be left out with --config.
        out: Run folder.
        data: Training data.
        val: Held-out data, for validation while training.
        config: A config.toml to start from instead of a recipe.
        tokenizer: The tokenizer that made the tokens, for pictures.
        seed: Seed of initialisation, data order and dropout.
        set: Changes, such as train.steps=500 model.width=256.
    """
    from hwm.config import RunConfig, from_toml, override
    from hwm.recipes import recipe as find_recipe

    if bool(recipe) == bool(config):
        raise ValueError("give either a recipe or --config FILE")
    chosen = from_toml(RunConfig, config) if config else find_recipe(recipe)
    changes = [f"data.train={json.dumps(data)}"] * bool(data) + [f"data.val={json.dumps(val)}"] * bool(val)
    changes += [f"tokenizer={json.dumps(tokenizer)}"] * bool(tokenizer) + [f"seed={seed}"] * (seed is not None)
    chosen = override(chosen, [*changes, *set])

    from hwm.runs import train as run

    result = run(chosen, out)
    if result.stopped:
        print(f"stopped at step {result.step}, saved; the same command goes on from there")
        return 128 + (result.signal or signal.SIGTERM)
    print(f"{out}: {result.step} steps")
    return 0


def evaluate(
    run: Path,
    /,
    *,
    data: Path,
    video: Path | None = None,
    out: Path | None = None,
    clips: int = 96,
    batch_size: int = 16,
    seed: int = 0,
    which: Literal["best", "last"] = "best",
    tokenizer: str = "",
    trust: bool = False,
    device: str = "cpu",
) -> int:
    """Score a run on held-out data: results.json and report.html with curves, tables and videos.

    Args:
        run: Run folder.
        data: Token dataset to score on.
        video: The raw dataset the tokens were made from, to score against the original video as well.
        out: Folder for the results; default: the run folder.
        clips: Number of clips, spread evenly over the dataset.
        batch_size: Clips at a time.
        seed: Seed of sampling and of the confidence intervals.
        which: The best checkpoint of the validation while training, or the last.
        tokenizer: Tokenizer for the pixels; default: the one named by the run.
        trust: Allow a TorchScript tokenizer to run.
        device: cpu, or cuda.
    """
    from hwm.apply import evaluate_run
    from hwm.evaluate.table import text_table

    scores = evaluate_run(
        run,
        data=data,
        video=video,
        out=out or run,
        clips=clips,
        batch_size=batch_size,
        seed=seed,
        which=which,
        tokenizer=tokenizer,
        trust=trust,
        device=device,
        command=f"hwm evaluate {run} --data {data} --clips {clips} --seed {seed}",
    )
    print(f"\n{text_table(scores)}\n\nreport: {(out or run) / 'report.html'}")
    return 0


def predict(
    run: Path,
    /,
    *,
    data: Path,
    out: Path = Path("prediction.mp4"),
    clip: int = 0,
    blocks: int = 3,
    which: Literal["best", "last"] = "best",
    temperature: float = 0.0,
    seed: int = 0,
) -> int:
    """Write a video, truth beside prediction, of a rollout that follows the recorded robot states.

    Args:
        run: Run folder of a world model.
        data: Token dataset to start from.
        out: Video file.
        clip: Number of the clip to start from.
        blocks: Length of the rollout in blocks of 17 frames.
        which: The best checkpoint, or the last.
        temperature: 0 takes the most likely tokens.
        seed: Seed of the sampling.
    """
    from hwm.apply import predict_video

    print(predict_video(run, data=data, out=out, clip=clip, blocks=blocks, which=which, temperature=temperature, seed=seed))
    return 0


def submit(
    run: Path,
    /,
    *,
    data: Path,
    out: Path = Path("submission.zip"),
    track: Literal["compression"] = "compression",
    team: str,
    authors: str,
    email: str,
    institution: str = "independent",
    country: str = "not given",
    method: str = "hwm ST-Transformer",
    which: Literal["best", "last"] = "best",
    device: str = "cpu",
) -> int:
    """Write the submission of a challenge track from its test set, then read it back and check it.

    Args:
        run: Run folder.
        data: The challenge's test set.
        out: Zip file.
        track: The challenge track.
        team: Name of the team; this and the following stand in the README of the submission.
        authors: Names.
        email: Address for questions.
        institution: Institution.
        country: Country.
        method: Name of the method.
        which: The best checkpoint, or the last.
        device: cpu, or cuda.
    """
    from hwm.apply import submit_compression

    readme = {"method": method, "team": team, "authors": authors, "e-mail": email, "institution": institution, "country": country}
    submit_compression(run, data=data, out=out, readme=readme, which=which, device=device)
    return 0


def export(run: Path, folder: Path, /, *, which: Literal["best", "last"] = "best", card: Path | None = None) -> int:
    """Publish a trained tokenizer: config.toml, model.safetensors and a model card, nothing that can run.

    Args:
        run: Run folder of a tokenizer.
        folder: New folder.
        which: The best checkpoint, or the last.
        card: Text of the model card.
    """
    from hwm.runs import load_run
    from hwm.tokenizers.autoencoder import VideoAutoencoder
    from hwm.tokenizers.store import save_tokenizer

    trained = load_run(run, which=which)
    if not isinstance(trained.model, VideoAutoencoder):
        raise ValueError(f"{run}: holds a world model, not a tokenizer; its checkpoints are published as they are")
    print(save_tokenizer(trained.model, folder, card=card.read_text() if card else ""))
    return 0


def recipes(*, json_output: bool = False) -> int:
    """List the recipes with their sizes.

    Args:
        json_output: Print a JSON list of objects with name, family, parameters, trainable_parameters, summary.
    """
    import torch

    from hwm.recipes import RECIPES
    from hwm.runs import build_model

    rows: list[dict[str, Any]] = []
    for entry in RECIPES:
        config = entry.build()
        with torch.device("meta"):
            sizes = [(p.numel(), p.requires_grad) for p in build_model(config).parameters()]
        rows.append(
            {
                "name": entry.name,
                "family": config.model.family,
                "parameters": sum(n for n, _ in sizes),
                "trainable_parameters": sum(n for n, trainable in sizes if trainable),
                "summary": entry.summary,
            }
        )
    if json_output:
        print(json.dumps(rows, indent=1))
    else:
        for row in rows:
            print(f"{row['name']:<27} {row['parameters'] / 1e6:8.2f} M  {row['summary']}")
    return 0


FUNCTIONS: tuple[Callable[..., int], ...] = (
    demo,
    simulate,
    data,
    tokenize,
    train,
    evaluate,
    predict,
    submit,
    export,
    recipes,
)


def main(arguments: list[str] | None = None) -> int:
    """Run one verb.  A mistake of the user is one line on standard error and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(VERBS, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from hwm import __version__

        print(__version__)
        return 0
    functions = {function.__name__: function for function in FUNCTIONS}
    verb = arguments[0]
    if verb not in functions:
        import difflib

        near = difflib.get_close_matches(verb, functions, 1)
        hint = f"did you mean {near[0]!r}?" if near else "hwm --help lists the verbs"
        print(f"hwm: error: no verb {verb!r}; {hint}", file=sys.stderr)
        return 2
    import tyro

    # `--json` is what people type; the function's parameter has another name because json is a module here.
    rest = ["--json-output" if a == "--json" else a for a in arguments[1:]]
    try:
        return tyro.cli(functions[verb], args=rest, prog=f"hwm {verb}", config=(tyro.conf.FlagCreatePairsOff,)) or 0
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        sys.stderr.close()
        return 128 + signal.SIGPIPE
    except (ValueError, OSError) as error:
        print(f"hwm {verb}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
