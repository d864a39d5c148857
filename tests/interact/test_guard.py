"""Pages and tokens: what comes to whom, and what everybody else is refused."""

import asyncio

import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")
from drivers import ANSWERED, HOST, ORIGIN, SOCKET
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from hwm.interact.guard import Guard, Keys, Rate
from hwm.interact.server import application
from hwm.interact.session import Host


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


@pytest.mark.fault("B13", ANSWERED)
@pytest.mark.parametrize("path", ["/../server.py", "/..%2fserver.py", "/%2e%2e/guard.py", "/..\\server.py", "//etc/passwd",
                                  "/page/play.js", "/play.js%00", "/drive", "/.html"])  # fmt: skip
def test_no_path_leads_out_of_the_page(served, path):
    assert served().browser.get(path).status_code == 404


@pytest.mark.fault("B13", ANSWERED)
@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1", "127.0.0.1:8001",
                                  "localhost.evil.example:8000", "127.0.0.1:8000.evil.example", ""])  # fmt: skip
def test_a_name_that_was_made_to_point_here_is_refused(served, host):
    made = served()
    assert made.browser.get("/", headers={"host": host}).status_code == 400
    with pytest.raises(WebSocketDisconnect), made.drive(host=host, origin=f"http://{host}"):
        pass


@pytest.mark.fault("B13", ANSWERED)
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", f"https://{HOST}", "http://127.0.0.1:8001",
                                    f"{ORIGIN}.evil.example"])  # fmt: skip
def test_a_socket_of_another_site_is_refused(served, origin):
    with pytest.raises(WebSocketDisconnect), served().drive(origin=origin):
        pass


@pytest.mark.fault("B13", ANSWERED)
def test_a_socket_without_origin_is_refused(served):
    with pytest.raises(WebSocketDisconnect), served().browser.websocket_connect(SOCKET):
        pass


@pytest.mark.fault("B13", ANSWERED)
@pytest.mark.parametrize("cookie", [None, "", "x", "x" * 43, "\u00fc" * 9, "a=b; hwm-8000", '"\\"'])
def test_without_the_cookie_there_is_nothing(served, cookie):
    made = served()
    stranger = TestClient(made.app, base_url=ORIGIN)
    headers = {} if cookie is None else {"cookie": f"hwm-8000={cookie}".encode()}
    assert stranger.get("/", headers=headers).status_code == stranger.get("/play.js", headers=headers).status_code == 403
    with pytest.raises(WebSocketDisconnect), stranger.websocket_connect(SOCKET, headers=headers | {"origin": ORIGIN}):
        pass


@pytest.mark.fault("B13", ANSWERED)
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


@pytest.mark.fault("B13", ANSWERED)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_pages_are_only_read(served, method):
    assert served().browser.request(method, "/").status_code == 405


def test_old_cookies_are_forgotten():
    keys = Keys()
    cookies = [keys.redeem(keys.token) for _ in range(17)]
    assert not keys.known(cookies[0]) and all(map(keys.known, cookies[1:])) and not keys.known("")


@pytest.mark.fault("B13", ANSWERED)
def test_two_headers_of_one_name_are_none(served):
    sent = []

    async def send(message):
        sent.append(message)

    guard = Guard(None, keys=Keys(), hosts=frozenset({HOST}), cookie="c", redeemed=lambda: None)
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [(b"host", HOST.encode())] * 2}
    asyncio.run(guard(scope, None, send))
    assert sent[0]["status"] == 400


def test_a_rate_lets_bursts_pass_and_refills():
    now = [0.0]
    rate = Rate(2, 3, lambda: now[0])
    assert [rate.allows() for _ in range(4)] == [True, True, True, False]
    now[0] = 0.5
    assert [rate.allows() for _ in range(2)] == [True, False]
    now[0] = 100
    assert [rate.allows() for _ in range(4)] == [True, True, True, False]
