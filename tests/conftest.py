"""A tokenizer by Wan's clock and a world model of every fourth frame in which everything is known in closed form."""

from __future__ import annotations

import gc
import os
import runpy
import signal
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from catalogue import FAULTS
from fault_table import Results, circumstances, put_into, put_rows_into
from torch import nn

from hwm.clock import WAN, subsample
from hwm.contracts import Prediction
from hwm.nn.flow_matching import noise
from hwm.work.server import warm


def pytest_addoption(parser):
    group = parser.getgroup("faults")
    group.addoption("--faults", action="store_true", help="only the fault tests, long forms too, and their table at the end")
    group.addoption("--only", metavar="NUMBERS", default="", help="with --faults: only these numbers, such as F2,L9")
    group.addoption("--faults-table", metavar="FILE", type=Path, help="also put the table between the marks of this file")


NO_NETWORK = Path(__file__).parent / "faults" / "no_network"


def forbid_connections():
    """To other machines, in this process and all that it starts; returns the file in which attempts are noted."""
    if "HWM_TEST_CONNECTIONS" not in os.environ:
        descriptor, os.environ["HWM_TEST_CONNECTIONS"] = tempfile.mkstemp(prefix="hwm-connections-")
        os.close(descriptor)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(NO_NETWORK), os.environ.get("PYTHONPATH")]))
    runpy.run_path(str(NO_NETWORK / "sitecustomize.py"))
    return Path(os.environ["HWM_TEST_CONNECTIONS"])


def pytest_sessionfinish(session):
    attempts = CONNECTIONS.read_text().splitlines() if CONNECTIONS.is_file() else []
    if attempts and not hasattr(session.config, "workerinput"):
        print(f"\n{len(attempts)} attempts to reach another machine, such as: {attempts[0]}", file=sys.stderr)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        CONNECTIONS.unlink(missing_ok=True)


CONNECTIONS = forbid_connections()


def pytest_configure(config):
    if config.getoption("faults_table") and not config.getoption("faults"):
        raise pytest.UsageError("--faults-table goes with --faults")
    if config.getoption("faults"):
        config.pluginmanager.register(FaultRun(config), "fault-run")


def pytest_collection_modifyitems(config, items):
    wanted, unwanted, only = [], [], only_numbers(config)
    for item in items:
        marks = list(item.iter_markers("fault"))
        if unknown := [mark.args[0] for mark in marks if mark.args[0] not in FAULTS]:
            raise pytest.UsageError(f"{item.nodeid}: fault {unknown[0]!r} is not in tests/faults/catalogue.py")
        # User properties travel with the reports, also out of the workers of xdist.
        item.user_properties += [("fault", [str(number) for number in mark.args]) for mark in marks]
        full = item.get_closest_marker("full")
        chosen = bool(marks or full) if config.getoption("faults") else not full
        if config.getoption("only"):
            chosen = chosen and not only.isdisjoint(mark.args[0] for mark in marks)
        (wanted if chosen else unwanted).append(item)
    if unwanted:
        config.hook.pytest_deselected(items=unwanted)
        items[:] = wanted


def only_numbers(config):
    numbers = {number for number in config.getoption("only").split(",") if number}
    if numbers and not config.getoption("faults"):
        raise pytest.UsageError("--only goes with --faults")
    if unknown := sorted(numbers - set(FAULTS)):
        raise pytest.UsageError(f"--only {','.join(unknown)}: not in tests/faults/catalogue.py")
    return numbers


class FaultRun:
    """A run with --faults: collects the rows of the table, prints it, and fails if a number has no test."""

    def __init__(self, config):
        self.config, self.results = config, Results()
        narrowed = any(config.getoption(name, None) for name in ("keyword", "markexpr", "deselect", "lf", "collectonly"))
        self.whole = not narrowed and config.args_source is not pytest.Config.ArgsSource.ARGS
        self.only = only_numbers(config)
        self.complete = self.whole and not self.only

    def pytest_runtest_logreport(self, report):
        self.results.add(
            report.nodeid, report.user_properties, when=report.when, outcome=report.outcome, expected=hasattr(report, "wasxfail"),
            seconds=report.duration
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session, exitstatus):
        if self.complete and self.results.missing and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        text = "\n".join([f"{circumstances()}:", "", *self.results.lines(complete=self.complete)])
        terminalreporter.section("faults")
        terminalreporter.write_line(text)
        if self.complete and self.results.missing:
            terminalreporter.write_line(f"\nno test for {', '.join(self.results.missing)}", red=True)
        table = self.config.getoption("faults_table")
        if table and self.complete:
            put_into(table, text)
        elif table and self.whole:
            rows = {number: self.results.line(number) for number in FAULTS if number in self.only}
            put_rows_into(table, rows, said=circumstances())
        elif table:
            terminalreporter.write_line(f"{table}: left as it is, because only a part of the faults was asked for")


def pytest_collection_finish():
    """What there is now stays until the end: no collection of garbage has to look through it again."""
    gc.freeze()


IMPORTED = ("hwm.apply", "torch._dynamo", "torch.distributed.checkpoint", "matplotlib.backends.backend_agg", "mujoco_warp")
"""What takes seconds to import and many processes of the suite need."""


@pytest.fixture(scope="session", autouse=True)
def processes_start_at_once(request):
    """Where many tests run, all the processes that they start fork from a server that has imported everything."""
    if len(request.session.items) > 300:
        warm(*IMPORTED)


@pytest.fixture(autouse=True)
def interrupts_arrive():
    """A suite started in the background inherits an ignored SIGINT, which training rightly leaves ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class LevelLatents:
    """The four channels of a latent are the brightnesses, 0 to 1, of its four frames; a frame is one brightness a cell."""

    name, kind, clock, spatial_stride, channels = "levels", "latents", WAN, 4, 4

    def encode(self, video_BFHWC):
        cells_BFHW = video_BFHWC[:, :, ::4, ::4, 0].float() / 255
        first_BFHW = cells_BFHW[:, :1].expand(-1, 3, -1, -1)
        return torch.cat([first_BFHW, cells_BFHW], 1).unflatten(1, (-1, 4))

    def decode(self, latents_BTCHW):
        grey_BFHW = (latents_BTCHW.flatten(1, 2)[:, 3:] * 255).round().clamp(0, 255).to(torch.uint8)
        return grey_BFHW.repeat_interleave(4, 2).repeat_interleave(4, 3)[..., None].expand(*[-1] * 4, 3).contiguous()

    def fingerprint(self):
        return "levels"


class Follow(nn.Module):
    """Every future frame is the last seen one, brighter by the first state of its own moment; 255 is full brightness.

    twice: added to the second picture of frame 76 alone.  At a temperature noise of that many levels is added.
    """

    predicts, validation_key, frame_step = "latents", "mse", 4
    context_grids, future_grids, num_states, reach = 2, 4, 77, 0

    def __init__(self, temperature=0.0, twice=0.0):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))
        self.config, self.temperature = SimpleNamespace(grid=(8, 8)), temperature
        self.twice, self.seen = twice, []

    @property
    def neutral_state_A(self):
        return torch.zeros(2)

    @torch.no_grad()
    def predict(self, context_BTCHW, states_BFA, *, generator, num_samples=1, sampling=None):
        assert context_BTCHW.shape[1] == 2 and states_BFA.shape[1] == 77
        self.seen.append((context_BTCHW, states_BFA[..., 0].clone()))
        steps_BF = states_BFA[:, subsample()[5:], 0] * self.gain / 255
        steps_BF[:, -1] += self.twice / 255
        future = context_BTCHW[:, -1:, -1:] + steps_BF.view(-1, 4, 4, 1, 1)
        future = future[:, None].expand(-1, num_samples, -1, -1, -1, -1)
        temperature = self.temperature if sampling is None else sampling.temperature
        if temperature:
            future = future + temperature / 255 * noise(tuple(future.shape), generator=generator)
        return Prediction(latents_BKTCHW=future)


@pytest.fixture(scope="session")
def strided():
    """The two above."""
    return SimpleNamespace(Tokenizer=LevelLatents, Model=Follow)
