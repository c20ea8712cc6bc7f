"""A page of one file in a headless chromium that draws with its own software."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FLAGS = "--no-sandbox --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
SOFTWARE = "--use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader"


@contextmanager
def opened_page(file: Path, graphics: str = SOFTWARE, *, ready: str = "Boolean(window.quiver)") -> Iterator[tuple]:
    """A tab, and what the browser complained of or asked the network for."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium and no google-chrome on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=[*FLAGS.split(), *graphics.split()])
        tab, complaints = chromium.new_page(viewport=dict(width=1280, height=900)), []
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: None if request.url.startswith(("data:", "file:", "blob:")) else complaints.append(request.url[:200]))
        tab.goto(file.as_uri())
        until(tab, ready)
        yield tab, complaints
        chromium.close()


def until(tab, condition: str) -> None:
    """Waits for it; Playwright's own way is forbidden by the page's policy."""
    for _ in range(200):
        if tab.evaluate(condition):
            return
        tab.wait_for_timeout(50)
    pytest.fail(f"never: {condition}")


def painted(tab) -> np.ndarray:
    """What the canvas shows, two frames from now."""
    tab.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return np.array(Image.open(BytesIO(tab.locator("canvas").screenshot())).convert("RGB"))
