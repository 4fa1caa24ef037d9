"""Debian's chromium without a window, driven through a pipe by its DevTools protocol: real keys and pages."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(
    not CHROMIUM and os.environ.get("VIDCLF_REQUIRE_SERVICES") != "1", reason="Debian's chromium is missing"
)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--no-first-run"]
_SECONDS = 60.0
_CODES = {"Escape": 27, "Tab": 9}


class Browser:
    """A page of chromium; used as a context."""

    def __init__(self, profile: Path) -> None:
        self._profile = profile

    def __enter__(self) -> Self:
        assert CHROMIUM
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        wired = ["bash", "-c", f'exec "$0" "$@" 3<&{commands} 4>&{answers}', CHROMIUM, *FLAGS]
        self._process = subprocess.Popen(
            [*wired, "--remote-debugging-pipe", f"--user-data-dir={self._profile}", "about:blank"],
            pass_fds=(commands, answers),
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._numbers, self._buffer, self._session = itertools.count(1), b"", ""
        pages = self.call("Target.getTargets")["targetInfos"]
        target = next(page["targetId"] for page in pages if page["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(timeout=30)
        os.close(self._write)
        os.close(self._read)

    def call(self, method: str, **params: Any) -> Any:
        """The result of a command of the protocol."""
        number = next(self._numbers)
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": number, "method": method, "params": params, **session}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._buffer:
                read = os.read(self._read, 1 << 20)
                assert read, "chromium has ended"
                self._buffer += read
            answer, _, self._buffer = self._buffer.partition(b"\0")
            found = json.loads(answer)
            if found.get("id") == number:
                assert "error" not in found, found
                return found["result"]

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def open(self, link: str) -> None:
        self.call("Page.navigate", url=link)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def wait_for(self, condition: str) -> None:
        end = time.monotonic() + _SECONDS
        while not self.evaluate(condition):
            assert time.monotonic() < end, (condition, self.text)
            time.sleep(0.02)

    @property
    def text(self) -> str:
        """What can be read on the page."""
        return str(self.evaluate("document.body.innerText"))

    def press(self, key: str) -> None:
        """Presses and releases a key, as a keyboard does."""
        code = _CODES[key] if key in _CODES else ord(key.upper())
        event = {"key": key, "windowsVirtualKeyCode": code}
        text = {"type": "rawKeyDown"} if key in _CODES else {"type": "keyDown", "text": key}
        self.call("Input.dispatchKeyEvent", **text, **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def picture(self, path: Path, width: int, height: int, *, dark: bool = False) -> None:
        """Writes what a window of that size shows."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))
