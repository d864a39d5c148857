"""`python -m hwm` is the `hwm` command."""

import os
import signal
import sys
from types import FrameType
from typing import Any

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def end(number: int, frame: FrameType | None) -> Any:
    """Before the command listens itself, and after it: nothing is lost, and a traceback would tell nothing."""
    os.write(2, f"hwm: stopped by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


def start() -> None:
    """Run the command; from the first moment on, a signal ends it with one line."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)
    from hwm.cli import main
    sys.exit(main())


if __name__ == "__main__":
    start()
