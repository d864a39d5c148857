"""Debian's chromium, headless, driven over its DevTools protocol: pages, keys, screenshots."""

import base64
import copy
import json
import shutil
import subprocess
import time
from urllib.request import urlopen

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage", "--no-first-run",
    "--remote-debugging-port=0", "--remote-allow-origins=*", "--hide-scrollbars",
)  # fmt: skip


class Browser:
    """A browser with one page; what its console said is in `said`."""

    def __init__(self, profile, *, width=1280, height=900, mobile=False):
        self.process = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        told = profile / "DevToolsActivePort"
        self.until(lambda: told.is_file() and told.read_text().count("\n"), seconds=60)
        self.port = int(told.read_text().split()[0])
        self.said, self._number = [], 0
        self._open(next(page for page in self._get("list") if page["type"] == "page")["webSocketDebuggerUrl"])
        screen = {"width": width, "height": height, "deviceScaleFactor": 2 if mobile else 1, "mobile": mobile}
        self.call("Emulation.setDeviceMetricsOverride", **screen)

    def _get(self, what):
        with urlopen(f"http://127.0.0.1:{self.port}/json/{what}") as answer:
            return json.load(answer)

    def _open(self, url):
        from websockets.sync.client import connect

        self.socket = connect(url, max_size=2**26)
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        self._number += 1
        self.socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv(timeout=30))
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
                self.said.append(message["params"])
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]

    def go(self, url):
        self.call("Page.navigate", url=url)

    def js(self, expression):
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, true, seconds=20):
        end = time.monotonic() + seconds
        while not (found := true()):
            assert time.monotonic() < end, "it did not come to be in time"
            time.sleep(0.05)
        return found

    def another(self):
        """A window of the same browser, which knows its cookies."""
        made, other = self.call("Target.createTarget", url="about:blank", newWindow=True), copy.copy(self)
        other.said, other._number = [], 0
        other._open(next(page for page in self._get("list") if page["id"] == made["targetId"])["webSocketDebuggerUrl"])
        return other

    def press(self, name, share=0.5):
        """Press with the mouse on an element, at this share of its width, and let go."""
        box = f"(b => [b.x + {share} * b.width, b.y + b.height / 2])({name}.getBoundingClientRect())"
        self.js(f"{name}.scrollIntoView({{block: 'center'}})")
        x, y = self.js(box)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def key(self, code, *, down):
        letter = code[-1]
        self.call("Input.dispatchKeyEvent", type="keyDown" if down else "keyUp", code=code, key=letter.lower())

    def look(self, *, full=False):
        """What the screen shows, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=full)["data"])

    def close(self):
        self.socket.close()
        self.process.kill()
        self.process.wait()
