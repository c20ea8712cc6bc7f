"""The page of one file, in a real browser: what it does to a picture is what model/motion/modal.py
says.
"""

import json
import re
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.motion.modal import (
    Modes,
    displacement,
    drag,
    exact_step,
    impulse,
    make_wind,
    rest_state,
    to_modes,
)
from model.pages.interactive import build_interactive_page, resample_to_mesh
from pipeline.motion.spectrum import to_motion
from schemas.spectral_volume import SpectralVolume
from tests.support.pages import open_page, screenshot_canvas, wait_until

T, FPS, K, H, W = 150, 30.0, 16, 80, 128
TITLE = "A <b> & @DATA@"
POINT = (40, 32)
"""Row and column in the half that moves."""


def volume(height: int = H, width: int = W) -> SpectralVolume:
    """Smooth waves that fall with frequency; the right half stands still."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width] / height
    envelope = np.clip(1.2 - 2 * x * height / width, 0, None) * (x * height / width < 0.5)
    amplitudes = rng.normal(size=(K, 4, 1, 1)) * (2 * T / (1 + np.arange(K)))[:, None, None, None]
    return SpectralVolume(
        spectrum=(amplitudes * envelope * np.cos(x + y)).astype(np.float32),
        fps=FPS,
        frames=T,
        provenance={},
    )


def photograph(height: int = 2 * H, width: int = 2 * W) -> np.ndarray:
    return (
        np.random.default_rng(1)
        .integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        .repeat(8, 0)
        .repeat(8, 1)
    )


def modes() -> Modes:
    spectrum = volume().spectrum
    return to_modes(resample_to_mesh(spectrum[:, ::2] + 1j * spectrum[:, 1::2]), T, FPS)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(build_interactive_page(photograph(), volume(), TITLE), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def page(file) -> Iterator:
    with open_page(file) as (tab, complaints):
        tab.evaluate("quiver.pause(true)")
        yield tab
        assert not complaints


@pytest.fixture
def tab(page):
    """Nothing moves, and time stands still."""
    page.evaluate("quiver.pause(true)")
    page.click("#rest")
    return page


def moved(tab, row: int, column: int) -> np.ndarray:
    return np.array(tab.evaluate(f"quiver.displacement({column}, {row})"))


@pytest.mark.slow
def test_a_drag_and_its_release_are_those_of_modal(tab):
    m, (row, column) = modes(), POINT
    for index, wanted in enumerate(np.linspace((1, 0), (9, -4), 5)):
        state = drag(m, row, column, wanted)
        tab.evaluate(f"quiver.dragTo({column}, {row}, {wanted[0]}, {wanted[1]})")
        np.testing.assert_allclose(
            moved(tab, row, column), displacement(m, state)[:, row, column], atol=0.05
        )
        assert index or np.abs(displacement(m, state)[:, row, column]).max() > 0.5
    for _ in range(20):
        tab.evaluate("quiver.advance(0.1)")
        state = exact_step(m, state, 0.1)
        for place in (POINT, (10, 10), (70, 50), (40, 100)):
            np.testing.assert_allclose(
                moved(tab, *place), displacement(m, state)[:, place[0], place[1]], atol=0.05
            )


@pytest.mark.parametrize(("stiffness", "damping"), [(1.0, 1.0), (0.5, 0.1), (2.0, 4.0)])
def test_a_blow_in_any_damping_is_that_of_modal(tab, stiffness, damping):
    """From under- to overdamped; the two of critical damping meet in modal's own tests."""
    m = modes()
    omega = m.omega * stiffness**0.5
    m = m._replace(omega=omega, gamma=damping * (0.4 + 0.08 * omega**2))
    tab.evaluate(
        f"Object.assign(quiver.settings, {{stiffness: {stiffness}, damping: {damping}}});"
        " quiver.tune()"
    )
    state = impulse(m, rest_state(m), *POINT, np.array([60.0, 20.0]))
    tab.evaluate(f"quiver.impulse({POINT[1]}, {POINT[0]}, 60, 20)")
    for _ in range(20):
        tab.evaluate("quiver.advance(0.05)")
        state = exact_step(m, state, 0.05)
        np.testing.assert_allclose(
            moved(tab, *POINT), displacement(m, state)[:, POINT[0], POINT[1]], atol=0.05
        )
    tab.evaluate("Object.assign(quiver.settings, {stiffness: 1, damping: 1}); quiver.tune()")


def test_the_wind_is_that_of_modal(tab):
    m, dt = modes(), 1 / 120
    wind, state = make_wind(m, 1.0, 0), rest_state(m)
    tab.click("#play")
    tab.click("#rest")  # time is 0
    tab.evaluate("quiver.settings.wind = 1; quiver.tune()")
    for tick in range(240):
        state = exact_step(m, state, dt, wind.force((tick + 0.5) * dt))
        if tick % 12 == 11:
            tab.evaluate("quiver.advance(0.1)")
            np.testing.assert_allclose(
                moved(tab, *POINT), displacement(m, state)[:, POINT[0], POINT[1]], atol=0.05
            )
    tab.evaluate("quiver.settings.wind = 0; quiver.tune()")


def test_it_plays_the_recorded_motion_in_a_loop(tab):
    spectrum = (
        volume().spectrum[:, ::2, POINT[0] : POINT[0] + 1, POINT[1] : POINT[1] + 1]
        + 1j * volume().spectrum[:, 1::2, POINT[0] : POINT[0] + 1, POINT[1] : POINT[1] + 1]
    )
    expected = to_motion(spectrum, T)[:, :, 0, 0]
    expected -= expected.mean(axis=0)
    tab.click("#play")
    for frame in range(15, 2 * T, 15):
        tab.evaluate("quiver.advance(0.5)")
        np.testing.assert_allclose(moved(tab, *POINT), expected[frame % T], atol=0.05)


@pytest.mark.slow
def test_a_mouse_pulls_the_moving_half_alone_and_it_comes_to_rest(tab):
    still = screenshot_canvas(tab)
    box = tab.locator("canvas").bounding_box()
    x, y = box["x"] + 0.25 * box["width"], box["y"] + 0.5 * box["height"]
    tab.mouse.move(x, y)
    tab.mouse.down()
    tab.mouse.move(x + 0.02 * box["width"], y, steps=3)
    tab.evaluate("quiver.advance(1)")
    np.testing.assert_allclose(moved(tab, H // 2, W // 4), (0.02 * W, 0), atol=0.5)
    tab.mouse.move(x + 0.2 * box["width"], y, steps=3)
    tab.evaluate("quiver.advance(1)")
    farthest = max(
        np.hypot(*moved(tab, row, column)) for row in range(0, H, 4) for column in range(0, W, 4)
    )
    assert 0.07 * W < farthest < 0.09 * W  # however far it is pulled, nothing is torn away
    pulled = screenshot_canvas(tab)
    changed = np.abs(pulled.astype(int) - still).max(axis=2) > 24
    columns = changed.shape[1]
    assert changed[:, : columns // 3].mean() > 0.2
    assert not changed[:, columns * 2 // 3 :].any()
    tab.mouse.up()
    tab.evaluate("quiver.advance(0.2)")
    assert np.abs(moved(tab, *POINT)).max() > 0.2
    tab.evaluate("quiver.advance(60)")
    assert np.abs(screenshot_canvas(tab).astype(int) - still).max() <= 8


@pytest.fixture(scope="module")
def phone(file) -> Iterator:
    """A tab under fingers; nothing moves by itself."""
    with open_page(file, viewport=dict(width=390, height=844), has_touch=True, is_mobile=True) as (
        tab,
        complaints,
    ):
        tab.evaluate("quiver.pause(true)")
        yield tab
        assert not complaints


class Hand:
    """Fingers on a tab, at places given in shares of the canvas; `touch` says where each is now and
    what has just happened.
    """

    def __init__(self, tab):
        self.tab, self.box, self.driver = (
            tab,
            tab.locator("canvas").bounding_box(),
            tab.context.new_cdp_session(tab),
        )

    def touch(self, event: str, *places: tuple[float, float]) -> None:
        points = [
            dict(
                id=i,
                x=self.box["x"] + x * self.box["width"],
                y=self.box["y"] + y * self.box["height"],
            )
            for i, (x, y) in enumerate(places)
        ]
        self.driver.send("Input.dispatchTouchEvent", dict(type=event, touchPoints=points))

    def pull(self) -> None:
        """One finger, 0.02 widths to the right and down by half the canvas: enough to scroll a page
        that can be scrolled.
        """
        self.touch("touchStart", (0.25, 0.4))
        for moves in range(1, 11):
            self.touch("touchMove", (0.25 + 0.002 * moves, 0.4 + 0.05 * moves))
        self.tab.evaluate("quiver.advance(1)")


@pytest.mark.slow
def test_a_finger_pulls_the_picture_and_not_the_page(phone):
    phone.set_viewport_size(dict(width=390, height=300))
    hand = Hand(phone)
    assert phone.evaluate("document.documentElement.scrollHeight") > 400
    hand.pull()
    assert phone.evaluate("[scrollX, scrollY]") == [0, 0]
    assert moved(phone, H * 2 // 5, W // 4)[1] > 1
    hand.touch("touchEnd")
    phone.evaluate("quiver.advance(60)")
    assert np.abs(moved(phone, *POINT)).max() < 0.01
    phone.set_viewport_size(dict(width=390, height=844))


@pytest.mark.parametrize("end", ["touchEnd", "touchCancel"])
def test_a_second_finger_changes_nothing_until_the_first_has_gone(phone, end):
    phone.click("#rest")
    hand = Hand(phone)
    hand.pull()
    pulled = moved(phone, *POINT)
    assert np.abs(pulled).max() > 1
    hand.touch("touchStart", (0.27, 0.9), (0.3, 0.2))
    hand.touch("touchMove", (0.27, 0.9), (0.4, 0.6))
    phone.evaluate("quiver.advance(1)")
    np.testing.assert_allclose(moved(phone, *POINT), pulled, atol=0.05)
    assert phone.evaluate("visualViewport.scale") == 1
    hand.touch(end)
    phone.evaluate("quiver.advance(60)")
    assert np.abs(moved(phone, *POINT)).max() < 0.01


LOSE = (
    "window.card = document.querySelector('canvas').getContext('webgl2')"
    ".getExtension('WEBGL_lose_context')"
)


@pytest.mark.slow
def test_a_lost_context_is_told_of_and_the_picture_comes_back(file):
    with open_page(file) as (tab, complaints):
        tab.evaluate("quiver.pause(true)")
        tab.evaluate(f"quiver.dragTo({POINT[1]}, {POINT[0]}, 4, 0)")
        before = screenshot_canvas(tab)
        assert not tab.locator("#lost").is_visible()
        tab.evaluate(f"{LOSE}; card.loseContext()")
        wait_until(tab, "!document.getElementById('lost').hidden")
        assert "comes back" in tab.inner_text("main")
        gone = screenshot_canvas(tab)
        tab.evaluate("card.restoreContext()")
        wait_until(tab, "document.getElementById('lost').hidden")
        np.testing.assert_array_equal(screenshot_canvas(tab), before)
        assert np.abs(gone.astype(int) - before).mean() > 20
        assert all(
            "CONTEXT_LOST_WEBGL" in complaint for complaint in complaints
        )  # by which the browser reports our own call


def test_without_webgl_2_there_is_a_sentence_and_nothing_to_press(file):
    with open_page(
        file, "--disable-gpu --disable-3d-apis", ready="!document.getElementById('sorry').hidden"
    ) as (tab, _):
        assert "needs WebGL 2" in tab.inner_text("main")
        assert not tab.locator("canvas, button, input").locator("visible=true").count()
        assert (
            tab.locator("img").bounding_box()["width"] > 500
            and tab.locator("img").get_attribute("alt") == TITLE
        )


def test_a_page_whose_picture_is_damaged_says_so(file, tmp_path):
    damaged = tmp_path / "damaged.html"
    damaged.write_text(
        re.sub(r'"jpeg": "[^"]{1000}', '"jpeg": "' + "A" * 1000, file.read_text(encoding="utf-8")),
        encoding="utf-8",
    )
    with open_page(damaged, ready="!document.getElementById('sorry').hidden") as (tab, _):
        assert "cannot move here" in tab.inner_text("main")


PLACES = ((40, 32), (10, 10), (70, 50))
SLEEP = """([n, places]) => new Promise(done => {
    // what is seen in n frames, after half of which the page sleeps for two seconds
    const seen = [];
    requestAnimationFrame(function frame() {
        seen.push(places.map(([row, column]) => quiver.displacement(column, row)));
        if (seen.length === n / 2)
            for (const end = performance.now() + 2000; performance.now() < end;);
        seen.length < n ? requestAnimationFrame(frame) : done(seen);
    });
})"""


@pytest.mark.slow
def test_after_a_long_pause_the_motion_goes_on_where_it_was(tab):
    m, tick = modes(), 1 / 120
    state = impulse(m, rest_state(m), *POINT, np.array([60.0, 20.0]))
    path = [state := exact_step(m, state, tick) for _ in range(1200)]
    path = np.stack(
        [np.stack([displacement(m, at)[:, row, column] for row, column in PLACES]) for at in path]
    )
    tab.evaluate(f"quiver.impulse({POINT[1]}, {POINT[0]}, 60, 20); quiver.pause(false)")
    seen = np.array(tab.evaluate(SLEEP, [12, PLACES]))
    tab.evaluate("quiver.pause(true)")
    apart = np.abs(seen[:, None] - path).max(axis=(2, 3))
    when = tick * apart.argmin(axis=1)
    assert apart.min(axis=1)[1:].max() < 0.05  # on the exact path, at every time
    steps = np.diff(when[1:])
    assert (steps > -1e-9).all() and steps.max() < 0.1 + 2 * tick


@contextmanager
def hidden(tab) -> Iterator[None]:
    """The page believes that it is in a tab behind another; the browser itself cannot be brought to
    hide one while it is driven.
    """
    say = "document.dispatchEvent(new Event('visibilitychange'))"
    tab.evaluate(
        f"Object.defineProperty(document, 'hidden', {{value: true, configurable: true}}); {say}"
    )
    yield
    tab.evaluate(f"delete document.hidden; {say}")


@pytest.mark.slow
def test_a_hidden_page_asks_for_no_frames_and_lets_go(file):
    with open_page(file) as (tab, complaints):
        tab.evaluate(
            "window.frames = 0; const ask = requestAnimationFrame;"
            " requestAnimationFrame = f => { window.frames++; return ask(f); }; 0"
        )
        hand = tab.locator("canvas").bounding_box()
        tab.mouse.move(hand["x"] + 0.25 * hand["width"], hand["y"] + 0.5 * hand["height"])
        tab.mouse.down()
        tab.mouse.move(hand["x"] + 0.27 * hand["width"], hand["y"] + 0.5 * hand["height"])
        wait_until(tab, f"quiver.displacement({POINT[1]}, {POINT[0]})[0] > 1")
        with hidden(tab):
            asked, at = tab.evaluate("window.frames"), moved(tab, *POINT)
            tab.wait_for_timeout(500)
            assert tab.evaluate("window.frames") == asked
            np.testing.assert_array_equal(moved(tab, *POINT), at)
        wait_until(tab, f"window.frames > {asked + 5}")
        wait_until(
            tab, f"Math.abs(quiver.displacement({POINT[1]}, {POINT[0]})[0]) < 0.1"
        )  # though the button is still down
        assert not complaints


def test_what_stands_still_is_not_drawn_again(tab):
    tab.evaluate(
        "window.draws = 0; const draw = WebGL2RenderingContext.prototype.drawArrays;"
        "WebGL2RenderingContext.prototype.drawArrays = function (...what)"
        " { window.draws++; draw.apply(this, what); }; 0"
    )
    screenshot_canvas(tab)
    before = tab.evaluate("window.draws")
    tab.wait_for_timeout(300)
    assert tab.evaluate("window.draws") == before
    tab.evaluate(f"quiver.dragTo({POINT[1]}, {POINT[0]}, 0.01, 0)")
    screenshot_canvas(tab)
    assert tab.evaluate("window.draws") > before


def test_keys_nudge(tab):
    tab.focus("canvas")
    tab.evaluate(
        "document.querySelector('canvas').addEventListener("
        "'keydown', event => event.altKey && event.preventDefault())"
    )  # goes back otherwise
    for key in ("Alt+ArrowLeft", "Control+ArrowUp", "a"):
        tab.keyboard.press(key)
    tab.evaluate("quiver.advance(0.1)")
    assert not moved(tab, *POINT).any()
    tab.keyboard.press("ArrowRight")
    tab.evaluate("quiver.advance(0.1)")
    once = moved(tab, *POINT)
    assert np.abs(once).max() > 0.5
    tab.click("#rest")
    tab.focus("canvas")
    for _ in range(5):
        tab.keyboard.down("ArrowRight")  # held: from the second on a repetition
    tab.evaluate("quiver.advance(0.1)")
    np.testing.assert_allclose(moved(tab, *POINT), once)
    tab.keyboard.up("ArrowRight")


CONTROLS = ("canvas", "Play", "Rest", "Record", "Stiffness", "Damping", "Magnification", "Wind")


def test_every_control_is_reached_by_tab_seen_in_focus_and_named(tab):
    tab.evaluate("(e => { e.tabIndex = -1; e.focus(); })(document.querySelector('h1'))")
    plain = "(e => getComputedStyle(e).outlineStyle)(document.querySelector('#play'))"
    assert tab.evaluate(plain) == "none"
    for name in CONTROLS:
        tab.keyboard.press("Tab")
        focused, style, width = tab.evaluate("""(e => [
                e.tagName === 'CANVAS' ? 'canvas' : (e.labels?.[0] ?? e).textContent.trim(),
                getComputedStyle(e).outlineStyle,
                parseFloat(getComputedStyle(e).outlineWidth),
            ])(document.activeElement)""")
        assert focused.startswith(name) and style == "solid" and width >= 2
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate("quiver.settings.wind") == pytest.approx(0.1)
    assert tab.get_attribute("#wind", "aria-valuetext") == "0.10 times"
    tab.keyboard.press("ArrowLeft")
    tab.focus("#play")
    tab.keyboard.press("Space")
    assert tab.get_attribute("#play", "aria-pressed") == "true"
    assert (
        "arrow keys" in tab.get_attribute("canvas", "aria-label")
        and tab.get_attribute("canvas", "role") == "application"
    )


@pytest.fixture(scope="module")
def upright(file) -> Path:
    path = file.with_name("upright.html")
    path.write_text(
        build_interactive_page(photograph(256, 192), volume(), "Upright"), encoding="utf-8"
    )
    return path


OUTSIDE = """([width, height]) => [
    ...document.querySelectorAll('h1, canvas, button, input, output')
].filter(part => {
    const box = part.getBoundingClientRect();
    return box.left < 0 || box.top < 0 || box.right > width || box.bottom > height
        || box.width < 30 || box.height < 15;
}).map(part => part.outerHTML)"""


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["file", "upright"])
def test_picture_and_controls_are_seen_together(request, shape):
    """In windows of a desk, of a phone upright and on its side, and of a small one."""
    with open_page(request.getfixturevalue(shape), has_touch=True) as (tab, _):
        for size in [(1280, 800), (1920, 1080), (390, 844), (844, 390), (320, 568)]:
            tab.set_viewport_size(dict(width=size[0], height=size[1]))
            assert tab.evaluate(OUTSIDE, size) == [], size
            assert tab.evaluate("document.documentElement.scrollWidth") <= size[0]
            heights = tab.evaluate(
                "[...document.querySelectorAll('label')].map(label => label.offsetHeight)"
            )
            assert len(set(heights)) == 1, size  # no label is in two lines
            picture, first = (
                tab.locator("canvas").bounding_box(),
                tab.locator("#play").bounding_box(),
            )
            assert (
                first["y"] >= picture["y"] + picture["height"]
                or first["x"] >= picture["x"] + picture["width"]
            )


def test_the_title_is_text(tab):
    assert tab.title() == TITLE
    assert tab.locator("h1 b").count() == 0


def test_a_large_volume_is_thinned_to_the_mesh_in_its_own_pixels():
    page = build_interactive_page(photograph(200, 320), volume(200, 320), "leaf")
    about = json.loads(re.findall(r'id="about">(.*?)</script>', page)[0])
    assert (about["columns"], about["rows"], about["width"], about["height"]) == (
        160,
        100,
        320,
        200,
    )
    fine, coarse = (
        volume(200, 320).spectrum,
        resample_to_mesh(
            volume(200, 320).spectrum[:, ::2] + 1j * volume(200, 320).spectrum[:, 1::2]
        ),
    )
    np.testing.assert_allclose(
        coarse[1, 0, 50, 40].real, fine[1, 0, 100:102, 80:82].mean(), rtol=1e-4
    )
    assert len(page) < 10_000_000


def test_a_photograph_of_quite_another_aspect_is_refused():
    assert build_interactive_page(photograph(256, 192), volume(), "portrait")
    with pytest.raises(ValueError, match="motion is of 128x80 and the photograph of 64x800 pixels"):
        build_interactive_page(photograph(800, 64), volume(), "tower")


def test_a_page_of_a_long_window_takes_no_memory_by_its_frames():
    long = replace(volume(), frames=100_000, spectrum=volume().spectrum * np.float32(100_000 / T))
    tracemalloc.start()
    try:
        found = build_interactive_page(photograph(), long, "long")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found) > 100_000 and peak < 100e6
