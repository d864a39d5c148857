"""Verbs that train models and use them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from hwm.config import Seed
from hwm.evaluate.protocols import MOTION, PROTOCOLS, Scoring, Warmth
from hwm.work.ranges import Range, check_ranges
from hwm.work.share import Part, chosen_share
from hwm.work.signals import StopFlag


def evaluate(
    run: Path,
    /,
    scoring: Scoring = Scoring(),  # noqa: B008
    *,
    data: Path,
    video: Path | None = None,
    tuning: Path | None = None,
    training: tuple[Path, ...] = (),
    base: str = "",
    out: Path | None = None,
    part: Part = None,
) -> int:
    """Score a run on held-out data: numbers as JSON and a page with curves, tables and pictures.

    Protocols are the same for every family.  compression and hwm write results.json and report.html, sampling writes
    results_sampling.json and report_sampling.html.

    The same command goes on where it was stopped or killed, with the same numbers.  Under torchrun, srun or as a Slurm array
    the processes share the clips, and the one that finds all of them scored writes the report.

    Args:
        run: Run folder, folder of `hwm export`, a name that is shipped, or user/name@revision of the hub.
        scoring: What decides the numbers.
        data: Tokens or latents to score on, as the model predicts them; raw video for sampling and for models of video;
            recordings with commands for a twin.
        video: compression, hwm: the raw dataset the data were made from, to score against the original video as well.
        tuning: sampling: other raw video, on which blur and blend are chosen; with --doubt: other data of that kind, on which
            its intervals are learned.  Default: the first clips of the data.
        training: The training data, all its folders in order, for the frequencies of tokens, where the run does not keep them.
        base: The pretrained model that the run adapts, a folder or hub name: a run opens nothing outside of its folder unasked.
        out: Folder for the results; default: the run folder, or, of what was published, runs/NAME.
        part: k n: score only the k-th of n shares; by default torchrun, srun or a Slurm array says which.  0 1: all, also there.
    """
    check_ranges(Scoring, vars(scoring))
    from hwm.apply import evaluate_run
    from hwm.evaluate.motion import motion_text
    from hwm.evaluate.page.report import text_table
    from hwm.work.parts import Elsewhere
    (run, name), share = _found(run), chosen_share(part)
    out = out or _own_folder(run, name)
    try:
        scores = evaluate_run(
            run, scoring, data=data, video=video, tuning=tuning, training=training, base=base, out=out, share=share
        )
    except Elsewhere as told:
        print(told)
        return 0
    text = motion_text(scores) if scores.protocol == MOTION.name else text_table(scores)
    print(f"\n{text}\n\nreport: {out / PROTOCOLS[scores.protocol].report}")
    return 0


def _found(run: Path) -> tuple[Path, str]:
    """The folder of what was trained, and a short name for it; of the hub the commit is told."""
    from hwm.publish.hub import pinned
    from hwm.publish.trained import located
    folder = located(run)
    if (exact := pinned(folder, str(run))) != str(run):
        print(f"{run}: {exact}", flush=True)
    return folder, Path(exact.partition("@")[0]).name


def _own_folder(folder: Path, name: str) -> Path:
    """Where results of a run go unless somebody says where: into its folder; what was published stays as it is."""
    from hwm.safe_load.paths import is_file
    return folder if is_file(folder / "config.toml") or not folder.is_dir() else Path("runs") / name


def predict(
    run: Path, /,
    *, data: Path, out: Path | None = None, mcap: Path | None = None, tokens: Path | None = None,
    clip: Annotated[tuple[int, ...], Range(0, 10**12, some=True)] = (0,), frames: Annotated[int | None, Range(1, 10**6)] = None,
    samples: Annotated[int | None, Range(2, 10_000)] = None, which: Literal["best", "last"] = "best", temperature: Warmth = None,
    set: tuple[str, ...] = (), seed: Seed = 0, device: str = "auto", tokenizer: str = "", base: str = "",
) -> int:
    """Write a video, truth beside prediction, of a rollout that follows the recorded robot states; or what other viewers open.

    Args:
        run: Run folder of a world model, folder of `hwm export`, a name that is shipped, or user/name@revision of the hub.
        data: Tokens or latents to start from, or raw video, as models of every fourth frame need it: they show these alone.
        out: Video, .mp4 or .gif; default: prediction.mp4, or none where --mcap or --tokens is given.
        mcap: Log for Foxglove or Rerun: truth, prediction, uncertainty, error, states and commands on one clock, and beside it
            NAME.layout.json, which Foxglove imports.  Needs the extra mcap.
        tokens: Of 1X v1.1: new folder for the seen, predicted and true tokens as that release lays them out.
        clip: Number of the clip to start from; several stand beside each other, each with the recording above its prediction.
        frames: Frames after the context, at the data's rate; default: 51, or 60 for a model of every fourth frame, or fewer where
            the recording of the clip ends before; of 1X v1.1 a multiple of 15, by default to the end of the clip.
        samples: With --mcap: futures, whose spread is the uncertainty; default: one, and what its family knows of its doubt.
        which: The best checkpoint, or the last.
        temperature: 0 takes the most likely future; default: the model's own.
        set: Changes to how the model predicts, such as model.steps=4.
        seed: Seed of the sampling.
        device: auto (the first GPU where there is one), cpu, cuda or another.
        tokenizer: The run's tokenizer, a name or folder, where it lies elsewhere.
        base: The pretrained model that the run adapts, a folder or hub name.
    """
    if samples is not None and mcap is None:
        raise ValueError("--samples: their spread is shown with --mcap; a video shows one sample")
    if tokens is not None and (unread := [f"--{name}" for name, given in (("out", out), ("mcap", mcap)) if given]):
        raise ValueError(f"{', '.join(unread)}: tokens of 1X v1.1 have no pictures here; give --tokens alone")
    if tokens is not None and len(clip) != 1:
        raise ValueError(f"--clip must be one for --tokens, got {len(clip)}")
    if tokens is not None and tokenizer:
        raise ValueError("--tokenizer: tokens of 1X v1.1 are not decoded here; leave it out")
    run, _ = _found(run)
    with StopFlag() as stop:
        how: dict[str, Any] = {"data": data, "frames": frames, "which": which, "temperature": temperature}
        how |= {"changes": set, "seed": seed, "device": device, "base": base, "poll": stop.check}
        if tokens is not None:
            from hwm.watch.tokens import write_tokens
            written = [write_tokens(run, out=tokens, clip=clip[0], **how)]
        else:
            from hwm.watch.write import write_prediction
            out = Path("prediction.mp4") if out is None and mcap is None else out
            written = write_prediction(run, out=out, mcap=mcap, clips=clip, samples=samples or 1, tokenizer=tokenizer, **how)
    print(*written, sep="\n")
    return 0


def submit(
    run: Path, /,
    *, data: Path, out: Path = Path("submission.zip"), track: Literal["compression", "sampling"] = "compression",
    samples: Annotated[int | None, Range(1, 10_000)] = None, combine: Literal["mean", "blend", "medoid"] | None = None,
    tolerance: Annotated[float | None, Range(0, 255)] = None, size: Annotated[int | None, Range(1, 4096)] = None,
    temperature: Warmth = None, batch_size: Annotated[int | None, Range(1, 10**6)] = None,
    seed: Annotated[int | None, Range(0, 2**63 - 1)] = None, set: tuple[str, ...] = (), no_readme: bool = False,
    team: str = "", authors: str = "", email: str = "",
    institution: str = "independent", country: str = "not given", method: str = "", which: Literal["best", "last"] = "best",
    device: str = "auto", tokenizer: str = "", base: str = "",
) -> int:
    """Write the submission of a challenge track from its test set, then read it back and check it.

    sampling: the same command goes on where it was stopped or killed, and processes share the samples as in `hwm evaluate`.

    Args:
        run: Run folder, folder of `hwm export`, a name that is shipped, or user/name@revision of the hub.
        data: The challenge's test set.
        out: Zip file.
        track: The challenge track.
        samples: sampling: Predictions of which each picture is made; default: 20.
        combine: sampling: What is made of them; default: their mean.
        tolerance: sampling: Of the blend, as `hwm evaluate RUN --protocol sampling` chooses it.
        size: sampling: Side of the pictures in pixels; default: 512, as the challenge wants them.
        temperature: sampling: Of the samples; default: the model's own, or 1 where that is 0.
        batch_size: sampling: Predictions at a time; default: 16.
        seed: sampling: Seed of the samples; default: 0.
        set: sampling: Changes to how the model predicts, such as model.steps=100 model.guidance=1.5.
        no_readme: sampling: Leave the README.txt out of the zip.
        team: Name of the team; this and the following stand in the README of the submission.
        authors: Names.
        email: Address for questions.
        institution: Institution.
        country: Country.
        method: Name of the method; default: "hwm" and the kind of model.
        which: The best checkpoint, or the last.
        device: auto (the first GPU where there is one), cpu, cuda or another.
        tokenizer: sampling: The run's tokenizer, a name or folder, where it lies elsewhere.
        base: sampling: The pretrained model that the run adapts, a folder or hub name.
    """
    own: dict[str, Any] = {"samples": samples, "combine": combine, "tolerance": tolerance, "size": size}
    own |= {"temperature": temperature, "batch_size": batch_size, "seed": seed, "set": set or None}
    own |= {"tokenizer": tokenizer or None, "base": base or None}
    given = {name: value for name, value in own.items() if value is not None}
    options = [f"--{name.replace('_', '-')}" for name in given] + ["--no-readme"] * no_readme
    if track == "compression" and options:
        raise ValueError(f"{', '.join(options)}: only with --track sampling")
    if not no_readme and not (team and authors and email):
        raise ValueError("give --team, --authors and --email: they stand in the README.txt of the submission")
    fields = {"method": method, "team": team, "authors": authors, "e-mail": email, "institution": institution, "country": country}
    from hwm.apply import submit_compression, submit_sampling
    from hwm.work.parts import Elsewhere
    run, _ = _found(run)
    with StopFlag() as stop:
        if track == "compression":
            fields["method"] = method or "hwm ST-Transformer"
            submit_compression(run, data=data, out=out, readme=fields, which=which, device=device, poll=stop.check)
            return 0
        try:
            submit_sampling(
                run, data=data, out=out, readme=None if no_readme else fields, which=which, changes=given.pop("set", ()),
                device=device, share=chosen_share(None), stop=stop, **given,
            )
        except Elsewhere as told:
            print(told)
    return 0


def export(
    run: Path, folder: Path, /,
    *, which: Literal["best", "last"] = "best", dtype: Literal["float32", "float16"] = "float32", title: str = "",
    licence: str = "", about_data: str = "", hardware: str = "", limits: str = "", card: Path | None = None, base: str = "",
) -> int:
    """Publish a run of any family, or a tokenizer, as a folder: what made it, weights, robot, tokenizer, model card, checksums.

    Nothing in it can run, and of where things lay only last names stay.  Every verb that takes a run takes such a folder.  The
    card says what the run knows of itself: states and units, command, seed, steps, time, and scores with intervals where results
    lie with it.

    Args:
        run: A run, or what was published before.
        folder: New folder.
        which: The best checkpoint, or the last.
        dtype: float16 halves the folder: trained weights are rounded (said on the card), statistics are not.
        title: Name on the card; default: the recipe.
        licence: Of the weights, as the hub knows it, such as apache-2.0.
        about_data: What it learned from, its source and its licence.
        hardware: What it was trained on.
        limits: What it cannot do.
        card: Text of the whole model card instead.
        base: The pretrained model that a Wan run adapts, a folder or hub name; with it the adapter also lies in adapter/,
            as diffusers reads it.
    """
    from hwm.publish.card import Said
    from hwm.publish.export import export as publish
    from hwm.safe_load.text import read_text
    from hwm.work.claim import expect_apart

    run, _ = _found(run)
    expect_apart(folder, run, card)
    said = Said(title=title, licence=licence, data=about_data, hardware=hardware, limits=limits)
    text = read_text(card, max_bytes=1_000_000, kind="model card") if card else ""
    place, rounded = publish(run, folder, which=which, narrow=dtype == "float16", said=said, text=text, base=base)
    print(place, *[rounded] * bool(rounded), sep="\n  ")
    return 0


def push(folder: Path, name: str, /, *, send: bool = False, private: bool = False) -> int:
    """Send a published folder to the Hugging Face hub; without --send only say what would go.

    Args:
        folder: Folder of `hwm export`, every file of which is compared with its checksum first.
        name: Repository, user/name; it is made where there is none.
        send: Send it.  Needs the extra hub, and `hf auth login` once.
        private: Make a new repository a private one.
    """
    from hwm.publish.hub import contents, expect_repository
    from hwm.publish.hub import push as sent
    expect_repository(name)
    files = contents(folder)
    for file, size in files:
        print(f"{size:>14,}  {file}")
    print(f"{sum(size for _, size in files):>14,}  bytes in {len(files)} files", flush=True)
    print(f"sent: {sent(folder, name, private=private)}" if send else f"nothing was sent; --send sends this to {name}")
    return 0


def experiment(arguments: list[str]) -> int:
    """Train and score what a table asks for: tables, plots and one page; goes on where it was interrupted.

    Every experiment takes options of its own.  --list: all of them, a line each.
    """
    from hwm.cli import parsed
    from hwm.config import nearest
    from hwm.experiments.carry_out import carry_out, declarations
    known = declarations()
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help", "--list"):
        if name != "--list":
            print(f"usage: hwm experiment NAME [options]        hwm experiment NAME --help explains one\n\n{experiment.__doc__}")
        width = max(map(len, known)) + 2
        print("\n".join(f"  {name:<{width}}{summary}" for name, (summary, *_) in known.items()))
        raise SystemExit(0 if arguments else 2)
    if name not in known:
        raise ValueError(f"no experiment {name!r}; {nearest(name, known) or 'known: ' + ', '.join(known)}")
    about, declare, options = known[name]
    plan = parsed(options, rest, prog=f"hwm experiment {name}", description=about)
    check_ranges(options, vars(plan))
    from hwm.training.device import choose_device
    choose_device(plan.device)
    if page := carry_out(name, declare(plan), plan):
        print(f"\npage: {page}")
    return 0


def text_embedding(base: str, out: Path, /) -> int:
    """Compute the embedding of the empty prompt, the one text that Wan models are trained with.

    Reads the text encoder's weights file by file; the encoder is never in memory as a whole.

    Args:
        base: Wan model in diffusers' layout, a folder or a hub name, e.g. Wan-AI/Wan2.2-TI2V-5B-Diffusers.
        out: Safetensors file to write; a model's configuration names it as model.text.
    """
    from hwm.models.wan.text import digest, embed_empty_prompt, write_text_embedding
    from hwm.work.claim import expect_apart, expect_suffix
    expect_suffix(out, ".safetensors")
    expect_apart(out, base)
    embedding = embed_empty_prompt(base)
    write_text_embedding(out, embedding, source=base)
    print(f"{out}  shape {tuple(embedding.shape)}  sha256 {digest(embedding)}")
    return 0
