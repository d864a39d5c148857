"""Browsers without a screen: one of starlette's test client, and a socket to a real server."""

import json

import numpy as np
import pytest
from starlette.websockets import WebSocketDisconnect
from websockets.sync.client import connect

ANSWERED = "a typed close or an answer of one line; others go on"
"""What a fault that comes over the network leads to."""
HOST = "127.0.0.1:8000"
ORIGIN, SOCKET = f"http://{HOST}", f"ws://{HOST}/drive"


def read(message):
    """Header and images of a binary message."""
    size = int.from_bytes(message[:4], "little")
    header, rest = json.loads(message[4 : 4 + size]), message[4 + size :]
    assert sum(header["sizes"]) == len(rest)
    ends = np.cumsum(header["sizes"])
    return header, [rest[end - count : end] for end, count in zip(ends, header["sizes"])]


class Driver:
    """A socket of starlette's test client that confirms pictures as the page does."""

    def __init__(self, session):
        self.session = session

    def say(self, **message):
        self.session.send_text(json.dumps(message))

    def next(self):
        """A text message as a dict, or a picture as header and images."""
        message = self.session.receive()
        if message["type"] == "websocket.close":
            raise WebSocketDisconnect(message["code"], message.get("reason"))
        if message.get("text") is not None:
            return json.loads(message["text"])
        self.say(do="shown")
        return read(message["bytes"])

    def until(self, wanted):
        for _ in range(2000):
            if wanted(found := self.next()):
                return found
        raise AssertionError("it did not come")

    def picture(self, wanted=lambda header: True):
        return self.until(lambda found: isinstance(found, tuple) and wanted(found[0]))

    def told(self, what):
        return self.until(lambda found: isinstance(found, dict) and found["say"] == what)

    def closed(self):
        with pytest.raises(WebSocketDisconnect) as told:
            for _ in range(5000):
                self.next()
        return told.value.code


def opened(server, **options):
    headers = {"Cookie": server.cookie}
    return connect(f"ws://127.0.0.1:{server.port}/drive", origin=server.origin, additional_headers=headers, **options)
