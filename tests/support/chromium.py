"""A headless Chromium, spoken to over two pipes in its own protocol (CDP): no driver, no port, nothing else to install.

>>> with Browser() as browser:
...     page = browser.open("<title>hello</title>")
...     page.run("document.title")
'hello'
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

__all__ = ["BINARY", "Browser", "Page"]

BINARY: Final = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "chromium-browser"))), None)
"""The browser's path, None if there is none."""


class Browser:
    """A browser of its own: nothing of it is kept, and it ends with the with block.

    :param patience: how many seconds it may say nothing while it is waited for.
    """

    def __init__(self, patience: float = 60.0) -> None:
        if BINARY is None:
            raise RuntimeError("no Chromium is installed")
        self._folder = tempfile.TemporaryDirectory(prefix="pmuconf-chromium-", ignore_cleanup_errors=True)
        told, self._writing = map(_high, os.pipe())
        self._reading, tells = map(_high, os.pipe())
        # Chromium reads its orders from descriptor 3 and answers on 4.
        command = [
            *("sh", "-c", f'exec "$@" 3</dev/fd/{told} 4>/dev/fd/{tells}', "sh"),
            *(BINARY, "--headless", "--remote-debugging-pipe", f"--user-data-dir={self._folder.name}"),
            *("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--font-render-hinting=none"),
        ]
        self._process = subprocess.Popen(
            command,
            pass_fds=(told, tells),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(told)
        os.close(tells)
        self._patience = patience
        self._number = 0
        self._rest = b""
        self.pages: dict[str, Page] = {}

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._writing)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._reading)
        self._folder.cleanup()

    def open(self, html: str, **how: Any) -> Page:
        """Show this text, as the file that it would be; see visit()."""
        path = Path(self._folder.name) / f"page-{self._number}.html"
        path.write_text(html)
        return self.visit(path.as_uri(), **how)

    def visit(
        self,
        url: str,
        *,
        width: int = 1280,
        height: int = 900,
        dark: bool = False,
        script: bool = True,
        before: str = "",
        **media: str,
    ) -> Page:
        """Show what is there; ``before`` is a script that runs before all of the page's."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self.pages[session] = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.size(width, height)
        page.media(dark=dark, **media)
        if not script:
            page.call("Emulation.setScriptExecutionDisabled", value=True)
        if before:
            page.call("Page.addScriptToEvaluateOnNewDocument", source=before)
        page.call("Page.navigate", url=url)
        self.until(lambda: page.loaded)
        return page

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Give an order and wait for its answer."""
        self._number += 1
        number, order = self._number, {"id": self._number, "method": method, "params": params}
        if session is not None:
            order["sessionId"] = session
        self._write(order)
        answers: list[Mapping[str, Any]] = []
        self.until(
            lambda: bool(answers), lambda message: answers.append(message) if message.get("id") == number else None
        )
        if "error" in answers[0]:
            raise RuntimeError(f"{method}: {answers[0]['error']['message']}")
        result: dict[str, Any] = answers[0]["result"]
        return result

    def until(self, done: Any, take: Any = lambda message: None) -> None:
        """Hear what the browser tells until that is so."""
        end = time.monotonic() + self._patience
        while not done():
            if not select.select([self._reading], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError("the browser says nothing")
            data = os.read(self._reading, 1 << 20)
            if not data:
                raise RuntimeError("the browser ended")
            *messages, self._rest = (self._rest + data).split(b"\0")
            for message in map(json.loads, messages):
                take(message)
                if message.get("sessionId") in self.pages:
                    self.pages[message["sessionId"]].hear(message.get("method", ""), message.get("params", {}))

    def _write(self, order: Mapping[str, Any]) -> None:
        data = json.dumps(order).encode() + b"\0"
        while data:
            data = data[os.write(self._writing, data) :]


class Page:
    """One tab: what is shown there, and what it did."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser, self._session, self._target = browser, session, target
        self.loaded = False
        self.said: list[str] = []
        """What was written to the console, errors and refusals of the page's policy included."""
        self.asked: list[str] = []
        """What the page asked the network or the disk for, itself included."""

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Give an order about this page."""
        return self._browser.call(method, self._session, **params)

    def hear(self, event: str, params: Mapping[str, Any]) -> None:
        """Take note of what happens."""
        if event == "Page.loadEventFired":
            self.loaded = True
        elif event == "Runtime.consoleAPICalled":
            self.said.append(" ".join(str(one.get("value", one.get("description"))) for one in params["args"]))
        elif event == "Runtime.exceptionThrown":
            self.said.append(params["exceptionDetails"].get("exception", {}).get("description", "exception"))
        elif event == "Log.entryAdded":
            self.said.append(params["entry"]["text"])
        elif event == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])
        elif event == "Page.javascriptDialogOpening":
            self.said.append(f"dialog: {params['message']}")

    def wait(self) -> None:
        """Wait until what it was asked to load is there."""
        self._browser.until(lambda: self.loaded)

    def size(self, width: int, height: int, scale: float = 1) -> None:
        """Give the page this much room, in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=scale, mobile=width < 600,
        )  # fmt: skip

    def media(self, *, dark: bool = False, kind: str = "") -> None:
        """Show it as the reader's preferences and this medium (print, say) have it."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", media=kind, features=features)

    def run(self, script: str) -> Any:
        """What this expression gives, as JSON would have it."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def key(self, key: str, text: str = "") -> None:
        """Press a key, as a person does."""
        code = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}.get(key, 0)
        more = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **more, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **more)

    def picture(self, top: int, height: int, *, width: int = 1280) -> bytes:
        """What is shown from there downwards, as PNG."""
        clip = {"x": 0, "y": top, "width": width, "height": height, "scale": 1}
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(shot["data"])

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=True, preferCSSPageSize=False)["data"])

    def close(self) -> None:
        """Close the tab."""
        del self._browser.pages[self._session]
        self._browser.call("Target.closeTarget", targetId=self._target)


def _high(descriptor: int) -> int:
    """The same, by a number that is not 3 or 4."""
    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return copy
