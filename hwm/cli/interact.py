"""Verbs in which a person, or a program, acts in a world model."""

from pathlib import Path
from typing import Annotated, Literal

from hwm.config import Seed
from hwm.work.ranges import BadSetting, Range
from hwm.work.signals import StopFlag

NEEDED = ("starlette", "uvicorn", "websockets")


def play(
    run: Path | None = None, /,
    *, data: Path | None = None, out: Path = Path("drives"), port: Annotated[int, Range(0, 65_535)] = 8765,
    address: str = "127.0.0.1", exposed: bool = False, sessions: Annotated[int, Range(1, 64)] = 4,
    which: Literal["best", "last"] = "best", set: tuple[str, ...] = (), seed: Seed = 0, device: str = "auto",
    tokenizer: str = "", base: str = "", twin: str = "",
) -> int:
    """Drive a run in the browser: by keyboard, gamepad and sliders, beside the simulator or what was recorded.

    Prints a link that one browser can open once, and then the next.  Nothing but this machine can reach it.

    Args:
        run: Run folder of a world model, folder of `hwm export`, a name that is shipped, or user/name@revision of the hub;
            default: the shipped world of the built-in robot, or what the demo trained.
        data: Raw video to start from, or tokens or latents that the model predicts; default: rooms of the built-in robot, made
            once.  Beside the dream stands the simulator where `hwm simulate` wrote the video, else the recording.
        out: Folder for what is recorded while driving: mp4, and LeRobot datasets where pyarrow is installed.
        port: Where the page is served; 0: any that is free.
        address: Of this machine, to listen at; another than loopback, as for a phone, needs --exposed.
        exposed: Let other machines of the network connect; pictures and link then travel unencrypted.
        sessions: Browsers that drive at a time.
        which: The best checkpoint, or the last.
        set: Changes to how the model predicts, such as model.steps=4.
        seed: Seed of the sampling.
        device: auto (the first GPU where there is one), cpu, cuda or another.
        tokenizer: The run's tokenizer, a name or folder, where it lies elsewhere.
        base: The pretrained model that the run adapts, a folder or hub name.
        twin: Run of a twin of the robot (`hwm train twin`), which foresees where commands lead; without one the dream takes
            commands for states.
    """
    from importlib.util import find_spec
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ValueError(f"the page needs {', '.join(missing)}, not installed here: pip install 'humanoid-world-models[serve]'")
    _expect_address(address, exposed)
    from hwm.cli.use import _found
    from hwm.interact.drive import Studio
    from hwm.interact.guard import Limits
    from hwm.interact.server import Host, serve
    from hwm.interact.starts import made_starts, usual_run
    from hwm.interact.world import World
    from hwm.publish.trained import kept_in
    from hwm.work.claim import expect_apart
    from hwm.work.progress import Counter
    folder, _ = _found(run or usual_run())
    expect_apart(out, data, kept_in(folder))
    with StopFlag() as stop:
        world = World(folder, which=which, device=device, tokenizer=tokenizer, base=base, changes=set)
        if data is None:
            with Counter("rooms to start in, made once", unit="frames") as counter:
                data = made_starts(world, progress=counter)
        host = Host(Studio(world, data, seed=seed, twin=twin), folder=out, limits=Limits(sessions=sessions))
        serve(host, address=address, port=port, say=lambda line: print(line, flush=True), stop=stop)
    return 0


def _expect_address(address: str, exposed: bool) -> None:
    """Raise BadSetting for what is no address of one interface, or one that others reach without leave."""
    from ipaddress import ip_address
    try:
        found = ip_address(address)
    except ValueError:
        raise BadSetting("address", f"must be an address such as 127.0.0.1, got {address!r}") from None
    if found.is_unspecified:
        raise BadSetting("address", "must be that of one interface, by which the page can know itself, not all of them")
    if not found.is_loopback and not exposed:
        raise BadSetting("address", f"{address} is reached by other machines: add --exposed if that is wanted")
