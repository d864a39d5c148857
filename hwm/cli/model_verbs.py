"""Verbs that train models and use them."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any, Literal


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
    set: tuple[str, ...] = (),
    decode: Literal["mean", "sample"] = "mean",
    inception: Path | None = None,
    lpips: tuple[Path, ...] = (),
    tokenizer: str = "",
    trust: bool = False,
    device: str = "cpu",
) -> int:
    """Score a run on held-out data: results.json and report.html with curves, tables and videos.

    One protocol for every family: all future frames, reference and baselines through the same tokenizer.

    Args:
        run: Run folder.
        data: Tokens or latents to score on, as the model predicts them.
        video: The raw dataset they were made from, to score against the original video as well.
        out: Folder for the results; default: the run folder.
        clips: Number of clips, spread evenly over the dataset.
        batch_size: Clips at a time.
        seed: Seed of sampling and of the confidence intervals.
        which: The best checkpoint of the validation while training, or the last.
        set: Changes to how the model predicts, such as model.steps=4 model.guidance=1.
        decode: The reading that the verdict is about: the mean of what is predicted, or a sample of it.
        inception: Inception weights (pt_inception-2015-12-05-6726825d.pth) for FID; without them only TFD, a
            distance in the features of the shipped tokenizer, is given.
        lpips: AlexNet weights and LPIPS heads (alexnet-owt-7be5be79.pth alex.pth) for LPIPS.
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
        changes=set,
        decode=decode,
        inception=inception,
        lpips=lpips,
        tokenizer=tokenizer,
        trust=trust,
        device=device,
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
    frames: int = 51,
    which: Literal["best", "last"] = "best",
    temperature: float | None = None,
    set: tuple[str, ...] = (),
    seed: int = 0,
) -> int:
    """Write a video, truth beside prediction, of a rollout that follows the recorded robot states.

    Args:
        run: Run folder of a world model.
        data: Tokens or latents to start from.
        out: Video file.
        clip: Number of the clip to start from.
        frames: Length of the rollout in frames, 30 a second.
        which: The best checkpoint, or the last.
        temperature: 0 takes the most likely future; default: the model's own.
        set: Changes to how the model predicts, such as model.steps=4.
        seed: Seed of the sampling.
    """
    from hwm.apply import predict_video

    written = predict_video(
        run, data=data, out=out, clip=clip, frames=frames, which=which, temperature=temperature, changes=set, seed=seed
    )
    print(written)
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
