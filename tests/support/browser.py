"""Headless Chromium, driven over its DevTools pipe: no driver and no package to install."""

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = ("--disable-gpu", "--no-first-run", "--disable-dev-shm-usage", "--disable-background-networking")
LOCAL = ("file:", "data:", "blob:", "about:")
SECONDS = 60  # for an answer of the browser, on a busy machine
LEFT = ("navigated or closed", "context was destroyed", "Cannot find context", "Cannot find default execution context")


class PageLeftError(RuntimeError):
    """The browser went on to another page before the script's value was there."""


def program():
    """Path of an installed browser, or None."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Browser:
    """One headless browser with one tab.

    Attributes:
        complaints: console errors and uncaught exceptions since ``open``.
        requests: addresses outside this machine that the page asked for since ``open``.
    """

    def __init__(self):
        self.profile = tempfile.TemporaryDirectory()
        self.complaints, self.requests, self.loaded = [], [], set()
        self.sent, self.rest, self.session = 0, b"", None
        ends = [*os.pipe(), *os.pipe()]  # commands and answers, each to read and to write
        theirs, self.output, self.input, answers = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
        for end in ends:
            os.close(end)
        command = [program(), "--headless=new", "--remote-debugging-pipe", "--hide-scrollbars", *QUIET]
        command += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={self.profile.name}"]
        command += ["--no-sandbox"] if os.geteuid() == 0 else []
        # The browser reads commands from descriptor 3 and writes answers to 4.
        placed = ["bash", "-c", f'exec "$@" 3<&{theirs}- 4>&{answers}-', "browser", *command]
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(placed, pass_fds=(theirs, answers), **silent)
        os.close(theirs)
        os.close(answers)
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send("Page.setLifecycleEventsEnabled", enabled=True)

    def close(self):
        """End the browser and remove its profile."""
        self.process.kill()
        self.process.wait()
        os.close(self.input)
        os.close(self.output)
        with contextlib.suppress(OSError):  # a helper process may still be writing
            self.profile.cleanup()

    def _message(self, until):
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.input], [], [], max(0, until - time.monotonic()))
            part = os.read(self.input, 2**20) if ready else b""
            if not part:
                raise TimeoutError("The browser does not answer, or has ended.")
            self.rest += part
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def _note(self, message):
        method, values = message.get("method"), message.get("params", {})
        if method == "Page.lifecycleEvent" and values["name"] == "load":
            self.loaded.add(values["loaderId"])
        elif method == "Runtime.exceptionThrown":
            details = values["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning", "assert"):
            self.complaints.append(" ".join(str(part.get("value", part)) for part in values["args"]))
        elif method == "Log.entryAdded" and values["entry"]["level"] == "error":
            self.complaints.append(f"{values['entry']['text']} {values['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            address = values["request"]["url"]
            if not address.startswith((*LOCAL, "http://127.0.0.1:")):
                self.requests.append(address)

    def send(self, method, **values):
        """Send a DevTools command and return its answer."""
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": values}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.output, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + SECONDS
        while True:
            answer = self._message(until)
            if answer.get("id") == self.sent:
                if "error" in answer:
                    reason = answer["error"]["message"]
                    left = any(part in reason for part in LEFT)
                    raise (PageLeftError if left else RuntimeError)(f"{method}: {reason}")
                return answer["result"]
            self._note(answer)

    def resize(self, width=1400, height=900, dark=False):
        """Set the window's size in pixels, and whether the reader prefers dark pages."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, address, **window):
        """Load a page, ``file:`` or of this machine, in a window as ``resize`` sets it."""
        self.complaints.clear()
        self.requests.clear()
        self.resize(**window)
        answer = self.send("Page.navigate", url=address)
        if "errorText" in answer:
            raise RuntimeError(f"{address}: {answer['errorText']}")
        until = time.monotonic() + SECONDS
        # A page that was still loading has another loader; a place in the same page has none.
        while answer.get("loaderId") not in (None, *self.loaded):
            self._note(self._message(until))

    def run(self, script):
        """Value of a JavaScript expression in the page; promises are awaited."""
        done = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in done:
            details = done["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description", details["text"]))
        return done["result"].get("value")

    def wait_for(self, script):
        """Value of an expression as soon as it is true, also on a page that the browser is about to open."""
        until = time.monotonic() + SECONDS
        while True:
            with contextlib.suppress(PageLeftError):
                if value := self.run(script):
                    return value
            if time.monotonic() > until:
                raise TimeoutError(f"Never true: {script}")
            time.sleep(0.05)

    def press(self, key, text=""):
        """Press and release a key, such as ``Tab`` or ``ArrowRight``."""
        codes = {"Tab": 9, "Enter": 13, " ": 32, "ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35}
        values = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": codes[key]}
        text = text or {"Enter": "\r", " ": " "}.get(key, "")
        self.send("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **values)
        self.send("Input.dispatchKeyEvent", type="keyUp", **values)

    def picture(self, path, whole=False):
        """Write a PNG of the window, or of the whole page."""
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=whole, fromSurface=True)
        Path(path).write_bytes(base64.b64decode(shot["data"]))
