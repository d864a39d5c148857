"""Forbids connections to other machines: Python runs this at its start wherever the folder stands on PYTHONPATH.

Every attempt raises and is a line in the file that HWM_TEST_CONNECTIONS names, so that one which somebody catches is
seen as well.  This machine itself (loopback) may be spoken to: processes that train together do.  What C libraries do
by themselves is not seen.
"""

import os
import socket
import sys

CONNECT, LOOKUP = ("socket.connect", "socket.sendto", "socket.sendmsg"), ("socket.getaddrinfo", "socket.gethostbyname")


def local(host):
    text = host.decode(errors="replace") if isinstance(host, bytes) else str(host or "localhost")
    return text.startswith("127.") or text in ("localhost", "::1", "0.0.0.0", "::", socket.gethostname())


def forbid(event, arguments):
    if event in LOOKUP:
        host = arguments[0]
    elif event in CONNECT and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if not local(host):
        with open(os.environ["HWM_TEST_CONNECTIONS"], "a") as file:  # noqa: PTH123 - quick to import
            file.write(f"{event} {host} by {' '.join(sys.argv)[:200]}\n")
        raise OSError(f"connection to {host}: forbidden in tests")


if "HWM_TEST_CONNECTIONS" in os.environ and not getattr(sys, "connections_forbidden", False):
    sys.connections_forbidden = True
    sys.addaudithook(forbid)
