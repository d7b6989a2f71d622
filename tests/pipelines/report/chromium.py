"""A page in real Chromium, over its DevTools protocol: how wide it is, what it complains of, what it looks like."""

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import websocket

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
)
COMPLAINTS = {"Runtime.exceptionThrown", "Log.entryAdded", "Network.requestWillBeSent"}


@dataclass
class Page:
    """One tab."""

    socket: websocket.WebSocket
    complaints: list[dict[str, Any]] = field(default_factory=list)
    """Exceptions, log entries (a refused resource among them), and requests beyond the page's own."""
    sent: int = 0

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.sent += 1
        self.socket.send(json.dumps({"id": self.sent, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.sent:
                return message["result"]
            if message.get("method") in COMPLAINTS:
                self.complaints.append(message)

    def evaluate(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def open(self, file: Path, width: int, dark: bool = False) -> None:
        """Show a file at a viewport's width, and wait until it is laid out."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setScrollbarsHidden", hidden=True)
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=file.as_uri())
        until(
            lambda: self.evaluate("document.readyState") == "complete" and self.evaluate("location.protocol") == "file:"
        )

    def overflow(self) -> int:
        """CSS pixels by which the page is wider than the window."""
        return self.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def screenshot(self, target: Path) -> None:
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        target.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """Chromium with an empty profile and one tab."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            port_file = profile / "DevToolsActivePort"
            until(lambda: port_file.exists() and port_file.read_text().count("\n") > 0)
            port = port_file.read_text().splitlines()[0]
            with urlopen(f"http://127.0.0.1:{port}/json") as answer:
                target = next(t for t in json.load(answer) if t["type"] == "page")
            page = Page(websocket.create_connection(target["webSocketDebuggerUrl"], timeout=60))
            for domain in ("Page", "Runtime", "Log", "Network"):
                page.call(f"{domain}.enable")
            yield page
            page.socket.close()
        finally:
            process.terminate()


def until(condition, seconds: float = 60.0) -> None:
    """Wait for a condition of another process."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("Chromium did not get ready")
        time.sleep(0.02)
