"""The report as a reader opens it: real data sets, hostile names, and a browser."""

import base64
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import groupby

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.report_statistics import main
from pipeline.dataset import scales
from pipeline.dataset.finalize import finalize
from pipeline.dataset.folder import Dataset
from pipeline.dataset.open import DatasetView
from pipeline.dataset.views import refilter
from pipeline.extract.build_shard import build_shard
from pipeline.extract.config import BuildConfig, PlanConfig, to_contract
from pipeline.extract.plan import plan_rows
from pipeline.extract.plan_clip import plan_clip
from pipeline.filters import PRESETS
from pipeline.flow.config import FlowConfig
from pipeline.report import gallery, queries
from pipeline.report.page import render_report
from schemas.clip import Clip
from schemas.seal import open_seal, seal
from tests.support import datasets, videos
from tests.support.building import probe_video
from tests.support.pages import open_browser, wait_until

CONFIG = BuildConfig(
    size=(96, 64),
    frequencies=16,
    plan=PlanConfig(frames=75, fps=15.0, stride=3, test_fraction=0.0),
    flow=FlowConfig(dis_preset="fast"),
    thresholds=PRESETS["subtle"],
)
SCRIPT = "<script>window.hacked = 1</script>"
HOSTILE = [
    dict(
        licence="</script>" + SCRIPT,
        clip_id=f"clip {SCRIPT}",
        uri="/gone/\"><img src=x onerror='window.hacked=1'>.mp4",
    ),
    dict(
        licence="\x1b[31mred\x1b[0m\x07\u202e",
        clip_id="' onmouseover='window.hacked=1",
        uri="javascript:window.hacked=1",
    ),
    dict(
        licence="x" * 10_000,
        clip_id="{{ 7 * 7 }}{% raw %}" + "y" * 10_000,
        uri="</title></style>" + SCRIPT,
    ),
]


def page_of(*selections: DatasetView) -> str:
    return render_report(selections, scales.compute_statistics(selections))


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Dataset:
    """Two clips that sway, one of which is gone by now, one that is too calm, one that is too
    short, and one that is broken.
    """
    folder = tmp_path_factory.mktemp("report")
    clips = [
        videos.write_swaying(
            folder / f"{n}.mp4", seconds=5.6, fps=15, amplitude=a, hertz=0.4 + 0.4 * n, seed=n
        )
        for n, a in enumerate((1.5, 2.5, 0.06))
    ]
    clips.append(videos.write_swaying(folder / "<b>3.mp4", seconds=3.0, fps=15, seed=3))
    clips.append(videos.write_empty(folder / "<img src=x onerror=window.hacked=1>.mp4"))
    rows = plan_rows(
        [
            plan_clip(
                Clip(uri=str(path), clip_id=f"sway {path.stem}", licence="CC0-1.0"),
                CONFIG.plan,
                probe_video,
            )
            for path in clips
        ],
        CONFIG.plan,
    )
    dataset = Dataset(folder / "dataset")
    with dataset.lock():
        dataset.create_or_resume(rows, to_contract(CONFIG), {"python": "3"})
        for shard, some in groupby((row for row in rows if row.key), key=lambda row: row.shard):
            for _ in build_shard(dataset, shard, list(some), CONFIG):
                pass
    runs = ((4.0, 104.0), (2.0, 302.0))  # elapsed, and when
    lines = [
        dict(
            shard="a",
            kept=4,
            rejected=2,
            quarantined=0,
            seconds=3.0,
            waiting_share=0.25,
            elapsed_s=elapsed,
            at=at,
        )
        for elapsed, at in runs
    ]
    dataset.progress.write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + '{"shard": "torn", "ke'
    )
    finalize(dataset)
    clips[1].unlink()
    return dataset


@pytest.fixture(scope="module")
def real_page(real) -> str:
    return page_of(DatasetView(real))


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("hostile")
    windows = {
        "train-000000": [{}, {}, {"mean_motion_px": 30.0}, {}],
        "test-000000": [{}, {"cut_correlation": 0.1}],
    }
    return page_of(
        *(
            DatasetView(
                datasets.write_dataset(
                    folder / f"{i}{SCRIPT.replace('/', '')}", windows, seed=i, **clip
                )
            )
            for i, clip in enumerate(HOSTILE)
        )
    )


class Reader(HTMLParser):
    """Collects what could act: elements by name, attributes, and text outside of scripts."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.attributes, self.words, self.inside = [], [], [], ""
        self.feed(page)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.inside = tag
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside not in ("script", "style"):
            self.words.append(data)


@pytest.mark.thorough
def test_equal_data_sets_give_equal_bytes(real, real_page):
    assert page_of(DatasetView(real)) == real_page


@pytest.mark.slow
def test_the_page_asks_for_nothing(real_page, hostile_page):
    for page in (real_page, hostile_page):
        reader = Reader(page)
        sources = [
            value
            for _, name, value in reader.attributes
            if name in ("src", "href", "xlink:href", "poster", "srcset", "action", "data")
        ]
        assert sources and all(value.startswith(("data:", "#")) for value in sources)
        assert "url(http" not in page and "@import" not in page and len(page) < 15_000_000


def test_hostile_names_are_text(hostile_page):
    reader = Reader(hostile_page)
    assert (
        reader.tags.count("script") == 1
        and reader.tags.count("title") == 1
        and reader.tags.count("style") >= 1
    )
    assert not [name for _, name, _ in reader.attributes if name.startswith("on")]
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", hostile_page)
    assert (
        SCRIPT in reader.text
        and "{{ 7 * 7 }}" in reader.text
        and "x" * 100 in reader.text
        and "x" * 200 not in hostile_page
    )


def test_the_head_counts_what_the_manifest_holds(real, real_page, hostile_page):
    rows = pq.read_table(real.manifest).to_pylist()
    outcomes = [row["outcome"] for row in rows]
    assert f"{outcomes.count('kept')} start frames from 5 video clips" in Reader(real_page).text
    assert outcomes.count("rejected") >= 1 and outcomes.count("quarantined") == 1
    assert (
        "Sources data set kept run 0<script>window.hacked = 1<script> 4 "
        in Reader(hostile_page).text
    )
    assert (
        "12 start frames from 3 video clips" in Reader(hostile_page).text
    )  # three data sets of 4 kept windows in one clip


def test_it_says_which_windows_move_too_little_and_why_a_clip_could_not_be_read(real_page):
    text = Reader(real_page).text
    assert "No motion" in text and "sway 2 at 0.0 s sway 0.0" in text
    assert (
        "not media" in text
        or "no video" in text
        or "unreadable" in text
        or "no frames" in text
        or "truncated" in text
    )
    assert "No real frames:" in text  # of the clip that is gone


def section_of(page: str, name: str) -> str:
    """The text of one section."""
    return Reader(page.split(f'<section id="{name}">')[1].split("</section>")[0]).text


def test_every_clip_is_listed_with_its_windows_and_those_without_a_kept_one_come_first(
    real, real_page
):
    rows = pq.read_table(real.manifest).to_pylist()
    text = section_of(real_page, "clips")
    nothing, _, others = text.partition("Windows were kept")
    windows = sum(row["clip_id"] == "sway 2" and row["key"] is not None for row in rows)
    kept = Counter(row["clip_id"] for row in rows if row["outcome"] == "kept")
    empty = {row["clip_id"] for row in rows if row["reason"] != "too_short"} - kept.keys()
    assert kept and f"Nothing was kept of {len(empty)} clips" in nothing
    assert f"sway 2 5.6 s {windows} 0 rejected: no motion" in nothing
    assert "no window: " in nothing and "<img src=x" in nothing
    for name, count in kept.items():
        assert re.search(rf"{name} 5\.\d s \d+ {count} ", others)
    assert "sway <b>3" not in nothing


def test_clips_that_were_too_short_are_named_with_the_window_that_would_keep_them(real_page):
    text = section_of(real_page, "clips").partition("Too short")[2]
    assert "1 clip, the longest first" in text and re.search(r"sway <b>3 (3\.00|2\.9\d) s", text)
    assert "1 of 4 clips is shorter than a window of 5 s (--frames 75); --frames 4" in text


def test_a_clip_or_a_source_that_dominates_is_warned_of_near_the_top(tmp_path):
    def warnings(name: str, windows: dict, **clip: str) -> list[str]:
        dataset = datasets.write_dataset(tmp_path / name, windows, **clip)
        head = page_of(DatasetView(dataset)).split("</header>")[0]
        return re.findall('<p class="warning">(.*?)</p>', head)

    two = warnings("two", {"train-000000": [{}, {}, {}, {}]})
    assert two == [
        "The clip clip-train-000000-0 holds 3 of the 4 kept windows (75 %): "
        "over a third of what a model learns from comes from it."
    ]
    both = warnings("both", {"train-000000": [{}] * 6})
    assert len(both) == 2 and all("holds 3 of the 6 kept windows (50 %)" in text for text in both)
    many = {"train-000000": [{}] * 9, "train-000001": [{}] * 3}
    assert warnings("many", many) == []
    (source,) = warnings("source", many, source="<i>one camera")
    assert source.startswith("The source &lt;i&gt;one camera holds 12 of the 12 kept windows (100")


def test_a_table_of_thousands_of_clips_is_bounded(tmp_path):
    windows = [{"mean_motion_px": 30.0}] * 180 + [{}] * 180
    dataset = datasets.write_dataset(tmp_path / "many", {"train-000000": windows})
    text = section_of(page_of(DatasetView(dataset)), "clips")
    assert "Nothing was kept of 60 clips" in text and text.count("and 10 more") == 2
    assert text.count("rejected: too much motion 3") == 50


def test_each_sample_has_a_picture_of_its_confidence(real, real_page):
    rows = pq.read_table(real.manifest).to_pylist()
    shares = {round(100 * row["believed_share"]) for row in rows if row["outcome"] == "kept"}
    shown = re.findall(r"confidence of the flow, (\d+) % believed", real_page)
    assert shown and {int(share) for share in shown} <= shares
    assert real_page.count('alt="confidence of the flow"') == len(shown)


def test_the_run_is_told_from_the_lines_that_are_whole(real_page, hostile_page):
    text = Reader(real_page).text
    assert (
        "windows a second 2 " in text
        and "25.0 %" in text
        and "the command was started again" in text
    )  # 12 windows in 4 + 2 seconds
    assert "Not recorded" in Reader(hostile_page).text


@pytest.mark.slow
def test_a_view_shows_what_it_keeps(real):
    motion = sorted(
        row["mean_motion_px"]
        for row in pq.read_table(real.manifest).to_pylist()
        if row["outcome"] == "kept"
    )
    refilter(
        real,
        "calm",
        PRESETS["subtle"].__class__(no_motion_px=0.15, too_much_motion_px=motion[0] + 1e-6),
        lambda f, items: [(i, f(i)) for i in items],
    )
    text = Reader(page_of(DatasetView(real, "calm"))).text
    assert (
        "dataset:calm" in text.replace(" :", ":")
        and "1 start frame from" in text
        and "Too much motion" in text
    )
    assert (
        "no pictures are stored" not in text
    )  # a window that only the view rejects has its sample


@pytest.mark.slow
def test_strips_are_shown_only_where_they_decode(tmp_path):
    good = io.BytesIO()
    Image.fromarray(np.zeros((8, 24, 3), np.uint8)).save(good, "jpeg")
    png = io.BytesIO()
    Image.fromarray(np.zeros((8, 24, 3), np.uint8)).save(png, "png")
    text = base64.b64encode(good.getvalue()).decode()
    assert queries.is_jpeg(text)
    assert not any(
        map(
            queries.is_jpeg,
            [
                None,
                7,
                "",
                "%",
                text[:60],
                text + '"><script>',
                base64.b64encode(png.getvalue()).decode(),
                "A" * 300_000,
            ],
        )
    )
    dataset = datasets.write_dataset(
        tmp_path, {"train-000000": [{}, {"mean_motion_px": 30.0}, {"mean_motion_px": 31.0}]}
    )
    path = dataset.record_path("train-000000")
    keys = [row.key for row in dataset.planned_rows()]
    strips = dict(strips={keys[1]: text, keys[2]: '"><script>'})
    path.write_bytes(seal(open_seal(path.read_bytes()) | strips))
    page = page_of(DatasetView(dataset))
    assert (
        page.count(text) == 1
        and "the stored pictures are damaged" in page
        and '"><script>' not in page
    )


@pytest.mark.slow
def test_a_video_of_noise_does_not_make_the_page_too_large():
    frames = list(np.random.default_rng(0).integers(0, 255, (60, 160, 528, 3), np.uint8))
    assert len(gallery.mp4_uri(frames, 30.0)) < 4 / 3 * gallery.MAX_VIDEO_BYTES + 100


@pytest.mark.slow
def test_a_sample_that_cannot_be_read_is_told(tmp_path):
    dataset = datasets.write_dataset(tmp_path, {"train-000000": [{}, {}]})
    dataset.tar_path("train-000000").write_bytes(b"gone")
    found = Reader(page_of(DatasetView(dataset))).text
    assert (
        "This sample cannot be shown: member " in found and " is not in train-000000.tar" in found
    )


def test_windows_are_drawn_of_different_clips_and_read_in_their_order(tmp_path):
    selections = [
        DatasetView(
            datasets.write_dataset(
                tmp_path / str(i), {"train-000000": [{}] * 7, "test-000000": [{}] * 2}, seed=i
            )
        )
        for i in range(2)
    ]
    rows = queries.read_rows(selections)
    some = queries.draw_varied_windows(rows, 8)
    assert len(
        {(row["set"], row["clip_id"]) for row in some}
    ) == 8 and some == queries.draw_varied_windows(rows.take(list(range(17, -1, -1))), 8)
    chosen = queries.draw_windows(rows, 10)
    expected = {
        (i, row["key"]): [row["power_x"], row["power_y"]]
        for i, one in enumerate(selections)
        for row in pq.read_table(one.manifest_path).to_pylist()
    }
    wanted = [
        expected[place]
        for place in zip(chosen["set"].to_pylist(), chosen["key"].to_pylist(), strict=True)
    ]
    assert queries.read_powers(selections, chosen).tolist() == wanted


@pytest.mark.slow
def test_the_command_writes_the_page_where_it_is_asked_for(tmp_path, capsys):
    dataset = datasets.write_dataset(tmp_path / "set", {"train-000000": [{}, {}]})
    main([str(dataset.root), "--out", str(tmp_path / "statistics.json")])
    assert "report" not in capsys.readouterr().out and not dataset.report.exists()
    main([str(dataset.root)])
    assert f"report: {dataset.report}" in capsys.readouterr().out
    main([str(dataset.root), "--report", str(tmp_path / "other.html")])
    assert (tmp_path / "other.html").read_bytes() == dataset.report.read_bytes()


@pytest.mark.parametrize("library", ["matplotlib", "jinja2"])
def test_without_its_libraries_it_says_how_to_install_them_before_anything_is_computed(
    library, tmp_path, capsys, monkeypatch
):
    dataset = datasets.write_dataset(tmp_path / "set", {"train-000000": [{}, {}]})
    dataset.statistics.unlink()
    for name in [name for name in sys.modules if name.startswith("pipeline.report")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(SystemExit):
        main([str(dataset.root)])
    assert (
        f"needs {library}, which is not installed: pip install 'quiver-motion[report]'"
        in capsys.readouterr().err
    )
    assert not dataset.statistics.exists()
    main([str(dataset.root), "--out", str(tmp_path / "statistics.json")])  # asks for no page


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    with open_browser("--disable-gpu") as opened:
        yield opened


@pytest.fixture(scope="module")
def opened(chromium, real_page, hostile_page, tmp_path_factory) -> Iterator[dict]:
    """Both pages, with what the browser complained of."""
    folder, found = tmp_path_factory.mktemp("pages"), {}
    for name, page in (("real", real_page), ("hostile", hostile_page)):
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
        tab, complaints = chromium.new_page(viewport=dict(width=1280, height=900)), []
        tab.on("console", lambda message, to=complaints: to.append(message.text))
        tab.on("pageerror", lambda error, to=complaints: to.append(str(error)))
        tab.on("requestfailed", lambda request, to=complaints: to.append(request.url[:200]))
        tab.on(
            "request",
            lambda request, to=complaints: (
                None if request.url.startswith(("data:", "file:")) else to.append(request.url[:200])
            ),
        )
        tab.goto((folder / f"{name}.html").as_uri())
        wait_until(tab, "[...document.querySelectorAll('video')].every(v => v.readyState >= 2)")
        found[name] = (tab, complaints)
    yield found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["real", "hostile"])
def test_a_browser_shows_everything_and_complains_of_nothing(opened, name):
    tab, complaints = opened[name]
    unseen = """[...document.querySelectorAll('img, video, svg')].filter(e => {
        const box = e.getBoundingClientRect();
        const width = e.tagName === 'VIDEO' ? e.videoWidth : 1;
        const size = e.tagName === 'IMG' ? e.complete && e.naturalWidth : width;
        return !(size && box.width > 5 && box.height > 5
            && getComputedStyle(e).visibility === 'visible');
    }).map(e => e.outerHTML.slice(0, 200))"""
    assert tab.evaluate(unseen) == [] and complaints == []
    assert tab.evaluate("document.querySelectorAll('video').length") >= 2 and tab.evaluate(
        "document.querySelectorAll('svg').length"
    ) == 25 + (name == "real")
    tab.locator("video").first.scroll_into_view_if_needed()
    wait_until(tab, "!document.querySelector('video').paused")  # one out of sight waits
    assert tab.evaluate("window.hacked") is None


def test_a_slider_tells_how_many_would_be_kept(opened, real):
    tab, _ = opened["real"]
    kept = sum(row["outcome"] == "kept" for row in pq.read_table(real.manifest).to_pylist())
    box = tab.locator(".slider", has=tab.locator("[aria-label='--no-sway-px']"))
    told, shade = box.locator(".count"), tab.locator("#shade-no_sway_px")
    assert told.inner_text() == f"{kept} kept" and box.locator(".value").inner_text() == "0.3"
    before = shade.bounding_box()["width"]
    box.locator("input").fill(box.locator("input").get_attribute("max"))
    assert (
        told.inner_text() == f"0 kept, \u2212{kept}" and shade.bounding_box()["width"] > before + 10
    )
    box.locator("input").fill("0")
    assert box.locator(".value").inner_text() == "off" and "to extract again" in told.inner_text()
    box.locator("input").dblclick()
    assert told.inner_text() == f"{kept} kept"


@pytest.mark.parametrize("name", ["real", "hostile"])
def test_nothing_hangs_over_the_side_of_a_narrow_window(opened, name):
    tab, _ = opened[name]
    tab.set_viewport_size(dict(width=360, height=800))
    tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    over = """[...document.querySelectorAll('body *')].filter(e =>
            !e.closest('.scroll') && !e.closest('svg') && e.getBoundingClientRect().right > 361)
        .map(e => e.outerHTML.slice(0, 120))"""
    assert tab.evaluate(over) == []
    tab.set_viewport_size(dict(width=1280, height=900))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_in_either_light(opened, scheme):
    tab, _ = opened["real"]
    tab.emulate_media(color_scheme=scheme)
    colours = tab.evaluate("""() => {
        const of = (query, name) => [...new Set(
            [...document.querySelectorAll(query)].map(e => getComputedStyle(e)[name]))];
        const text = 'p, h1, h2, h3, td, th, dt, dd, a, code, summary, figcaption';
        return {
            paper: of('body', 'backgroundColor'),
            words: [...of(text, 'color'), ...of('svg text', 'fill')],
        };
    }""")
    (paper,) = colours["paper"]
    assert (luminance(paper) < 0.1) == (scheme == "dark")
    assert (
        len(colours["words"]) >= 3
        and min(contrast(paper, word) for word in colours["words"]) >= 4.5
    )  # WCAG AA


def luminance(colour: str) -> float:
    """Of an opaque `rgb(r, g, b)`, by the WCAG."""
    parts = (
        np.array(
            [int(part) for part in re.fullmatch(r"rgb\((\d+), (\d+), (\d+)\)", colour).groups()]
        )
        / 255
    )
    return float(
        np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        @ [0.2126, 0.7152, 0.0722]
    )


def contrast(one: str, other: str) -> float:
    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


def test_paper_has_no_sliders(opened):
    tab, _ = opened["real"]
    tab.emulate_media(media="print")
    assert (
        not tab.locator("nav").is_visible()
        and not tab.locator(".slider input").first.is_visible()
        and tab.locator(".slider output").first.is_visible()
    )
    tab.emulate_media(media="screen")


def test_one_who_wants_less_motion_gets_none(chromium, real_page, tmp_path):
    (tmp_path / "page.html").write_text(real_page, encoding="utf-8")
    tab = chromium.new_page(reduced_motion="reduce")
    tab.goto((tmp_path / "page.html").as_uri())
    wait_until(tab, "[...document.querySelectorAll('video')].every(v => v.readyState >= 1)")
    assert tab.evaluate(
        "[...document.querySelectorAll('video')].every(v => v.paused && v.controls)"
    )
    tab.close()
