"""The real server: over the wire, and where it listens."""

import http.client
import json
import socket
import time

import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")
from drivers import ANSWERED, opened
from refusing import refused
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from hwm.cli import main
from hwm.interact.server import listening as bound


def test_over_the_wire(listening):
    server = listening()
    with opened(server) as driver:
        assert json.loads(driver.recv(timeout=10))["say"] == "hello"
        pictures = 0
        while pictures < 5:
            pictures += isinstance(driver.recv(timeout=10), bytes)
            driver.send('{"do":"shown"}')
    for wrong in ("http://evil.example", None):
        with pytest.raises(InvalidStatus) as told:
            connect(f"ws://127.0.0.1:{server.port}/drive", origin=wrong, additional_headers={"Cookie": server.cookie})
        assert told.value.response.status_code == 403


@pytest.mark.fault("B13", ANSWERED)
def test_a_large_message_or_a_bomb_is_not_even_read(listening):
    server = listening()
    for message in ("x" * 70_000, "0" * 50_000_000):
        with opened(server, compression="deflate") as driver, pytest.raises(ConnectionClosed):
            assert "deflate" not in str(driver.protocol.extensions)  # a small message that swells is not possible
            driver.send(message[:70_000])
            for _ in range(500):
                driver.recv(timeout=10)
        assert driver.protocol.close_code == 1009


@pytest.mark.fault("B13", ANSWERED)
def test_a_reader_that_never_reads_and_one_that_never_asks_hold_up_nobody(listening):
    server = listening(slow=1)
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: ")  # and never goes on
        with opened(server, max_queue=1) as lazy, opened(server) as driver:
            began, pictures = time.monotonic(), 0
            while pictures < 30:
                if isinstance(driver.recv(timeout=10), bytes):
                    pictures += 1
                    driver.send('{"do":"shown"}')
            assert time.monotonic() - began < 60
            with pytest.raises(ConnectionClosed):
                for _ in range(20):
                    lazy.recv(timeout=10)
            assert lazy.protocol.close_code == 1008


@pytest.mark.fault("B13", ANSWERED)
def test_headers_that_are_too_large_or_no_http_are_refused(listening):
    server = listening()
    large = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 70_000 + b"\r\n\r\n"
    for request in (large, b"\x16\x03\x01\x02\x00\x01" * 100 + b"\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(request)
            raw.settimeout(5)
            assert raw.recv(100).startswith(b"HTTP/1.1 4")
    page = http.client.HTTPConnection("127.0.0.1", server.port)
    page.request("GET", "/", headers={"Cookie": server.cookie})
    assert page.getresponse().status == 200


@pytest.mark.parametrize("more, fault", [
    (["--address", "0.0.0.0"], "--address must be that of one interface"),
    (["--address", "192.168.1.5"], "--address 192.168.1.5 is reached by other machines: add --exposed"),
    (["--address", "my.house"], "--address must be an address such as 127.0.0.1"),
    (["--port", "70000"], "--port must be 65535 or less"),
    (["--sessions", "0"], "--sessions must be 1 or more"),
])  # fmt: skip
def test_where_it_listens_is_said_with_care(capsys, tmp_path, more, fault):
    assert main(["play", str(tmp_path / "run"), "--data", str(tmp_path), *more]) == 2
    assert fault in capsys.readouterr().err


def test_a_port_that_is_taken_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused("cannot listen there .*choose another --port", lambda: bound("127.0.0.1", taken.getsockname()[1]).__enter__())
