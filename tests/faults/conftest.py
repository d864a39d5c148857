"""What several fault tests use."""

import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))  # for `tiny_training`


@pytest.fixture(autouse=True)
def interrupts_arrive():
    """A suite started in the background inherits an ignored SIGINT, which would pass on to the processes of a test."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
