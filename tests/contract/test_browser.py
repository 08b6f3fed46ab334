"""The report in a real browser: headless Chromium, spoken to over its debugging pipe."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.report import page as report_page
from launcher.report.page import write

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from test_report import HOSTILE, write_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.process,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; on Debian: apt-get install chromium"),
]
WIDTHS = (360, 768, 1280)


class Browser:
    """One tab. Everything that the page asks for or complains of is in `events`."""

    def __init__(self, profile: Path) -> None:
        theirs_in, self._to = (fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in os.pipe())
        self._from, theirs_out = (fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in os.pipe())
        argv = [
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            f"--user-data-dir={profile}",
            "--remote-debugging-pipe",
        ]
        null = os.open(os.devnull, os.O_RDWR)
        moves = [(theirs_in, 3), (theirs_out, 4), (null, 0), (null, 1), (null, 2)]
        actions = [(os.POSIX_SPAWN_DUP2, fd, target) for fd, target in moves]
        self._pid = os.posix_spawn(CHROMIUM, argv, dict(os.environ), file_actions=actions, setsid=True)
        os.close(theirs_in)
        os.close(theirs_out)
        self._buffer, self._number, self._session = b"", 0, None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params}
        if self._session and not method.startswith("Target."):
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(deadline - time.monotonic(), 0))
            assert ready, "the browser says nothing"
            self._buffer += os.read(self._from, 1 << 20)
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, page: Path, width: int) -> None:
        self.events.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
        )
        self.call("Page.navigate", url=page.as_uri())
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self._next())

    def ask(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def close(self) -> None:
        os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of a finished run, of a hostile failed one with words that cannot be broken, and of many runs compared."""
    folder = tmp_path_factory.mktemp("runs")
    wall = "x" * 400
    runs = [write_run(folder / f"run{i}-{wall[:150]}", learning_rate=i * 1e-5, name=f"n{i}") for i in range(6)]
    hostile = write_run(
        folder / "hostile", name=HOSTILE + wall, label_names=(wall, "差评"), text=HOSTILE + wall, failed=True
    )
    out = {"one": runs[:1], "hostile": [hostile], "compared": [*runs, hostile]}
    for name, paths in out.items():
        write(report_page.load_all(paths), folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in out}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["one", "hostile", "compared"])
def test_it_asks_for_nothing_complains_of_nothing_and_fits(
    browser: Browser, pages: dict[str, Path], name: str, width: int
):
    """No request but for the page itself, no word on the console, no scrolling sideways."""
    browser.open(pages[name], width)
    wide = browser.ask("document.documentElement.scrollWidth")
    asked = {e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"}
    said = [
        e
        for e in browser.events
        if e.get("method")
        in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Page.javascriptDialogOpening")
    ]

    assert wide <= width
    assert {pages[name].as_uri()} == {url for url in asked if not url.startswith("data:")}
    assert [] == said


def test_charts_are_drawn(browser: Browser, pages: dict[str, Path]):
    """Each has a size and a visible curve, in the page's colours; text is at least 8 pixels high on a telephone."""
    browser.open(pages["one"], 360)
    count = browser.ask("document.querySelectorAll('figure svg').length")
    visible = browser.ask(
        "[...document.querySelectorAll('figure svg')].filter(s => s.getBoundingClientRect().height > 100 &&"
        " [...s.querySelectorAll('path')].some(p => getComputedStyle(p).stroke == 'rgb(11, 98, 168)' || "
        "getComputedStyle(p).stroke == 'rgb(196, 86, 10)')).length"
    )
    sizes = browser.ask(
        "[...document.querySelectorAll('svg text')].map(t => parseFloat(getComputedStyle(t).fontSize) *"
        " t.ownerSVGElement.getBoundingClientRect().width / t.ownerSVGElement.viewBox.baseVal.width)"
    )

    assert (True, count) == (count >= 6, visible)
    assert min(sizes) >= 8


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(browser: Browser, pages: dict[str, Path], scheme: str):
    """Contrast of text on paper is at least 4.5 to 1 in both schemes (WCAG 2.1, AA)."""
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(pages["one"], 1280)
    names = ["text", "quiet", "accent", "good", "bad", "wait"]
    colours = browser.ask(
        "['paper', " + ", ".join(f"'{n}'" for n in names) + "].map(n => getComputedStyle(document.documentElement)"
        ".getPropertyValue('--' + n).trim())"
    )
    browser.call("Emulation.setEmulatedMedia", features=[])
    paper, *inks = map(_luminance, colours)
    contrast = {n: (max(paper, ink) + 0.05) / (min(paper, ink) + 0.05) for n, ink in zip(names, inks, strict=True)}

    assert {} == {name: value for name, value in contrast.items() if value < 4.5}


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
