"""A browser that drives: what it says, the dream that goes on meanwhile, and the pictures that it gets.

The browser sends commands as JSON; of the pictures it gets the newest alone, and a next one only after it has confirmed an
earlier, so that nothing piles up on a slow line.  A command carries the browser's own time, which comes back with the first
picture that it decided: what the page prints as latency is that whole way.

A binary message is the length of a JSON header (4 bytes, little-endian), the header, and JPEGs: dream, recording, doubt, as
the header's `sizes` say, 0 for none.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from hwm.evaluate.page.pictures import jpeg
from hwm.interact.drive import Drive, Shown, Studio, heat
from hwm.interact.guard import Keys, Limits, Rate
from hwm.safe_load.text import parse_json

CREDIT = 2
"""Pictures on their way that are not confirmed yet."""
SPEEDS = (0.05, 4.0)
GONE = 1.0
"""Seconds without a confirmation after which the dream waits for the browser."""
EARLY = 0.05
"""Seconds to spare when a step of many frames is begun before those of the last one are all shown."""
STOPPED, NOT_JSON, REFUSED, TOO_LARGE, FULL = 1001, 1007, 1008, 1009, 1013
"""Codes with which a socket is closed (RFC 6455, section 7.4.1)."""


class Close(Exception):
    """A session ends, with a code and a reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


@dataclass
class Picture:
    """A frame as it is sent.  stamp: of the command that it is the first to answer, by the browser's clock; None: of none."""

    facts: dict[str, Any]
    images: list[bytes]
    stamp: float | None = None

    def packed(self) -> bytes:
        header = json.dumps(self.facts | {"stamp": self.stamp, "sizes": list(map(len, self.images))}).encode()
        return b"".join([len(header).to_bytes(4, "little"), header, *self.images])


class Host:
    """What all sessions share.

    folder: where recordings go.  worker: the one thread in which the model works, step by step for whoever drives.
    """

    def __init__(self, studio: Studio, *, folder: Path, limits: Limits = Limits(), keys: Keys | None = None) -> None:  # noqa: B008
        self.studio, self.folder, self.limits, self.keys = studio, folder, limits, keys or Keys()
        self.worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self.sessions: set[Session] = set()

    async def work(self, function: Callable[..., Any], *given: Any) -> Any:
        """Call in the model's thread."""
        return await asyncio.get_running_loop().run_in_executor(self.worker, function, *given)


class Session:
    """One browser that drives one dream: what it says is read, the dream goes on, pictures are sent, time is watched."""

    def __init__(self, host: Host, socket: WebSocket) -> None:
        self.host, self.socket, self.limits = host, socket, host.limits
        self.drive: Drive
        self.playing, self.speed, self.steps, self.refusals = True, 1.0, 0, 0
        self.command: tuple[Any, float] | None = None
        self.newest: Picture | None = None
        self.unconfirmed, self.dropped, self.scale, self.epoch, self.held, self.note = 0, 0, 0.0, 0, 0, ""
        self.thought = 0.0  # seconds that the last step took
        now = time.monotonic()
        self.commanded = self.heard = self.confirmed = now
        self._rate = Rate(self.limits.messages, self.limits.burst)
        self._going, self._fresh, self._credit, self._sending = asyncio.Event(), asyncio.Event(), asyncio.Event(), asyncio.Lock()
        self._credit.set()

    async def run(self) -> None:
        """Until either side ends it."""
        await self.socket.accept()
        closing = Close(STOPPED, "the server stops")
        tasks: list[asyncio.Task[None]] = []
        try:
            if len(self.host.sessions) >= self.limits.sessions:
                raise Close(FULL, f"{self.limits.sessions} others drive already; try again later")
            self.host.sessions.add(self)
            self.drive = await self.host.work(Drive, self.host.studio)
            await self._say("hello", **self.host.studio.about())
            await self._begun()
            jobs = (self._read(), self._play(), self._send(), self._watch())
            tasks = [asyncio.ensure_future(job) for job in jobs]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # raises what ended it
        except Close as told:
            closing = told
        except WebSocketDisconnect:
            pass
        except ValueError as error:
            closing = Close(STOPPED, str(error))
        finally:
            for task in tasks:
                task.cancel()
            self.host.sessions.discard(self)
            if tasks:
                await asyncio.wait(tasks)
                with contextlib.suppress(RuntimeError):  # the server stops too
                    await self.host.work(self.drive.close)
            if self.socket.client_state is WebSocketState.CONNECTED and self.socket.application_state is WebSocketState.CONNECTED:
                with contextlib.suppress(RuntimeError, WebSocketDisconnect, asyncio.TimeoutError, OSError):
                    reason = closing.reason.encode()[:120].decode(errors="ignore")
                    await asyncio.wait_for(self.socket.close(closing.code, reason), 2)

    async def _read(self) -> None:
        while True:
            message = await self.socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1000))
            self.heard = time.monotonic()
            if not self._rate.allows():
                raise Close(REFUSED, "too many messages")
            text = message.get("text")
            if text is None:
                raise Close(NOT_JSON, "messages are JSON text")
            if len(text.encode("utf-8", "surrogatepass")) > self.limits.message_bytes:
                raise Close(TOO_LARGE, f"a message has at most {self.limits.message_bytes} bytes")
            try:
                said = parse_json(text, where="message")
            except ValueError:
                raise Close(NOT_JSON, "messages are JSON text") from None
            if not isinstance(said, dict):
                raise Close(NOT_JSON, "a message is a JSON object")
            try:
                await self._obey(said)
            except ValueError as error:
                self.refusals += 1
                if self.refusals >= self.limits.refusals:
                    raise Close(REFUSED, "too many faulty messages") from None
                await self._say("refused", text=str(error)[:200])

    async def _obey(self, said: dict[str, Any]) -> None:
        """Do what a message asks.  Raises ValueError, of one line, for anything that cannot be done."""
        match said.get("do"):
            case "shown":
                self.unconfirmed, self.confirmed = max(0, self.unconfirmed - 1), self.heard
                self._credit.set()
                return
            case "here":
                return
            case "command":
                at = _number(said, "at", 0, 2**53)
                wanted = self.host.studio.target(said.get("target"))
                self.command = wanted, self.command[1] if self.command else at
                self.commanded = self.heard
                if not self.drive.ended:
                    return
                self.playing, self.note = True, ""
            case "start":
                clip = _number(said, "clip", 0, 10**12)
                if clip != int(clip):
                    raise ValueError("clip must be a whole number")
                self.epoch += 1
                await self.host.work(self.drive.start, int(clip))
                self.commanded, self.playing, self.steps = self.heard, True, 0
                return await self._begun()
            case "pause":
                self.playing, self.steps = not _flag(said), 0
            case "step":
                self.playing, self.steps = False, 1
            case "speed":
                self.speed = _number(said, "value", *SPEEDS)
            case "doubt":
                self.drive.doubt(str(said.get("by")))
                self.scale = 0.0
            case "record":
                await self._record(_flag(said))
            case _:
                raise ValueError("no such thing to do")
        self.commanded = self.heard
        await self._state()

    async def _record(self, on: bool) -> None:
        self.note = ""
        if on and not self.drive.recording:
            self.drive.record()
        elif not on and self.drive.recording:
            written = await self.host.work(self.drive.write, self.host.folder)
            self.note = "written: " + ", ".join(map(str, written))

    async def _begun(self) -> None:
        """Show where the dream starts, and what is switched how."""
        self.scale, self.note, self.command = 0.0, self.drive.why, None
        self._offer(self._picture(self.drive.first_look()))
        await self._state()

    async def _state(self) -> None:
        if self.playing or self.steps:
            self._going.set()
        else:
            self._going.clear()
        drive = self.drive
        await self._say(
            "state", playing=self.playing, speed=self.speed, follow=drive.follow, doubt=drive.doubting,
            recording=drive.recording, clip=drive.clip, beside=drive.beside.name, note=self.note,
        )  # fmt: skip

    async def _play(self) -> None:
        """Let the dream go on at its pace, or the model's; one of many frames a step thinks while they are shown."""
        loop, due = asyncio.get_running_loop(), 0.0
        ahead: asyncio.Future[tuple[int, list[Picture], bool]] | None = None
        while True:
            await self._going.wait()
            if time.monotonic() - self.confirmed > GONE and self.unconfirmed:
                self._credit.clear()
                await self._credit.wait()
            try:
                epoch, pictures, ended = await (ahead or self._think())
            except Exception as error:
                self.playing = False
                if not isinstance(error, ValueError):
                    traceback.print_exc(file=sys.stderr)
                self.note, ahead = f"the model failed: {type(error).__name__}: {error}"[:200], None
                await self._say("fault", text=self.note)
                await self._state()
                continue
            ahead = None
            if epoch != self.epoch:
                continue
            self.steps = max(0, self.steps - 1)
            seconds = self.host.studio.every / (self.host.studio.hz * self.speed)
            for left, picture in zip(range(len(pictures), 0, -1), pictures):
                if epoch != self.epoch:
                    break
                # As late as the next step can be begun, so that it still hears what is said meanwhile.
                soon = left * seconds < EARLY + 2 * self.thought
                if soon and ahead is None and len(pictures) > 1 and self.playing and not ended:
                    ahead = asyncio.ensure_future(self._think())
                due = max(due + seconds, loop.time())
                await asyncio.sleep(due - loop.time())
                self._offer(picture)
            if ended and epoch == self.epoch:
                self.playing, self.note = False, "the recording ends here; move a control to go on, or start again"
            if ended or not self.playing:
                await self._state()
            if self.drive.full:
                await self._record(False)
                await self._state()

    async def _think(self) -> tuple[int, list[Picture], bool]:
        """The next step: of which start it is, its pictures, and whether the recording ended."""
        (wanted, stamp), epoch = self.command or (None, None), self.epoch
        self.command = None

        def step() -> tuple[list[Picture], bool]:
            if epoch != self.epoch:
                return [], False
            began = time.monotonic()
            if wanted is not None:
                self.held = self.drive.aim(wanted)
            pictures = [self._picture(shown) for shown in self.drive.step()]
            if pictures:
                pictures[0].stamp = stamp
            self.thought = time.monotonic() - began
            return pictures, (self.drive.ended and self.drive.follow) or not pictures

        pictures, ended = await self.host.work(step)
        return epoch, pictures, ended

    def _picture(self, shown: Shown) -> Picture:
        images = [jpeg(shown.dream), b"" if shown.truth is None else jpeg(shown.truth), b""]
        facts: dict[str, Any] = {"frame": shown.frame, "follow": self.drive.follow, "held": self.held, "doubt": None}
        if shown.doubt is not None:
            self.scale = max(self.scale, float(shown.doubt.max()))
            images[2] = jpeg(heat(shown.doubt, self.scale))
            facts["doubt"] = [self.drive.doubt_name, round(float(shown.doubt.mean()), 4)]
        facts |= {"psnr": None if shown.psnr is None else round(shown.psnr, 2)}
        return Picture(facts | {"states": [round(float(x), 4) for x in shown.states]}, images)

    def _offer(self, picture: Picture) -> None:
        """Make it the newest one; what it answers for one that was never sent it answers now."""
        if self.newest is not None:
            self.dropped += 1
            picture.stamp = self.newest.stamp if self.newest.stamp is not None else picture.stamp
        self.newest = picture
        self._fresh.set()

    async def _send(self) -> None:
        while True:
            await self._fresh.wait()
            while self.unconfirmed >= CREDIT:
                self._credit.clear()
                await self._credit.wait()
            picture, self.newest = self.newest, None
            self._fresh.clear()
            if picture is None:
                continue
            if not self.unconfirmed:
                self.confirmed = time.monotonic()
            self.unconfirmed += 1
            picture.facts["dropped"] = self.dropped
            async with self._sending:
                await self.socket.send_bytes(picture.packed())

    async def _say(self, what: str, **facts: Any) -> None:
        async with self._sending:
            await self.socket.send_text(json.dumps({"say": what} | facts))

    async def _watch(self) -> None:
        """End a session that nobody uses."""
        limits = self.limits
        while True:
            await asyncio.sleep(min(1.0, limits.idle / 4, limits.silent / 4, limits.slow / 4))
            now = time.monotonic()
            if self.unconfirmed and now - self.confirmed > limits.slow:
                raise Close(REFUSED, "pictures are not taken")
            if now - self.heard > limits.silent:
                raise Close(STOPPED, "nothing was heard of the page")
            if now - self.commanded > limits.idle:
                raise Close(STOPPED, "nobody drives; reload the page to go on")


def _number(said: dict[str, Any], name: str, least: float, most: float) -> float:
    value: Any = said.get(name)
    if type(value) not in (int, float) or not math.isfinite(value) or not least <= value <= most:
        raise ValueError(f"{name} must be a number in {least:g}..{most:g}")
    return float(value)


def _flag(said: dict[str, Any]) -> bool:
    if type(on := said.get("on")) is not bool:
        raise ValueError("on must be true or false")
    return on
