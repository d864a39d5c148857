"""Serve a page on which a world model is driven: pages and a socket for each browser, behind their guard."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from hwm.interact.guard import Guard
from hwm.interact.session import Host, Session
from hwm.work.signals import StopFlag

PAGE = Path(__file__).parent / "page"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def application(
    host: Host, *, hosts: frozenset[str], cookie: str = "hwm", redeemed: Callable[[], None] = lambda: None
) -> Starlette:  # fmt: skip
    """The pages and the socket behind their guard.  hosts, cookie, redeemed: as in `Guard`."""
    files = {path.name: path.read_bytes() for path in PAGE.iterdir() if path.suffix in KINDS}

    async def page(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in files:  # a name is looked up, never opened
            return PlainTextResponse("There is no such page.", 404)
        return Response(files[name], media_type=KINDS[Path(name).suffix])

    async def drive(socket: WebSocket) -> None:
        await Session(host, socket).run()

    guard = Middleware(Guard, keys=host.keys, hosts=hosts, cookie=cookie, redeemed=redeemed)  # type: ignore[arg-type]
    return Starlette(routes=[Route("/", page), WebSocketRoute("/drive", drive), Route("/{name}", page)], middleware=[guard])


@contextlib.contextmanager
def listening(address: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens.  port: 0 takes a free one.  Raises ValueError where another program has it."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            own.bind((address, port))
            own.listen(64)  # so that the link works as soon as it is said
        except OSError as error:
            raise ValueError(f"{address}:{port}: cannot listen there ({error.strerror}); choose another --port") from None
        yield own


async def _served(server: Any, own: socket.socket, stop: StopFlag) -> None:
    async def watch() -> None:
        while not stop:
            await asyncio.sleep(0.2)
        server.should_exit = True

    watching = asyncio.ensure_future(watch())
    try:
        await server.serve(sockets=[own])
    finally:
        watching.cancel()


def serve(
    host: Host, *, address: str = "127.0.0.1", port: int = 8765, say: Callable[[str], None] = print, stop: StopFlag
) -> None:  # fmt: skip
    """Serve until told to stop; says the link to open, and another one each time that one was used.

    Raises ValueError for an address or port where nothing can listen.
    """
    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:  # `stop` hears them
            yield

    with listening(address, port) as own:
        port = own.getsockname()[1]
        shown = f"[{address}]" if ":" in address else address
        names = {*LOOPBACK} if address in ("127.0.0.1", "::1", "localhost") else {shown}

        def link() -> str:
            return f"http://{shown}:{port}/?token={host.keys.token}"

        hosts = frozenset(f"{name}:{port}" for name in names)
        app = application(host, hosts=hosts, cookie=f"hwm-{port}", redeemed=lambda: say(f"for another browser: {link()}"))
        limits = host.limits
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="off", server_header=False, proxy_headers=False,
            ws="websockets-sansio", ws_max_size=limits.message_bytes, ws_max_queue=16, ws_per_message_deflate=False,
            limit_concurrency=8 * limits.sessions + 32, timeout_keep_alive=5, timeout_graceful_shutdown=2,
            h11_max_incomplete_event_size=16_384,
        )  # fmt: skip
        say(f"open {link()}")
        try:
            asyncio.run(_served(Server(config), own, stop))
        finally:
            host.worker.shutdown(wait=False, cancel_futures=True)
