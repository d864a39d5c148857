"""Who may talk to a server on this machine: the browser that opened the link that was printed, and no page of another site.

A server on loopback is reached by every page that a browser has open: by its address, by a name of the attacker's that is made
to point here (DNS rebinding), and by WebSockets, which know no rule of same origin.  So every request must name a host of ours,
carry the cookie that the printed link was exchanged for, once, and, to open a socket, come from a page of ours.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

MAX_COOKIES = 16
"""Browsers that are known at a time; the one that came first is forgotten."""
POLICY = "; ".join((
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' blob:", "connect-src 'self'",
    "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
))  # fmt: skip
HEADERS = {
    "content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin", "cross-origin-opener-policy": "same-origin", "cache-control": "no-store",
}  # fmt: skip
"""Of every answer."""


@dataclass(frozen=True)
class Limits:
    """What one browser, and all of them together, may ask of the server.

    message_bytes: of one message.  messages, burst: a second, and at once.  sessions: at a time.  refusals: faulty messages
    of a session before it ends.  idle, silent, slow: seconds without a command, without any message, and with pictures that
    were sent and not confirmed, after which a session ends.
    """

    message_bytes: int = 16_384
    messages: float = 120
    burst: float = 240
    sessions: int = 4
    refusals: int = 20
    idle: float = 600
    silent: float = 60
    slow: float = 15


class Rate:
    """So many messages a second, and a burst at once."""

    def __init__(self, each_second: float, burst: float, now: Callable[[], float] = time.monotonic) -> None:
        self._each_second, self._burst, self._now = each_second, burst, now
        self._left, self._last = burst, now()

    def allows(self) -> bool:
        """Whether one more may come now; it is counted."""
        now = self._now()
        self._left = min(self._burst, self._left + (now - self._last) * self._each_second)
        self._last = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Keys:
    """A token that is exchanged for a cookie, once, and is then replaced; the cookies given."""

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(32)
        self._cookies: list[str] = []

    def redeem(self, token: str) -> str:
        """The cookie for a token, or nothing where it is not the one that is open."""
        if not secrets.compare_digest(token.encode(), self.token.encode()):
            return ""
        self.token, cookie = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self._cookies = [*self._cookies, cookie][-MAX_COOKIES:]
        return cookie

    def known(self, cookie: str) -> bool:
        """Whether a cookie was given here; takes as long for every wrong one."""
        return sum(secrets.compare_digest(cookie.encode(), own.encode()) for own in self._cookies) > 0


class Guard:
    """ASGI middleware that lets nothing else through, and gives every answer its headers.

    hosts: what requests must name as host, "127.0.0.1:8765".  cookie: its name.  redeemed: called after a token was exchanged.
    """

    def __init__(self, app: Any, *, keys: Keys, hosts: frozenset[str], cookie: str, redeemed: Callable[[], None]) -> None:
        self.app, self.keys, self.hosts, self.cookie, self.redeemed = app, keys, hosts, cookie, redeemed

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            return
        host, known = self._one(scope, b"host"), self.keys.known(self._cookie(scope))
        if scope["type"] == "websocket":
            if host in self.hosts and known and self._one(scope, b"origin") == f"http://{host}":
                return await self.app(scope, receive, send)
            await receive()
            return await send({"type": "websocket.close", "code": 1008, "reason": "not a page of this server"})
        if host not in self.hosts:
            return await _answer(send, 400, "This server does not go by that name.")
        if scope["method"] not in ("GET", "HEAD"):
            return await _answer(send, 405, "Pages are only read here.")
        if scope["path"] == "/" and (token := _token(scope)) and scope["method"] == "GET":
            if cookie := self.keys.redeem(token):
                self.redeemed()
                set_cookie = f"{self.cookie}={cookie}; Path=/; HttpOnly; SameSite=Strict"
                return await _answer(send, 303, "", {"location": "/", "set-cookie": set_cookie})
            if not known:
                return await _answer(send, 403, "This link was used already, or is none: the terminal shows the next one.")
            return await _answer(send, 303, "", {"location": "/"})
        if not known:
            return await _answer(send, 403, "Open the link that the terminal shows.")

        async def with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_encoded(HEADERS)]
            await send(message)

        await self.app(scope, receive, with_headers)

    def _one(self, scope: dict[str, Any], name: bytes) -> str:
        """The header, where it stands exactly once."""
        found = [value for key, value in scope["headers"] if key == name]
        return found[0].decode("latin-1").lower() if len(found) == 1 else ""

    def _cookie(self, scope: dict[str, Any]) -> str:
        try:
            found = SimpleCookie(b"; ".join(v for k, v in scope["headers"] if k == b"cookie").decode("latin-1"))
        except CookieError:
            return ""
        return found[self.cookie].value if self.cookie in found else ""


def _token(scope: dict[str, Any]) -> str:
    try:
        return parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=8).get("token", [""])[0]
    except ValueError:
        return ""


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


async def _answer(send: Any, status: int, text: str, headers: dict[str, str] | None = None) -> None:
    body = text.encode()
    about = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(body))} | HEADERS | (headers or {})
    await send({"type": "http.response.start", "status": status, "headers": _encoded(about)})
    await send({"type": "http.response.body", "body": body})
