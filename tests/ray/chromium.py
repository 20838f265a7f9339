"""A headless Chromium, driven through its DevTools protocol: no package needed."""

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import websocket

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)
KEYS = {"Tab": (9, ""), "Enter": (13, "\r")}
WAIT_S = 30


class Page:
    """A tab: what it does, which requests it made, and what it complained of."""

    def __init__(self, socket: websocket.WebSocket) -> None:
        self.socket, self.numbers = socket, itertools.count(1)
        self.requested: list[str] = []
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Network", "DOM", "Log"):
            self.command(f"{domain}.enable")

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command, and note the events that come before its answer."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        self.socket.send(json.dumps(message))
        while (answer := json.loads(self.socket.recv())).get("id") != number:
            event, said = answer.get("method"), answer.get("params", {})
            if event == "Network.requestWillBeSent":
                self.requested.append(said["request"]["url"])
            if event in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(said))
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def open(self, url: str, width: int, height: int) -> None:
        phone = {"mobile": width < 600, "deviceScaleFactor": 1}
        size = {"width": width, "height": height}
        self.command("Emulation.setDeviceMetricsOverride", **size, **phone)
        self.command("Page.navigate", url=url)
        self.until(f"document.readyState === 'complete' && location.href === '{url}'")

    def run(self, script: str) -> Any:
        """Evaluate JavaScript in the page; a promise is waited for."""
        options = {"returnByValue": True, "awaitPromise": True}
        answer = self.command("Runtime.evaluate", expression=script, **options)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until JavaScript gives something that is true."""
        deadline = time.monotonic() + WAIT_S
        while not self.run(f"Boolean({script})"):
            assert time.monotonic() < deadline, (script, self.text())
            time.sleep(0.05)

    def text(self) -> str:
        return str(self.run("document.body.innerText"))

    def press(self, key: str) -> None:
        code, text = KEYS[key]
        for kind in ("keyDown", "keyUp"):
            options: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": code}
            if text and kind == "keyDown":
                options["text"] = text
            self.command("Input.dispatchKeyEvent", type=kind, **options)

    def type(self, text: str) -> None:
        self.command("Input.insertText", text=text)

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file, as in the browser's dialogue."""
        root = self.command("DOM.getDocument")["root"]["nodeId"]
        node = self.command("DOM.querySelector", nodeId=root, selector=selector)
        files = {"nodeId": node["nodeId"], "files": [str(file)]}
        self.command("DOM.setFileInputFiles", **files)

    def screenshot(self, file: Path) -> None:
        """Take a picture of the whole page."""
        root = "document.documentElement"
        width, height = self.run(f"[{root}.clientWidth, {root}.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        options = {"captureBeyondViewport": True, "clip": clip}
        shot = self.command("Page.captureScreenshot", **options)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[Page]:
    """Run a browser with a profile of its own, and open a tab in it."""
    options = [f"--user-data-dir={folder}", "--remote-debugging-port=0"]
    with open(folder / "chromium.log", "w") as log:
        process = subprocess.Popen(
            [CHROMIUM, *FLAGS, *options, "about:blank"], stdout=log, stderr=log
        )
    try:
        file, deadline = folder / "DevToolsActivePort", time.monotonic() + WAIT_S
        while not file.is_file() or not file.read_text().strip():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        port = file.read_text().split()[0]
        tabs = httpx.get(f"http://127.0.0.1:{port}/json", trust_env=False).json()
        url = next(t["webSocketDebuggerUrl"] for t in tabs if t["type"] == "page")
        options_: dict[str, Any] = {"timeout": WAIT_S, "suppress_origin": True}
        socket = websocket.create_connection(url, http_no_proxy=["*"], **options_)
        with contextlib.closing(socket):
            yield Page(socket)
    finally:
        process.terminate()
        process.wait(WAIT_S)
