"""Two tiny trained worlds over a square that moves with the first state: frames as they are, and tokens."""

import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from motion_data import recordings
from moving_square import moving, write_moving
from tiny_line import tokenizer

import hwm
from hwm.config import DataConfig, RunConfig, TrainConfig
from hwm.interact.drive import Studio
from hwm.interact.world import World
from hwm.model_config import DirectConfig, STConfig, TwinConfig
from hwm.robot import EVE
from hwm.runs import train
from hwm.tokenizers.encode import tokenize

TRAIN = TrainConfig(steps=2, batch_size=2, lr=1e-2, warmup_steps=1, validate_every=0, checkpoint_every=2, threads=1, device="cpu")


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("worlds")
    raw = write_moving(root / "raw", rng=np.random.default_rng(0), frames=80, segments=3)
    sizes = {"num_layers": 1, "num_heads": 2, "width": 16}
    direct = DirectConfig(grid=(32, 32), patch=8, map_hidden=16, map_channels=4, **sizes)
    data = DataConfig(clip="sampling", train=(str(raw),), image_size=32)
    train(RunConfig(recipe="direct-tiny", tokenizer="pixels", model=direct, data=data, train=TRAIN), root / "direct")
    coder = tokenizer(root / "coder")
    tokenize(raw, root / "tokens", tokenizer=str(coder), workers=1)
    st = STConfig(vocab_size=200, factors=(8, 5, 5), grid=(4, 4), state_hidden=16, num_states=34, init_std=0.5, **sizes)
    data = DataConfig(clip="block_pairs", train=(str(root / "tokens"),))
    train(RunConfig(recipe="st-tiny", tokenizer=str(coder), model=st, data=data, train=TRAIN), root / "st")
    return SimpleNamespace(root=root, raw=raw, direct=root / "direct", st=root / "st")


@pytest.fixture(scope="session")
def worlds(place):
    found = {name: World(place.root / name, device="cpu") for name in ("direct", "st")}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # two steps of training move a picture by less than a level
        for weight in found["direct"].model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return found


@pytest.fixture(scope="session")
def twin(tmp_path_factory):
    """The run of a twin of the same robot, which follows its commands a frame late, scored on the data that it learned from."""
    root, rng = tmp_path_factory.mktemp("twin"), np.random.default_rng(1)
    commands = [moving(rng, 70)[1] for _ in range(3)]
    states = [np.concatenate([rows[:1], rows[:-1]]) for rows in commands]
    raw = recordings(root / "raw", states=states, commands=commands, robot=EVE)
    small = TwinConfig(members=3, width=8, num_layers=1, context_grids=3, future_grids=4)
    training = replace(TRAIN, steps=30, batch_size=8, checkpoint_every=30)
    train(RunConfig(recipe="twin", model=small, data=DataConfig(clip="motion", train=(str(raw),)), train=training), root / "run")
    hwm.evaluate(root / "run", data=raw, out=root / "run", clips=0, device="cpu")
    return SimpleNamespace(run=root / "run", raw=raw)


@pytest.fixture(scope="session")
def simulated(worlds, tmp_path_factory):
    """Three seconds of the built-in robot, made as starts are where nobody gives any."""
    pytest.importorskip("mujoco", reason="the simulator's packages are not installed")
    from hwm.interact import starts

    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("cache")
        patch.setattr(starts, "cache_folder", lambda: place)
        patch.setattr(starts, "SECONDS", 2.8)
        patch.setattr(starts, "SEGMENTS", (2.7, 2.9))
        return starts.made_starts(worlds["direct"])


@pytest.fixture(scope="session")
def studio(tmp_path_factory):
    """A small run that reaches seven frames far and two recordings of 90 frames, to be driven."""
    root = tmp_path_factory.mktemp("driven")
    raw = write_moving(root / "raw", rng=np.random.default_rng(0), frames=90, segments=2)
    model = DirectConfig(
        grid=(32, 32), patch=8, context_grids=3, future_grids=2, num_states=5, num_layers=1, num_heads=2, width=16, map_hidden=16,
        map_channels=4, reach=7,
    )  # fmt: skip
    data = DataConfig(clip="sampling", train=(str(raw),), image_size=32)
    train(RunConfig(recipe="tiny", tokenizer="pixels", model=model, data=data, train=TRAIN), root / "run")
    return Studio(World(root / "run", device="cpu"), raw)


@pytest.fixture
def served(studio, tmp_path):
    """Makes a server in this process, and a browser that knows its cookie; both as one."""
    pytest.importorskip("starlette", reason="the extra serve is not installed")
    from drivers import HOST, ORIGIN, SOCKET, Driver
    from starlette.testclient import TestClient

    from hwm.interact.guard import Limits
    from hwm.interact.server import application
    from hwm.interact.session import Host

    def make(**limits):
        host = Host(studio, folder=tmp_path, limits=Limits(**limits))
        app = application(host, hosts=frozenset({HOST}), cookie="hwm-8000")
        browser = TestClient(app, base_url=ORIGIN, follow_redirects=False)
        assert browser.get("/", params={"token": host.keys.token}).status_code == 303

        @contextmanager
        def drive(**headers):
            with browser.websocket_connect(SOCKET, headers={"origin": ORIGIN} | headers) as session:
                yield Driver(session)

        return SimpleNamespace(host=host, app=app, browser=browser, drive=drive)

    return make


@pytest.fixture(scope="module")
def listening(studio, tmp_path_factory):
    """Starts real servers on loopback: each its host, port and cookie.  They are stopped at the end."""
    pytest.importorskip("starlette", reason="the extra serve is not installed")
    from hwm.interact.guard import Limits
    from hwm.interact.server import serve
    from hwm.interact.session import Host
    from hwm.work.signals import StopFlag

    started, folder = [], tmp_path_factory.mktemp("drives")

    def start(port=0, driven=studio, **limits):
        host, said, stop = Host(driven, folder=folder, limits=Limits(**limits)), [], StopFlag()
        thread = threading.Thread(target=serve, args=(host,), kwargs={"port": port, "say": said.append, "stop": stop})
        thread.start()
        started.append((thread, stop))
        deadline = time.monotonic() + 20
        while not said and time.monotonic() < deadline:
            time.sleep(0.01)
        port = int(said[0].split("/")[2].rsplit(":", 1)[1])
        cookie, link = f"hwm-{port}={host.keys.redeem(host.keys.token)}", f"http://127.0.0.1:{port}/?token={host.keys.token}"
        return SimpleNamespace(host=host, port=port, cookie=cookie, origin=f"http://127.0.0.1:{port}", link=link, stop=stop)

    yield start
    for _, stop in started:
        stop.signal = 15
    for thread, _ in started:
        thread.join(10)
        assert not thread.is_alive()
