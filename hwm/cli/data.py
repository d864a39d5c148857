"""Verbs that make and look at data."""

import sys
from json import dumps
from pathlib import Path
from typing import Annotated, Any, Literal

from hwm.work.ranges import Range
from hwm.work.share import Part
from hwm.work.workers import Workers

Rate = Annotated[int, Range(0, 1000)]
State = Literal["observation.state", "action", "both"]


def demo(
    out: Path = Path("runs/demo"), /,
    *, minutes: Annotated[float, Range(0, 1e6)] = 0.0, seed: int = 0, workers: Workers = 0,
    steps: Annotated[int, Range(0, 10**9)] = 0, size: Literal[64, 128] = 64, device: str = "auto",
) -> int:
    """Simulate rooms, train direct-tiny from scratch, evaluate it in rooms never seen, report.

    Args:
        out: Folder for data, run and report; a demo that was interrupted there goes on.
        minutes: Minutes of robot time to simulate for training; 0: what the demo is tuned for.
        seed: Seed of rooms, behaviour and training.
        workers: Processes; 0: one per core.
        steps: Training steps; 0: those of the recipe.
        size: Side of the frames in pixels.
        device: auto (the first GPU where there is one), cpu, cuda or another, for training and scoring.
    """
    from hwm.experiments.carry_out import carry_out
    from hwm.experiments.declared.demo import Options, declare
    from hwm.training.device import choose_device
    choose_device(device)
    twin: Literal["tiny", "medium"] = "tiny" if size == 64 else "medium"
    plan = Options(
        out=out, size=twin, minutes=minutes or Options.minutes, seed=seed, workers=workers, steps=steps, device=device,
    )
    carry_out("demo", declare(plan), plan)
    return 0


def simulate(
    out: Path, /,
    *, minutes: float = 2.0, size: int = 64, seed: int = 0, workers: Workers = 0, difficulty: float = 0.3,
    val_minutes: float | None = None, segment_seconds: tuple[float, float] = (12.0, 20.0), rooms: int = 0, test_clips: int = 0,
    renderer: Literal["auto", "warp", "gl"] = "auto",
    light: float = 1.0, friction: float = 1.0, camera_shift: float = 0.0, masks: bool = False, commands: bool = False,
    starts: int = 0, branches: int = 8,
) -> int:
    """Write a dataset of the built-in robot: training, seen-room and unseen-room validation sets.

    Args:
        out: Folder for the datasets.
        minutes: Minutes of robot time in the training set, at 30 frames a second.
        size: Side of the square frames in pixels.
        seed: Equal seeds give equal bytes on one machine.
        workers: Processes; 0: one per core.
        difficulty: From 0 (arms only) to 1 (the whole body moves all the time).
        val_minutes: Minutes of each validation set; default: an eighth of the training set, but enough for ten recordings.
        segment_seconds: Shortest and longest recording in seconds.
        rooms: Rooms in the training set; 0: about two segments a room.
        test_clips: Clips of a sampling-track test set to write as well.
        renderer: auto: ray tracing for small frames, OpenGL for large ones where it works.
        light: Factor of all light, to see what a model makes of rooms that are darker or brighter than those of its training.
        friction: Factor of all friction, likewise.
        camera_shift: Metres that the head camera sits higher, likewise.
        masks: Also write, beside the video, which pixels show the robot's arms and hands, for `hwm evaluate` to score against.
        commands: Write also what was asked of the robot in every frame, as `hwm train twin` needs it.
        starts: Moments, in rooms of their own, from which the robot goes on in several ways: what would be seen if it did
            something else, for `hwm evaluate --protocol sampling` to score against.
        branches: In how many ways it goes on from each.
    """
    from hwm.sim.simulate import simulate as run
    from hwm.work.progress import Counter
    with Counter("simulating", unit="frames") as counter:
        summary = run(
            out, minutes=minutes, size=size, seed=seed, workers=workers, difficulty=difficulty, val_minutes=val_minutes,
            segment_seconds=segment_seconds, rooms=rooms, test_clips=test_clips, renderer=renderer, light=light,
            friction=friction, camera_shift=camera_shift, masks=masks, commands=commands, starts=starts, branches=branches,
            progress=counter,
        )
    print(f"{summary.frames} frames in {summary.seconds:.1f} s ({summary.frames_per_second:.0f} frames/s)")
    for path in summary.paths:
        print(f"  {path}")
    return 0


def data(
    action: Literal["check", "describe", "convert"], folder: Path, out: Path | None = None, /,
    *, json: bool = False, sheet: Path | None = None, bones: bool = False, to: Literal["", "lerobot", "1x-raw"] = "",
    camera: str = "", state: State = "observation.state", crop: str = "", hz: Rate = 0, robot: Path | None = None,
    size: Annotated[int, Range(0, 4096)] = 0, episodes: str = "", without: str = "", task: str = "",
) -> int:
    """Check a dataset for faults, describe what is in it, or convert it.

    Args:
        action: check: sizes, types, ranges, checksums.  describe: counts, hours, statistics, a contact sheet.  convert: write
            recorded video anew, into OUT.
        folder: Folder of one dataset: in 1X's layouts, LeRobot v2.0 to v3.0, or videos and tables (a.mp4, a.csv).
        out: New folder for what is converted.
        json: Print JSON.
        sheet: Where `describe` writes its contact sheet; default contact_sheet.png in the current folder.
        bones: On the sheet, draw where the robot's bones stand by its states ([skeleton] of robot.toml), to see whether they fit.
        to: lerobot: LeRobot v3.0.  1x-raw: what `hwm tokenize` and models of video take, a shard for every recording.
        camera: Camera of a LeRobot dataset, where it has several.
        state: Rows of a LeRobot dataset that are taken for the robot's state.
        crop: centre: the largest square.  pad: black added to a square.  x,y,w,h: these pixels.
        hz: Frames a second that are kept, evenly; 0: all.
        robot: File that says what the columns of plain logs are; default: robot.toml beside them, or the columns' names.
        size: To convert: side of squares in pixels to which frames are resized; 0 keeps them.
        episodes: To convert: recordings to take, such as 0-9,12 or 4%10: every tenth from the fifth on.  Default: all.
        without: To convert: recordings to leave out, likewise.
        task: To convert: what the robot does, in words, for LeRobot.
    """
    from dataclasses import asdict

    from hwm.data.describe import check, contact_sheet, describe
    from hwm.data.recordings.excerpt import View
    from hwm.work.claim import expect_apart, expect_suffix
    view = View(camera, state, crop, hz, robot)
    if action == "convert":
        return _convert(folder, out, to, view=view, size=size, episodes=episodes, without=without, task=task)
    if out or to or task or size or episodes or without:
        only = "OUT, --to, --size, --episodes, --without and --task"
        raise ValueError(f"{only} are for hwm data convert, which writes; hwm data {action} only reads")
    if bones and action != "describe":
        raise ValueError("--bones is for the sheet of hwm data describe")
    if action == "check":
        report = check(folder, view)
        if json:
            print(dumps([asdict(finding) for finding in report.findings], indent=1))
        else:
            for finding in report.findings:
                print(f"{finding.severity}: {finding.file}: {finding.message}")
            print(f"{folder}: {'sound' if report.ok else 'has errors'}")
        return 0 if report.ok else 1
    target = sheet or Path("contact_sheet.png")
    expect_suffix(target, ".png")
    expect_apart(target, folder)
    facts = describe(folder, view)
    over: Any = None
    if bones:
        from hwm.watch.bones import DrawnBones  # it needs torch, which the rest does without

        over = DrawnBones
    contact_sheet(folder, target, tokenizer=_tokenizer_named(facts.get("tokenizer")), view=view, over=over)
    if json:
        print(dumps(facts, indent=1))
    else:
        _print_facts(facts)
    print(f"contact sheet: {target}", file=sys.stderr)
    return 0


def _convert(folder: Path, out: Path | None, to: Any, **how: Any) -> int:
    from hwm.data.recordings.convert import convert
    from hwm.work.progress import Counter
    from hwm.work.signals import StopFlag
    if out is None or not to:
        raise ValueError("give a new folder and a layout: hwm data convert FOLDER OUT --to lerobot, or --to 1x-raw")
    lines: list[str] = []
    with StopFlag() as stop, Counter("converting", unit="frames") as counter:
        convert(folder, out, to=to, **how, progress=counter, say=lines.append, poll=stop.check)
    print(out, *lines, sep="\n  ")
    return 0


def _tokenizer_named(name: str | None) -> Any:
    """The shipped tokenizer of that name, to show tokens as pictures; None where there is none."""
    from hwm.tokenizers.open import load_tokenizer, shipped
    return load_tokenizer(name) if name in shipped() else None


def _print_facts(facts: dict[str, Any]) -> None:
    for key, value in facts.items():
        if key == "states":
            print(f"  {'state':<24}{'unit':<18}{'kind':<10}{'mean':>9}{'std':>9}")
            for name, row in value.items():
                print(f"  {name:<24}{row['unit']:<18}{row['kind']:<10}{row['mean']:>9.3f}{row['std']:>9.3f}")
        elif isinstance(value, dict):
            print(f"{key}: " + ", ".join(f"{k} {v:.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items()))
        else:
            print(f"{key}: {value:.3f}" if isinstance(value, float) else f"{key}: {value}")


def tokenize(
    raw: Path, out: Path, /,
    *, tokenizer: str = "fsq-8x8x8", size: Annotated[int, Range(0, 4096)] = 0, phases: Annotated[int, Range(1, 1000)] = 1,
    every: Annotated[int, Range(1, 10**6)] = 8, workers: Workers = 0,
    camera: str = "", state: State = "observation.state", crop: str = "", hz: Rate = 0, robot: Path | None = None,
    part: Part = None, max_bad: Annotated[int, Range(0, 10**6)] = 0, trust: bool = False, device: str = "auto",
) -> int:
    """Encode a raw dataset, or every one inside a folder, into tokens or latents; goes on where it was interrupted.

    First it says how well the tokenizer rebuilds 16 clips of it, beside copying an earlier frame, and what to do where that is
    badly.

    Args:
        raw: A raw dataset, a LeRobot folder or plain logs, or a folder with several of the first (then each becomes a folder
            of `out`).
        out: Folder for the tokens, or for the latents of a continuous tokenizer.
        tokenizer: A shipped name, a folder of `hwm export`, or a folder with an official Cosmos encoder.jit and decoder.jit.
        size: Side to which frames are resized first; 0 keeps them.
        phases: Cut every shard from this many first frames (more training clips from little data); of several
            datasets only those called train.
        every: Frames from the start of one sampling clip to the next; only for tokenizers by Wan's clock, which encode
            77-frame clips instead of blocks.
        camera: As for `hwm data`, and so the next four.
        state: Rows of a LeRobot dataset that are taken for the robot's state.
        crop: centre, pad or x,y,w,h, before frames are resized.
        hz: Frames a second that are kept, evenly; 0: all.
        robot: File that says what the columns of plain logs are.
        workers: Processes, of one thread each on a CPU; 0: one per core, or one where a launcher started several.
        part: k n: make only every n-th shard from the k-th; by default torchrun, srun or a Slurm array says which.
        max_bad: Leave out up to so many faulty raw shards, each with a line in quarantine.jsonl.
        trust: Allow a TorchScript tokenizer, which is a program, to run.
        device: auto (the first GPU where there is one), cpu, cuda or another.
    """
    from hwm.data.recordings.excerpt import View
    from hwm.tokenizers.encode import tokenize as run
    from hwm.training.device import choose_device
    from hwm.work.allowance import usable_cores
    from hwm.work.claim import expect_apart
    from hwm.work.progress import Counter
    from hwm.work.share import chosen_share
    view = View(camera, state, crop, hz, robot)
    share, own = chosen_share(part), str(choose_device(device))
    alone = part is not None or share.count == 1
    processes = workers or (usable_cores() if own == "cpu" and alone else 1)
    several = sorted(p.parent for p in raw.glob("*/metadata.json")) if not (raw / "metadata.json").is_file() else []
    targets = [(p, out / p.name.removesuffix("_raw")) for p in several] or [(raw, out)]
    for _, target in targets:  # all of them, before the first takes hours
        expect_apart(target, *(source for source, _ in targets))
    for source, target in targets:
        lines: list[str] = []
        if share.index == 0 and not (target / "metadata.json").is_file():
            _say_how_rebuilt(source, tokenizer, size=size, trust=trust, device=own, view=view)
        # Held-out sets stay aligned with their video.
        cuts = phases if not several or source.name.startswith("train") else 1
        with Counter(f"tokenizing {source.name}", unit="shards") as counter:
            run(
                source, target, tokenizer=tokenizer, size=size, phases=cuts, every=every, workers=processes, share=share,
                max_bad=max_bad, trust=trust, device=own, view=view, progress=counter, say=lines.append,
            )
        print(target, *lines, sep="\n  ", flush=True)
    return 0


def _say_how_rebuilt(raw: Path, tokenizer: str, **options: Any) -> None:
    """One line, and one of what to do where that is little; what cannot be measured is told when it is encoded."""
    from hwm.doctor.rebuild import rebuilding
    try:
        verdict = rebuilding(tokenizer, raw, **options)
    except ValueError:
        return
    print(f"{raw}: {verdict.found}", *[f"  -> {verdict.remedy}"] * bool(verdict.remedy), sep="\n", flush=True)
