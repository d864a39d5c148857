"""The socket and the pages: what a driver gets, and what everybody else is refused."""

import asyncio
import http.client
import json
import socket
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")
from refusing import refused
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from hwm.cli import main
from hwm.interact.drive import Drive
from hwm.interact.guard import Guard, Keys, Limits, Rate
from hwm.interact.server import application, serve
from hwm.interact.server import listening as bound
from hwm.interact.session import Host
from hwm.work.signals import StopFlag

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


@pytest.fixture
def served(studio, tmp_path):
    """Makes a server in this process, and a browser that knows its cookie; both as one."""

    def make(**limits):
        host = Host(studio, folder=tmp_path, limits=Limits(**limits))
        app = application(host, hosts=frozenset({HOST}), cookie="hwm-8000")
        browser = TestClient(app, base_url=ORIGIN, follow_redirects=False)
        assert browser.get("/", params={"token": host.keys.token}).status_code == 303

        @contextmanager
        def drive(**headers):
            with browser.websocket_connect(SOCKET, headers={"origin": ORIGIN} | headers) as session:
                yield Driver(session)

        return SimpleNamespace(host=host, app=app, browser=browser, drive=drive)

    return make


def test_a_driver_sees_the_recording_then_what_he_does(served, studio):
    with served().drive() as driver:
        assert driver.told("hello")["names"] == list(studio.robot.names)
        header, (dream, truth, doubt) = driver.picture()
        assert header["frame"] == 0 and dream[:2] == truth[:2] == b"\xff\xd8" and not doubt and header["stamp"] is None
        header, _ = driver.picture()
        assert header["follow"] and header["psnr"] > 0
        driver.say(do="doubt", on=True)
        driver.say(do="command", at=123.5, target=studio.high.tolist())
        header, (_, _, doubt) = driver.picture(lambda header: header["stamp"] is not None)
        assert header["stamp"] == 123.5 and not header["follow"] and header["psnr"] is None
        assert header["doubt"][0] == "predicted change" and doubt[:2] == b"\xff\xd8"
        assert driver.picture()[0]["stamp"] is None
        driver.say(do="start", clip=1)
        driver.until(lambda found: isinstance(found, dict) and found["say"] == "state" and found["clip"] == 1 and found["follow"])


def test_paused_it_goes_a_step_at_a_time_and_faster_when_told(served):
    with served().drive() as driver:
        driver.told("state")
        driver.say(do="pause", on=True)
        driver.until(lambda found: isinstance(found, dict) and not found.get("playing", True))
        driver.say(do="step")
        header, _ = driver.picture()
        driver.say(do="step")
        after, _ = driver.picture()
        assert after["frame"] == header["frame"] + 1
        driver.say(do="speed", value=4)
        driver.say(do="pause", on=False)
        assert driver.until(lambda found: isinstance(found, dict) and found.get("speed") == 4)
        driver.picture()


def test_the_recording_ends_and_a_command_goes_on(served, studio):
    with served().drive() as driver:
        driver.say(do="speed", value=4)
        told = driver.until(lambda found: isinstance(found, dict) and "ends here" in found.get("note", ""))
        assert not told["playing"]
        driver.say(do="command", at=1, target=studio.low.tolist())
        assert driver.picture(lambda header: header["stamp"] == 1)[0]["frame"] == 88


def test_recordings_go_where_the_server_says(served, tmp_path):
    with served().drive() as driver:
        driver.say(do="record", on=True, folder="/etc", name="../x")
        driver.until(lambda found: isinstance(found, dict) and found.get("recording"))
        driver.picture()
        driver.picture()
        driver.say(do="record", on=False)
        driver.until(lambda found: isinstance(found, dict) and found.get("note", "").startswith("written: "))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drive-001", "drive-001.mp4"]


def test_a_model_that_fails_is_told_and_can_be_started_again(served, monkeypatch):
    with served().drive() as driver:
        driver.picture()
        with monkeypatch.context() as patch:
            patch.setattr(Drive, "step", lambda self: 1 / 0)
            assert "ZeroDivisionError" in driver.told("fault")["text"]
        driver.say(do="start", clip=0)
        assert driver.picture(lambda header: header["frame"] == 3)


@pytest.mark.parametrize("path, kind", [("/", "text/html"), ("/play.js", "text/javascript"), ("/controls.js", "text/javascript"),
                                        ("/look.css", "text/css"), ("/icon.svg", "image/svg+xml")])  # fmt: skip
def test_pages_come_whole_and_allow_nothing_from_elsewhere(served, path, kind):
    answer = served().browser.get(path)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith(kind)
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in answer.headers
    for word in ("http://", "https://", "onclick=", "style=", "<script>", "innerHTML", "eval("):
        assert word not in answer.text.replace('xmlns="http://www.w3.org/2000/svg"', ""), word


# ---- attacks: requests


@pytest.mark.parametrize("path", ["/../server.py", "/..%2fserver.py", "/%2e%2e/guard.py", "/..\\server.py", "//etc/passwd",
                                  "/page/play.js", "/play.js%00", "/drive", "/.html"])  # fmt: skip
def test_no_path_leads_out_of_the_page(served, path):
    assert served().browser.get(path).status_code == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1", "127.0.0.1:8001",
                                  "localhost.evil.example:8000", "127.0.0.1:8000.evil.example", ""])  # fmt: skip
def test_a_name_that_was_made_to_point_here_is_refused(served, host):
    made = served()
    assert made.browser.get("/", headers={"host": host}).status_code == 400
    with pytest.raises(WebSocketDisconnect), made.drive(host=host, origin=f"http://{host}"):
        pass


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", f"https://{HOST}", "http://127.0.0.1:8001",
                                    f"{ORIGIN}.evil.example"])  # fmt: skip
def test_a_socket_of_another_site_is_refused(served, origin):
    with pytest.raises(WebSocketDisconnect), served().drive(origin=origin):
        pass


def test_a_socket_without_origin_is_refused(served):
    with pytest.raises(WebSocketDisconnect), served().browser.websocket_connect(SOCKET):
        pass


@pytest.mark.parametrize("cookie", [None, "", "x", "x" * 43, "\u00fc" * 9, "a=b; hwm-8000", '"\\"'])
def test_without_the_cookie_there_is_nothing(served, cookie):
    made = served()
    stranger = TestClient(made.app, base_url=ORIGIN)
    headers = {} if cookie is None else {"cookie": f"hwm-8000={cookie}".encode()}
    assert stranger.get("/", headers=headers).status_code == stranger.get("/play.js", headers=headers).status_code == 403
    with pytest.raises(WebSocketDisconnect), stranger.websocket_connect(SOCKET, headers=headers | {"origin": ORIGIN}):
        pass


def test_a_token_is_good_once(served, studio, tmp_path):
    host, told = Host(studio, folder=tmp_path), []
    app = application(host, hosts=frozenset({HOST}), redeemed=lambda: told.append(host.keys.token))
    first, second = (TestClient(app, base_url=ORIGIN, follow_redirects=False) for _ in range(2))
    token = host.keys.token
    assert second.get("/", params={"token": token[:-1]}).status_code == 403 and not told
    answer = first.get("/", params={"token": token})
    assert answer.status_code == 303 and answer.headers["location"] == "/"
    marks = answer.headers["set-cookie"]
    assert "HttpOnly" in marks and "SameSite=Strict" in marks and token not in marks
    assert first.get("/").status_code == 200 and told == [host.keys.token] != [token]
    assert second.get("/", params={"token": token}).status_code == 403 and second.get("/").status_code == 403
    assert first.get("/", params={"token": token}).status_code == 303  # who is in stays in
    assert second.get("/", params={"token": told[0]}).status_code == 303


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_pages_are_only_read(served, method):
    assert served().browser.request(method, "/").status_code == 405


def test_old_cookies_are_forgotten():
    keys = Keys()
    cookies = [keys.redeem(keys.token) for _ in range(17)]
    assert not keys.known(cookies[0]) and all(map(keys.known, cookies[1:])) and not keys.known("")


def test_two_headers_of_one_name_are_none(served):
    sent = []

    async def send(message):
        sent.append(message)

    guard = Guard(None, keys=Keys(), hosts=frozenset({HOST}), cookie="c", redeemed=lambda: None)
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [(b"host", HOST.encode())] * 2}
    asyncio.run(guard(scope, None, send))
    assert sent[0]["status"] == 400


# ---- attacks: messages

DEEP = '{"do":' + "[" * 5000 + "]" * 5000 + "}"


@pytest.mark.parametrize("sent, code", [
    ("no json", 1007), ("", 1007), ("[]", 1007), ("7", 1007), ('"x"', 1007), (DEEP, 1007), ('{"do":"here","do":"step"}', 1007),
    (b"\x00\x01", 1007), ('{"do":"here","x":"' + "x" * 16_384 + '"}', 1009), ('{"at":' + "9" * 5000 + "}", 1007),
])  # fmt: skip
def test_what_is_no_message_ends_the_session(served, sent, code):
    with served().drive() as driver:
        driver.told("state")
        driver.session.send_bytes(sent) if isinstance(sent, bytes) else driver.session.send_text(sent)
        assert driver.closed() == code


ZEROS = json.dumps([0] * 25)


@pytest.mark.parametrize("sent", [
    "{}", '{"do":null}', '{"do":"quit"}', '{"do":["start"]}', '{"do":"__init__"}', '{"do":"start"}', '{"do":"start","clip":-1}',
    '{"do":"start","clip":0.5}', '{"do":"start","clip":99999}', '{"do":"start","clip":"0"}', '{"do":"speed","value":0}',
    '{"do":"speed","value":NaN}', '{"do":"pause","on":1}', '{"do":"doubt"}', '{"do":"record","on":"yes"}',
    '{"do":"record","on":false}' + " ", f'{{"do":"command","target":{ZEROS}}}', f'{{"do":"command","at":-1,"target":{ZEROS}}}',
    f'{{"do":"command","at":Infinity,"target":{ZEROS}}}', '{"do":"command","at":1}', '{"do":"command","at":1,"target":[0]}',
    f'{{"do":"command","at":1,"target":{ZEROS.replace("0]", "NaN]")}}}',
    f'{{"do":"command","at":1,"target":{ZEROS.replace("0]", "1e999]")}}}',
])  # fmt: skip
def test_what_cannot_be_done_is_said_and_the_session_lives(served, sent):
    with served().drive() as driver:
        driver.told("state")
        driver.session.send_text(sent)
        if not sent.endswith(" "):  # stopping to record what is not recorded is nothing
            assert driver.told("refused")["text"]
        assert driver.picture(lambda header: header["frame"] > 1)


def test_states_beyond_their_range_are_held_at_its_end(served, studio):
    with served().drive() as driver:
        driver.say(do="command", at=1, target=[1e299] * 25)
        header, _ = driver.picture(lambda header: header["stamp"] == 1)
        assert header["held"] == 25 and (np.array(header["states"]) <= studio.high + 1e-3).all()


def test_many_faulty_messages_end_the_session(served):
    with served(refusals=3).drive() as driver:
        for _ in range(3):
            driver.say(do="nothing")
        assert driver.closed() == 1008


def test_a_flood_ends_the_session(served):
    with served(messages=1, burst=20).drive() as driver:
        for _ in range(40):
            driver.say(do="here")
        assert driver.closed() == 1008


def test_a_rate_lets_bursts_pass_and_refills():
    now = [0.0]
    rate = Rate(2, 3, lambda: now[0])
    assert [rate.allows() for _ in range(4)] == [True, True, True, False]
    now[0] = 0.5
    assert [rate.allows() for _ in range(2)] == [True, False]
    now[0] = 100
    assert [rate.allows() for _ in range(4)] == [True, True, True, False]


def test_only_so_many_drive_and_places_are_given_back(served):
    made = served(sessions=2)
    with made.drive() as first, made.drive() as second:
        first.picture()
        second.picture()
        with made.drive() as third:
            assert third.closed() == 1013
        assert first.picture() and second.picture()
    deadline = time.monotonic() + 10
    while made.host.sessions and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not made.host.sessions
    with made.drive() as again:
        assert again.picture()


@pytest.mark.parametrize("limit, code", [("slow", 1008), ("silent", 1001), ("idle", 1001)])
def test_who_does_nothing_makes_place(served, limit, code):
    with served(**{limit: 0.3}).drive() as driver:
        if limit == "idle":
            assert driver.closed() == code
            return
        for _ in range(200):  # pictures come, and are not confirmed
            message = driver.session.receive()
            if message["type"] == "websocket.close":
                break
        assert message["code"] == code


def test_who_does_not_confirm_gets_two_pictures_and_no_heap_of_them(served):
    with served(slow=0.5).drive() as driver:
        found = []
        while (message := driver.session.receive())["type"] != "websocket.close":
            found += [message["bytes"]] if message.get("bytes") else []
        assert len(found) == 2


# ---- attacks on the real server


@pytest.fixture
def listening(studio, tmp_path):
    """A real server on loopback: its host, port and cookie."""
    host, said = Host(studio, folder=tmp_path, limits=Limits(sessions=2, slow=1)), []
    stop = StopFlag()
    thread = threading.Thread(target=serve, args=(host,), kwargs={"port": 0, "say": said.append, "stop": stop})
    thread.start()
    deadline = time.monotonic() + 10
    while not said and time.monotonic() < deadline:
        time.sleep(0.01)
    port = int(said[0].split("/")[2].rsplit(":", 1)[1])
    keys = host.keys
    yield SimpleNamespace(host=host, port=port, cookie=f"hwm-{port}={keys.redeem(keys.token)}", origin=f"http://127.0.0.1:{port}")
    stop.signal = 15
    thread.join(10)
    assert not thread.is_alive()


def opened(server, **options):
    headers = {"Cookie": server.cookie}
    return connect(f"ws://127.0.0.1:{server.port}/drive", origin=server.origin, additional_headers=headers, **options)


def test_over_the_wire(listening):
    with opened(listening) as driver:
        assert json.loads(driver.recv(timeout=10))["say"] == "hello"
        pictures = 0
        while pictures < 5:
            pictures += isinstance(driver.recv(timeout=10), bytes)
            driver.send('{"do":"shown"}')
    for wrong in ("http://evil.example", None):
        with pytest.raises(InvalidStatus) as told:
            connect(f"ws://127.0.0.1:{listening.port}/drive", origin=wrong, additional_headers={"Cookie": listening.cookie})
        assert told.value.response.status_code == 403


def test_a_large_message_or_a_bomb_is_not_even_read(listening):
    for message in ("x" * 70_000, "0" * 50_000_000):
        with opened(listening, compression="deflate") as driver, pytest.raises(ConnectionClosed):
            assert "deflate" not in str(driver.protocol.extensions)  # a small message that swells is not possible
            driver.send(message[:70_000])
            for _ in range(500):
                driver.recv(timeout=10)
        assert driver.protocol.close_code == 1009


def test_a_reader_that_never_reads_and_one_that_never_asks_hold_up_nobody(listening):
    with socket.create_connection(("127.0.0.1", listening.port)) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: ")  # and never goes on
        with opened(listening, max_queue=1) as lazy, opened(listening) as driver:
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


def test_headers_that_are_too_large_or_no_http_are_refused(listening):
    large = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 70_000 + b"\r\n\r\n"
    for request in (large, b"\x16\x03\x01\x02\x00\x01" * 100 + b"\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", listening.port)) as raw:
            raw.sendall(request)
            raw.settimeout(5)
            assert raw.recv(100).startswith(b"HTTP/1.1 4")
    page = http.client.HTTPConnection("127.0.0.1", listening.port)
    page.request("GET", "/", headers={"Cookie": listening.cookie})
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
