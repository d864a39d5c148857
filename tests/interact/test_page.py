"""The page in a real browser: it connects, shows pictures, and what a key does comes back in them."""

import threading
import time

import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")
from browser import CHROMIUM, Browser

from hwm.interact.server import serve
from hwm.interact.session import Host
from hwm.work.signals import StopFlag

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


def text(browser, name):
    return browser.js(f"document.getElementById('{name}')?.textContent")


def test_a_person_drives_in_a_browser(studio, tmp_path):
    said, stop = [], StopFlag()
    host = Host(studio, folder=tmp_path / "drives")
    thread = threading.Thread(target=serve, args=(host,), kwargs={"port": 0, "say": said.append, "stop": stop})
    thread.start()
    while not said:
        time.sleep(0.01)
    browser = Browser(tmp_path)
    try:
        browser.go(said[0].removeprefix("open "))
        browser.until(lambda: "follows the recorded states" in str(text(browser, "driven")), seconds=60)
        assert "token" not in browser.js("location.href") and text(browser, "run") == "tiny"
        browser.key("KeyQ", down=True)
        browser.until(lambda: "driven by you" in text(browser, "driven"), seconds=30)
        browser.until(lambda: "p50" in text(browser, "measured"), seconds=30)
        browser.key("KeyQ", down=False)
        canvas = "document.getElementById('dream')"
        levels_of = "new Set(c.getContext('2d').getImageData(0, 0, 32, 32).data).size"
        drawn = f"(c => [c.width, {levels_of}])({canvas})"
        width, levels = browser.js(drawn)
        assert width == 32 and levels > 2
        browser.js("(o => { o.value = 'doubt'; o.onchange() })(document.getElementById('overlay'))")
        browser.until(lambda: "predicted change" in text(browser, "overlaid"), seconds=30)
        browser.go(browser.js("location.href"))  # the same browser comes again without the link
        browser.until(lambda: "follows the recorded states" in str(text(browser, "driven")), seconds=60)
        bad = [said for said in browser.said if "exceptionDetails" in said or said.get("entry", {}).get("level") == "error"]
        assert not bad
    finally:
        browser.close()
        stop.signal = 15
        thread.join(10)
