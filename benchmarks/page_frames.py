"""A frame of the page in which a photograph can be pulled, against the same picture drawn as two
triangles, and by drawImage.

The motion is of 256x160 pixels with 16 modes, the photograph of 1920x1080 (the page draws
1280x720), in headless Chromium that draws by its own software, SwiftShader, without a graphics
card. A wind blows, so that every frame is another. A frame is the motion's time steps of 1/60 s and
the drawing of the mesh; the two triangles are WebGL 2 on a canvas of that size and kind, drawImage
is a 2D canvas; reading one pixel back is what ends a frame of each. The processor time is that of
the browser's processes. The last line is what the page's own loop reaches on a display of 60 Hz.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clips import pictures
from benchmarks.memory import family
from benchmarks.rounds import (
    Target,
    Timing,
    arguments,
    medians,
    one_cpu,
    report,
    speedup,
    timings_table,
)
from model.pages.interactive import build_interactive_page
from schemas.spectral_volume import SpectralVolume
from tests.support.pages import find_chromium, open_page

COLUMNS, ROWS, MODES, FRAMES = 256, 160, 16, 150
COUNTS = dict(steps=200, page=10, triangles=40, drawImage=400)
"""Frames of a measurement: enough for a processor clock that ticks in hundredths of a second."""
OWN = 30
GOAL = 3
"""How many times as long as two triangles a frame may take."""
GOAL_MS = 1000 / 30

PEERS = """async () => {
    const image = new Image();
    image.src = "data:image/jpeg;base64," + about.jpeg;
    await image.decode();
    const {width, height} = canvas;
    const newCanvas = () => Object.assign(document.createElement("canvas"), {width, height});
    const plain = newCanvas().getContext("webgl2", {alpha: false, antialias: false});
    const flat = newCanvas().getContext("2d", {alpha: false, willReadFrequently: true});
    const pixel = new Uint8Array(4);
    const program = plain.createProgram();
    for (const [kind, text] of [
        [plain.VERTEX_SHADER, `#version 300 es
            out vec2 at;
            void main() {
                at = vec2(gl_VertexID & 1, gl_VertexID >> 1);
                gl_Position = vec4(at.x * 2. - 1., 1. - at.y * 2., 0, 1);
            }`],
        [plain.FRAGMENT_SHADER, FRAGMENT]]) {
        const shader = plain.createShader(kind);
        plain.shaderSource(shader, text);
        plain.compileShader(shader);
        plain.attachShader(program, shader);
    }
    plain.linkProgram(program); plain.useProgram(program);
    plain.bindTexture(plain.TEXTURE_2D, plain.createTexture());
    plain.texImage2D(plain.TEXTURE_2D, 0, plain.RGBA, plain.RGBA, plain.UNSIGNED_BYTE, image);
    plain.texParameteri(plain.TEXTURE_2D, plain.TEXTURE_MIN_FILTER, plain.LINEAR);
    const read = from => from.readPixels(
        from.drawingBufferWidth / 2, from.drawingBufferHeight / 2, 1, 1,
        from.RGBA, from.UNSIGNED_BYTE, pixel);
    window.ways = {
        steps() { advance(1 / 60); },
        page() { advance(1 / 60); draw(); read(gl); return pixel; },
        triangles() {
            plain.clear(plain.COLOR_BUFFER_BIT);
            plain.drawArrays(plain.TRIANGLE_STRIP, 0, 4);
            read(plain);
            return pixel;
        },
        drawImage() {
            flat.drawImage(image, 0, 0);
            return flat.getImageData(width / 2, height / 2, 1, 1).data;
        },
    };
}"""
LOOP = """count => new Promise(done => { const begin = performance.now();
    requestAnimationFrame(function frame() {
        count-- ? requestAnimationFrame(frame) : done(performance.now() - begin);
    }); })"""


def main() -> None:
    options = arguments(__doc__).parse_args()
    if find_chromium() is None:
        raise SystemExit(
            "there is neither chromium nor google-chrome on this machine: nothing can be measured"
        )
    one_cpu()
    with tempfile.TemporaryDirectory(prefix="quiver-bench-frames-") as folder:
        page = Path(folder) / "page.html"
        page.write_text(
            build_interactive_page(next(pictures("plant", (1920, 1080), 1)), volume(), "Frames"),
            encoding="utf-8",
        )
        with open_page(page, viewport=dict(width=1280, height=800)) as (tab, complaints):
            timings, loop_ms = measure_frames(tab, 1 if options.quick else options.rounds)
            assert not complaints, complaints
    targets = [
        Target(
            name="the page's frame, as a multiple of two triangles",
            goal=GOAL,
            at_most=True,
            **ratio(timings["page"], timings["triangles"]),
        ),
        Target(
            name="the page's frame, as a multiple of drawImage",
            goal=GOAL,
            at_most=True,
            **ratio(timings["page"], timings["drawImage"]),
        ),
        Target(
            name="a frame of the page",
            goal=GOAL_MS,
            reached=1e3 * medians(timings["page"]).clock,
            unit="ms",
            at_most=True,
        ),
        Target(
            name="a frame of its own loop", goal=GOAL_MS, reached=loop_ms, unit="ms", at_most=True
        ),
    ]
    report(
        "page_frames",
        "The page's frames",
        __doc__,
        timings_table(timings, "ms", 1e3),
        targets,
        keep=not options.quick,
    )


def volume() -> SpectralVolume:
    """Draws smooth waves that fall with frequency, a few pixels in all."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:ROWS, :COLUMNS] / ROWS
    frequencies = np.arange(MODES + 1)
    phases = rng.uniform(0, 2 * np.pi, (MODES + 1, 4, 1, 1))
    waves = np.cos(phases + 4 * x + 3 * y) * (FRAMES / (1 + frequencies))[:, None, None, None]
    return SpectralVolume(spectrum=waves.astype(np.float32), fps=30.0, frames=FRAMES, provenance={})


def measure_frames(tab: Any, rounds: int) -> tuple[dict[str, list[Timing]], float]:
    """Seconds a frame of each way in each round, in turns; and milliseconds a frame of the page's
    own loop.
    """
    tab.evaluate(PEERS)
    tab.evaluate("quiver.settings.wind = 1; quiver.tune(); quiver.advance(1)")
    loop_ms = tab.evaluate(LOOP, OWN) / OWN
    tab.evaluate(
        "document.hidden || Object.defineProperty(document, 'hidden', {value: true}); look()"
    )  # its own loop stops
    names = list(COUNTS)
    check_page_draws(tab)
    timings: dict[str, list[Timing]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            timings[name].append(timed(tab, name, COUNTS[name]))
        names.reverse()
    return timings, loop_ms


def check_page_draws(tab: Any) -> None:
    """Checks that all draw the picture: nearly the same color in the middle."""
    tab.evaluate("quiver.settings.magnification = 0")
    colors = np.array(
        [tab.evaluate(f"Array.from(ways.{name}())") for name in ("page", "triangles", "drawImage")]
    )
    assert np.ptp(colors, axis=0).max() <= 24, colors
    tab.evaluate("quiver.settings.magnification = 1")


def timed(tab: Any, name: str, count: int) -> Timing:
    """Returns the seconds of one frame."""
    begin = Timing(time.perf_counter(), tree_seconds())
    tab.evaluate(f"for (let i = 0; i < {count}; i++) ways.{name}()")
    return Timing((time.perf_counter() - begin.clock) / count, (tree_seconds() - begin.cpu) / count)


def tree_seconds() -> float:
    """Returns the processor time of this process and all its descendants."""
    ticks = 0
    for pid in family(os.getpid()):
        try:
            ticks += sum(
                map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])
            )
        except OSError:  # it has ended
            continue
    return ticks / os.sysconf("SC_CLK_TCK")


def ratio(ours: list[Timing], theirs: list[Timing]) -> dict[str, Any]:
    """Compares ours with a peer: the ratio on the clock, its range, and by processor time."""
    target = speedup("", 0, theirs, ours)
    return dict(reached=target.reached, span=target.span, cpu=target.cpu)


if __name__ == "__main__":
    main()
