"""Does a server harm from another process for a while: floods, what is no message, a stranger's page, pictures never read."""

import sys
import time
from contextlib import suppress

from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

FLOOD = 300
"""Messages that are sent as fast as they go, more than a page may say in a second."""


def main(port: str, cookie: str, origin: str, seconds: str) -> None:
    options = {"uri": f"ws://127.0.0.1:{port}/drive", "additional_headers": {"Cookie": cookie}}
    end, made = time.monotonic() + float(seconds), 0
    silent = connect(**options, origin=origin, max_queue=1)
    while time.monotonic() < end:
        for said, page in ((['{"do":"here"}'] * FLOOD, origin), (["no json"], origin), ([], "http://elsewhere")):
            with suppress(WebSocketException, OSError), connect(**options, origin=page) as socket:
                for message in said:
                    socket.send(message)
                while said:
                    socket.recv(timeout=5)
            made += 1
        time.sleep(0.02)
    with suppress(WebSocketException, OSError):
        silent.close()
    print(made)


if __name__ == "__main__":
    main(*sys.argv[1:])
