"""Opens a page of one file in a headless chromium that renders in software."""

import atexit
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

CHROMIUM_FLAGS = (
    "--no-sandbox --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
)
SOFTWARE_GRAPHICS = "--use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader"


@cache
def start_playwright():
    """Starts Playwright once per process, because it refuses a second start."""
    from playwright.sync_api import sync_playwright

    started = sync_playwright().start()
    atexit.register(started.stop)
    return started


def find_chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def open_browser(graphics: str = SOFTWARE_GRAPHICS) -> Iterator:
    """A running chromium, which is closed at the end."""
    if (path := find_chromium()) is None:
        pytest.skip("no chromium and no google-chrome on this machine")
    chromium = start_playwright().chromium.launch(
        executable_path=path, args=[*CHROMIUM_FLAGS.split(), *graphics.split()]
    )
    try:
        yield chromium
    finally:
        chromium.close()


@contextmanager
def open_page(
    file: Path,
    graphics: str = SOFTWARE_GRAPHICS,
    *,
    ready: str = "Boolean(window.quiver)",
    **device: Any,
) -> Iterator[tuple]:
    """A tab with the page, in a window or on a `device`, and the list of the browser's complaints
    and network requests.
    """
    with open_browser(graphics) as chromium:
        tab, complaints = (
            chromium.new_page(**dict(viewport=dict(width=1280, height=900)) | device),
            [],
        )
        tab.set_default_timeout(120_000)  # for a machine with other work
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on(
            "request",
            lambda request: (
                None
                if request.url.startswith(("data:", "file:", "blob:"))
                else complaints.append(request.url[:200])
            ),
        )
        tab.goto(file.as_uri())
        wait_until(tab, ready)
        yield tab, complaints


def wait_until(tab, condition: str) -> None:
    """Waits for a condition in JavaScript; the page's policy forbids Playwright's own way."""
    for _ in range(1000):
        if tab.evaluate(condition):
            return
        tab.wait_for_timeout(50)
    pytest.fail(f"never: {condition}")


def screenshot_canvas(tab) -> np.ndarray:
    """The pixels of the canvas, two frames from now."""
    tab.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return np.array(Image.open(BytesIO(tab.locator("canvas").screenshot())).convert("RGB"))
