import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `tiny_training`


@pytest.fixture(autouse=True)
def interrupts_arrive():
    """A suite started in the background inherits an ignored SIGINT, which training rightly leaves ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
