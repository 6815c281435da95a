"""Chromium without a window, by its devtools protocol: as much of it as looking at one page takes, and nothing to install for it."""

import base64
import json
import os
import pathlib
import shutil
import socket
import struct
import urllib.request

from lab import START_SECONDS, Failed, Lab, until

# What the browser is called, by distribution.
NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
# Of one key: its code, and the text that it makes.
KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), "Escape": (27, ""), "ArrowRight": (39, ""), "/": (191, "/")}


class Browser:
    """One tab."""

    def __init__(self, mesh: Lab, name: str = "chromium"):
        program = next((found for one in NAMES if (found := shutil.which(one))), None)
        if program is None:
            raise Failed(f"there is no browser: none of {', '.join(NAMES)} (Debian: apt-get install chromium)")
        profile = mesh.folder / f"{name}-profile"
        # Without its sandbox, which a container does not let it have: it looks at our page alone.
        process = mesh.start(name, [
            program, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
            "--disable-dev-shm-usage", "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank",
        ])
        port = process.logged("DevTools listening on ws://127.0.0.1:").split("/")[0]
        tabs = until("a tab", lambda: [tab for tab in _asked(port) if tab["type"] == "page"])
        self._socket = socket.create_connection(("127.0.0.1", int(port)), START_SECONDS)
        path = tabs[0]["webSocketDebuggerUrl"].split(port, 1)[1]
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall((f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                              f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n").encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._read(1)
        self._last = 0
        # What the page complained of: exceptions, and what its policy forbade.
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params) -> dict:
        self._last += 1
        self._send(json.dumps({"id": self._last, "method": method, "params": params}).encode())
        while (said := self._message()).get("id") != self._last:
            if said["method"] == "Runtime.exceptionThrown":
                self.complaints.append(str(said["params"]["exceptionDetails"]))
            elif said["method"] == "Log.entryAdded" and said["params"]["entry"]["level"] == "error":
                self.complaints.append(said["params"]["entry"]["text"])
        if "error" in said:
            raise Failed(f"{method}: {said['error']}")
        return said["result"]

    def open(self, url: str, width: int = 1440, height: int = 860):
        self.size(width, height)
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)

    def size(self, width: int, height: int):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def prefer(self, scheme: str):
        """Dark or light."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def run(self, script: str):
        """What an expression gives in the page."""
        said = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in said:
            raise Failed(f"{script}: {said['exceptionDetails']}")
        return said["result"].get("value")

    def until(self, what: str, script: str, limit: float = START_SECONDS):
        """The first true answer of an expression; while a page is loaded there is none."""

        def look():
            try:
                return self.run(script)
            except Failed:
                return None

        return until(f"{what} ({script})", look, limit)

    def press(self, key: str):
        code, text = KEYS[key]
        typed = {"text": text} if text else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **(typed if kind == "keyDown" else {}))

    def picture(self, path: pathlib.Path):
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def _send(self, payload: bytes):
        """One masked frame of text (RFC 6455)."""
        mask = os.urandom(4)
        length = len(payload)
        if length < 126:
            head = struct.pack(">BB", 0x81, 0x80 | length)
        elif length < 1 << 16:
            head = struct.pack(">BBH", 0x81, 0x80 | 126, length)
        else:
            head = struct.pack(">BBQ", 0x81, 0x80 | 127, length)
        self._socket.sendall(head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload)))

    def _message(self) -> dict:
        whole = b""
        while True:
            first, second = self._read(2)
            length = second & 0x7F
            if length == 126:
                length = struct.unpack(">H", self._read(2))[0]
            elif length == 127:
                length = struct.unpack(">Q", self._read(8))[0]
            whole += self._read(length)
            if first & 0x80:
                return json.loads(whole)

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            if not (more := self._socket.recv(count - len(data))):
                raise Failed("the browser closed its devtools")
            data += more
        return bytes(data)


def _asked(port: str) -> list:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=START_SECONDS) as answer:
        return json.load(answer)
