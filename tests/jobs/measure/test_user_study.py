"""`quiver user-study`: the page in a real browser, as a viewer uses it; `quiver score-study` on
what the page saves; a sentence for each mistake.
"""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from jobs.cli.errors import ExitCode
from jobs.measure import score_study, user_study
from pipeline.sizes import human_size
from tests.support import videos
from tests.support.pages import open_page, wait_until
from tests.support.videos import write_video

RED, BLUE = (220, 40, 40), (40, 40, 220)
NAMES = [f'clip {i}, "x"' for i in range(5)]
SECRET = {"a": "made-by-our-model", "b": "what-others-made"}


def film(
    path: Path,
    colour: tuple[int, int, int],
    size: tuple[int, int] = (128, 80),
    count: int = 24,
    fps: float = 24,
) -> Path:
    """A lighter bar wanders over a colour."""
    frames = np.full((count, size[1], size[0], 3), colour, np.uint8)
    for i, frame in enumerate(frames):
        frame[:, i * size[0] // count : i * size[0] // count + 4] += 30
    return write_video(path, list(frames), np.arange(count) / fps)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """A is red, B is blue, longer, and of another size and kind of file; each has one more that the
    other has not.
    """
    root = tmp_path_factory.mktemp("study")
    a, b = root / SECRET["a"], root / SECRET["b"]
    for folder in (a, b):
        folder.mkdir()
    for name in NAMES:
        film(a / f"{name}.mp4", RED)
        film(b / f"{name}.mkv", BLUE, (160, 120), 40, 20)
    film(a / "alone.mp4", RED)
    (b / "notes.txt").write_text("no video")
    return a, b


def run(capsys, job, *args: str | Path) -> tuple[str, str]:
    job.main([str(arg) for arg in args])
    return capsys.readouterr()


def refused(capsys, job, *args: str | Path) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stopped:
        job.main([str(arg) for arg in args])
    return stopped.value.code, capsys.readouterr().err


@pytest.fixture(scope="module")
def page(folders, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    user_study.main(
        [
            *map(str, folders),
            "--out",
            str(path),
            "--look",
            "0.5",
            "--question",
            "Which moves like <water> & wind?",
        ]
    )
    return path


def colours(tab) -> list[str]:
    """Of what stands left and right, as the browser shows it."""
    pixels = tab.evaluate("""quiver.films.map(film => {
        const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
        canvas.width = canvas.height = 1; context.drawImage(film, 0, 0, 1, 1);
        return [...context.getImageData(0, 0, 1, 1).data];
    })""")
    return ["A" if red > blue else "B" for red, _, blue, _ in pixels]


def saved(tab) -> list[dict[str, str]]:
    with tab.expect_download() as download:
        tab.click("#save")
    text = download.value.path().read_bytes().decode()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert download.value.suggested_filename == f"answers-{rows[0]['viewer']}.csv"
    return rows


@pytest.mark.thorough
def test_a_viewer_goes_through_the_page(page, folders, tmp_path, capsys):
    """Choices by key and by hand, one back and another answer; what is saved is what was seen and
    chosen; nothing tells A from B.
    """
    with open_page(page) as (tab, complaints):
        tab.goto(page.as_uri() + "#seed=7")
        tab.reload()
        wait_until(tab, "Boolean(window.quiver)")
        assert (
            tab.evaluate("document.title")
            == "Which moves like <water> & wind?"
            == tab.inner_text("#start h1")
        )
        tab.click("#begin")
        tab.keyboard.press("ArrowLeft")  # before anything was seen
        wait_until(tab, "quiver.awake()")
        assert tab.evaluate("quiver.shown()") == 0 and tab.inner_text("#count") == "1 of 5"
        assert tab.is_disabled("#back")
        expected = []
        for number in range(5):
            wait_until(tab, f"quiver.shown() === {number} && quiver.awake()")
            seen, visible = colours(tab), tab.inner_text("body")
            assert sorted(seen) == ["A", "B"]
            assert tab.evaluate(
                "quiver.films.map(film => [film.videoWidth, film.videoHeight, film.duration])"
            ) == [[106, 80, 1], [106, 80, 1]]
            assert not any(word in visible for word in (*SECRET.values(), *NAMES, "mp4", "mkv"))
            side = ["left", "right"][number % 2]
            expected.append((*seen, side))
            if number < 2:
                tab.keyboard.press("ArrowLeft" if side == "left" else "ArrowRight")
            else:
                tab.click(f"#{side} video")
        wait_until(tab, "!document.getElementById('done').hidden")
        tab.click("#change")
        wait_until(tab, "quiver.awake()")
        assert tab.get_attribute("#left", "aria-pressed") == "true"
        tab.keyboard.press("Backspace")
        wait_until(tab, "quiver.shown() === 3 && quiver.awake()")
        tab.keyboard.press("ArrowLeft")
        expected[3] = (*expected[3][:2], "left")
        wait_until(tab, "quiver.shown() === 4 && quiver.awake()")
        tab.keyboard.press("ArrowLeft")
        wait_until(tab, "!document.getElementById('done').hidden")
        rows = saved(tab)
        assert not complaints
    assert list(rows[0]) == [
        "study",
        "viewer",
        "seed",
        "pair",
        "left",
        "right",
        "choice",
        "seconds",
    ]
    assert [(row["left"], row["right"], row["choice"]) for row in rows] == expected
    assert sorted(row["pair"] for row in rows) == NAMES != [row["pair"] for row in rows]
    assert {row["seed"] for row in rows} == {"7"} and len({row["viewer"] for row in rows}) == 1
    assert all(float(row["seconds"]) >= 0.5 for row in rows)

    answers = tmp_path / "answers.csv"
    with answers.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    for_a = sum((row["left"] if row["choice"] == "left" else row["right"]) == "A" for row in rows)
    told = json.loads(run(capsys, score_study, answers, "--json").out)
    assert (
        told["preferred_a"]["chosen"] == for_a
        and told["preferred_a"]["of"] == 5
        and told["viewers"] == 1
    )
    assert set(told["pairs"]) == set(NAMES)
    assert f"A was preferred {for_a} times of 5" in run(capsys, score_study, answers).out


@pytest.mark.slow
def test_the_same_seed_gives_the_same_order_and_sides_and_viewers_differ(page):
    found = []
    with open_page(page) as (tab, _):
        for seed in ("#seed=7", "#seed=7", "", ""):
            tab.goto(page.as_uri() + seed)
            tab.reload()
            wait_until(tab, "Boolean(window.quiver)")
            found.append(
                tab.evaluate("[quiver.seed, quiver.viewer, JSON.stringify(quiver.trials)]")
            )
        lefts = tab.evaluate("quiver.trials.map(trial => trial.left)")
    assert found[0][2] == found[1][2]
    assert len({viewer for _, viewer, _ in found}) == 4
    assert found[2][0] != found[3][0]
    assert sum(lefts) in (2, 3), "each set stands left as often as the other"


@pytest.mark.slow
def test_both_videos_repeat_together_on_a_phone_and_a_tap_chooses(page):
    with open_page(page, viewport=dict(width=390, height=760), has_touch=True, is_mobile=True) as (
        tab,
        complaints,
    ):
        tab.tap("#begin")
        tab.evaluate(
            """quiver.times = quiver.films.map(film => {
                const kept = [];
                film.addEventListener('seeking', () => kept.push(1));
                return kept;
            })"""
        )
        wait_until(tab, "quiver.times.every(kept => kept.length >= 3)")
        assert tab.evaluate(
            "document.documentElement.scrollWidth <= innerWidth"
            " && document.documentElement.scrollHeight <= innerHeight"
        )
        upper, lower = tab.locator("#left").bounding_box(), tab.locator("#right").bounding_box()
        assert upper["y"] + upper["height"] <= lower["y"]
        tab.tap("#right")
        wait_until(tab, "quiver.shown() === 1")
        assert tab.evaluate("quiver.trials[0].choice") == "right"
        assert not complaints


def test_the_page_says_nothing_of_the_folders_and_asks_for_nothing(page, capsys, folders):
    text = page.read_text()
    assert not any(name in text for name in SECRET.values())
    assert "http" not in text.replace('http-equiv="', "")


@pytest.mark.slow
def test_the_command_says_what_the_page_became(folders, tmp_path, capsys):
    out, err = run(
        capsys, user_study, *folders, "--out", tmp_path / "page.html", "--pairs", 2, "--seed", 1
    )
    assert f"{human_size((tmp_path / 'page.html').stat().st_size)}, 2 pairs" in out
    assert f"A is {folders[0]}, B is {folders[1]}" in out
    assert "1 video has no partner of that name and is left out" in err
    study_of_two = out.split("study ")[1].split(":")[0]
    assert study_of_two in (tmp_path / "page.html").read_text()
    swapped = run(
        capsys,
        user_study,
        *folders[::-1],
        "--out",
        tmp_path / "swapped.html",
        "--pairs",
        2,
        "--seed",
        1,
    ).out
    assert study_of_two not in swapped, "answers for A would count for B"
    before = (tmp_path / "page.html").read_bytes()
    code, said = refused(capsys, user_study, *folders, "--out", tmp_path / "page.html")
    assert (
        code == ExitCode.USAGE
        and "which exists: answers to a page belong to it alone" in said
        and (tmp_path / "page.html").read_bytes() == before
    )


MISTAKES = {
    "no folder": ({}, ["{a}", "{root}/nowhere"], "nowhere', expected a folder of videos"),
    "no video": (
        {"c/notes.txt": None},
        ["{a}", "{root}/c"],
        "which has no video, expected some of ",
    ),
    "no names agree": ({"c/other.mp4": film}, ["{a}", "{root}/c"], "no names agree: "),
    "text": (
        {"c/alone.mp4": videos.write_text_file},
        ["{a}", "{root}/c"],
        "alone.mp4 cannot be used: ",
    ),
    "truncated": (
        {"c/alone.mp4": videos.write_truncated},
        ["{a}", "{root}/c"],
        "alone.mp4 cannot be used: ",
    ),
    "one frame": (
        {"c/alone.mp4": lambda path: film(path, BLUE, count=1)},
        ["{a}", "{root}/c"],
        "alone.mp4 has 1 frame in ",
    ),
    "other aspect": (
        {"c/alone.mp4": lambda path: film(path, BLUE, (64, 128))},
        ["{a}", "{root}/c"],
        "the pair alone has videos of 128x80 and 64x128 pixels, expected nearly the same aspect",
    ),
    "twice": (
        {"c/alone.mp4": film, "c/alone.mkv": film},
        ["{a}", "{root}/c"],
        "alone.mkv, expected one video of each name",
    ),
    "too many pairs": (
        {},
        ["{a}", "{b}", "--pairs", "6"],
        "--pairs is 6, expected at most 5, for which names agree",
    ),
    "no question": ({}, ["{a}", "{b}", "--question", " "], "--question is ' ', expected words"),
    "suffix": (
        {},
        ["{a}", "{b}", "--out", "{root}/page.txt"],
        "page.txt, expected a name that ends in .html",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_one_sentence(mistake, folders, tmp_path, capsys):
    files, args, sentence = MISTAKES[mistake]
    for name, make in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        make(path, BLUE) if make is film else make(path) if make else path.write_text("x")
    args = [arg.format(a=folders[0], b=folders[1], root=tmp_path) for arg in args]
    out = [] if "--out" in args else ["--out", str(tmp_path / "page.html")]
    code, err = refused(capsys, user_study, *args, *out)
    assert code == ExitCode.USAGE
    assert sentence in err and err.count("\n") == 1 and "Traceback" not in err
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.thorough
def test_a_page_that_would_be_too_large_is_refused(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_video(
            tmp_path / folder / "noise.mp4",
            list(rng.integers(0, 256, (24, 160, 256, 3), np.uint8)),
            np.arange(24) / 24,
        )
    code, err = refused(
        capsys,
        user_study,
        tmp_path / "a",
        tmp_path / "b",
        "--out",
        tmp_path / "page.html",
        "--megabytes",
        0.1,
    )
    assert (
        code == ExitCode.USAGE
        and "the pair noise has " in err
        and "B at the lowest quality, expected at most 75 kB, its share of the page" in err
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "answers.csv is missing"),
        (b"a,b\n1,2\n", "answers.csv begins with 'a,b', expected the columns study,viewer"),
        (
            b"\x1b]0;title\x07[bold]x[/bold]\n",
            "answers.csv begins with '?]0;title?[bold]x[/bold]', expected",
        ),
        (b"x" * 1_000_001, "answers.csv is too large, expected at most 1 MB"),
    ],
)
def test_a_hostile_file_of_answers_is_one_sentence(content, sentence, tmp_path, capsys):
    if content is not None:
        (tmp_path / "answers.csv").write_bytes(content)
    code, err = refused(capsys, score_study, tmp_path / "answers.csv")
    assert code == ExitCode.USAGE and sentence in err and err.count("\n") == 1


def test_names_of_pairs_reach_the_terminal_as_text(tmp_path, capsys):
    name = "[bold red]x[/bold red]\x1b[31m"
    (tmp_path / "answers.csv").write_text(
        f"study,viewer,seed,pair,left,right,choice,seconds\ns0123456789ab,v00000001,7,{name},A,B,left,2.0\n",
        newline="",
    )
    out = run(capsys, score_study, tmp_path / "answers.csv").out
    assert "[bold red]x[/bold red]?[31m" in out and "\x1b" not in out
