"""The real command: from a video, a file, a data set's sample and a trained prior to films and
loops; each mistake in a sentence.
"""

from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageSequence

from jobs import animate
from schemas.spectral_volume import SpectralVolume, encode_volume
from tests.support import videos
from tests.support.datasets import write_dataset

K, T, FPS, SIZE = 4, 60, 30.0, (48, 32)


def run(*arguments: object) -> None:
    animate.main([str(argument) for argument in arguments])


def refused(capsys, *arguments: object, code: int = 2) -> str:
    """The sentence with which it stops."""
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def frames(path: Path) -> np.ndarray:
    if path.suffix in (".mp4", ".webm"):
        with av.open(str(path)) as file:
            return np.stack(
                [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
            ).astype(int)
    with Image.open(path) as image:
        return np.stack(
            [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
        ).astype(int)


def pictures(path: Path) -> np.ndarray:
    """Of a folder, in the order of their names."""
    return np.stack([np.array(Image.open(one)) for one in sorted(path.iterdir())]).astype(int)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A photograph, motion of its right half at 0.5 and 1.5 Hz, and a video."""
    folder = tmp_path_factory.mktemp("animate")
    Image.fromarray(videos.make_texture(96, 64)).save(folder / "photo.png")
    spectrum = np.zeros((K, 4, *SIZE[::-1]), np.float32)
    spectrum[1, 0, :, 24:], spectrum[3, 1, :, 24:] = T, T / 2
    (folder / "motion.safetensors").write_bytes(
        encode_volume(SpectralVolume(spectrum=spectrum, fps=FPS, frames=T, provenance={}))
    )
    videos.write_swaying(
        folder / "sways.mp4", size=(320, 200), seconds=1.5, amplitude=2.0, hertz=2.0
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".webp"])
def test_a_file_of_motion_moves_a_photograph(folder, suffix):
    out = folder / f"film{suffix}"
    run(folder / "photo.png", "--motion", folder / "motion.safetensors", "--fps", 20, "--out", out)
    found = frames(out)
    changes = np.abs(found - found[:1]).mean(axis=(0, 1, 3))
    assert found.shape[1:] == (64, 96, 3) and changes[60:].min() > 3 * changes[:40].max()
    assert (
        30 < len(found) <= 40 if suffix == ".webp" else len(found) == 40
    )  # equal neighbours are one frame of a webp


def test_it_says_how_far_it_is_unless_it_is_to_be_quiet(folder, capsys):
    args = [
        folder / "photo.png",
        "--motion",
        folder / "motion.safetensors",
        "--seconds",
        0.5,
        "--out",
        folder / "told.mp4",
    ]
    run(*args)
    assert "of 15 frames" in capsys.readouterr().err
    run(*args, "--quiet")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("suffix", "fps", "clock_ms"), [(".gif", 25, 10), (".gif", 30, 10), (".webp", 24, 1)]
)
def test_an_animation_lasts_as_long_as_was_asked_for_and_repeats_for_ever(
    folder, suffix, fps, clock_ms
):
    out = folder / f"repeats{suffix}"
    run(
        folder / "photo.png",
        "--motion",
        folder / "motion.safetensors",
        "--magnify",
        3,
        "--seconds",
        1.2,
        "--fps",
        fps,
        "--out",
        out,
    )
    with Image.open(out) as image:
        durations = [
            frame.convert("RGB").info["duration"] for frame in ImageSequence.Iterator(image)
        ]  # of a webp it is known once it is decoded
        assert (image.info["loop"], image.size, len(durations)) == (0, (96, 64), round(1.2 * fps))
    assert abs(sum(durations) - 1000 * len(durations) / fps) <= clock_ms and all(
        abs(one - 1000 / fps) <= clock_ms for one in durations
    )


def test_a_loop_closes_and_a_film_need_not(folder, capsys):
    options = [folder / "photo.png", "--motion", folder / "motion.safetensors", "--seconds", 1.3]
    for loop in ("snap", "crossfade"):
        run(*options, "--loop", loop, "--out", folder / f"{loop}.mp4")
        said = capsys.readouterr().out
        position, velocity = (
            float(word)
            for word in said.split("seam ")[1].replace(" in position and ", " ").split()[:2]
        )
        assert position <= 1.01 and velocity <= 1.01
        found = frames(folder / f"{loop}.mp4")
        steps = np.abs(np.roll(found, -1, axis=0) - found).mean(axis=(1, 2, 3))
        assert steps[-1] <= 1.1 * steps[:-1].max()
    run(*options, "--loop", "none", "--out", folder / "open.mp4")
    assert "seam" not in capsys.readouterr().out


def test_slow_motion_is_other_times_of_the_same_motion(folder):
    options = [folder / "photo.png", "--motion", folder / "motion.safetensors"]
    run(*options, "--seconds", 1, "--out", folder / "fast.mp4")
    run(*options, "--seconds", 2, "--slow", 2, "--out", folder / "slow.mp4")
    fast, slow = frames(folder / "fast.mp4"), frames(folder / "slow.mp4")
    assert (
        len(slow) == 2 * len(fast)
        and np.abs(slow[::2] - fast).mean() < np.abs(fast - fast[:1]).mean() / 5
    )


def test_magnified_by_nothing_and_masked_all_over_nothing_moves(folder):
    Image.new("L", (48, 32), 0).save(folder / "still.png")
    for number, option in enumerate((["--magnify", 0], ["--mask", folder / "still.png"])):
        run(
            folder / "photo.png",
            "--motion",
            folder / "motion.safetensors",
            "--seconds",
            0.5,
            *option,
            "--out",
            folder / f"{number}.webp",
        )
        found = frames(folder / f"{number}.webp")
        assert np.abs(found - found[:1]).max() <= 2


def test_the_bands_of_a_range_are_magnified_alone(folder):
    """Motion at 0.5 Hz goes across, that at 1.5 Hz down: without the latter it is that of a file
    which has only the former.
    """
    options = ["--seconds", 0.7, "--out"]
    with_one = np.zeros((K, 4, *SIZE[::-1]), np.float32)
    with_one[1, 0, :, 24:] = 3 * T
    (folder / "one.safetensors").write_bytes(
        encode_volume(SpectralVolume(spectrum=with_one, fps=FPS, frames=T, provenance={}))
    )
    run(
        folder / "photo.png",
        "--motion",
        folder / "motion.safetensors",
        "--magnify-band",
        "0.3:0.8=3",
        "1:2=0",
        *options,
        folder / "bands",
    )
    run(folder / "photo.png", "--motion", folder / "one.safetensors", *options, folder / "one")
    bands, one = pictures(folder / "bands"), pictures(folder / "one")
    right = np.s_[:, :, 64:]  # at the edge of what moves W is another, which has both
    assert (
        np.abs(bands[right] - one[right]).max() <= 1
        and np.abs(one[right] - one[:1][right]).mean() > 5
    )


def test_side_by_side_has_the_photograph_still_on_the_left(folder, capsys):
    run(
        folder / "photo.png",
        "--motion",
        folder / "motion.safetensors",
        "--seconds",
        0.5,
        "--side-by-side",
        "--out",
        folder / "both",
    )
    assert "at 200x64" in capsys.readouterr().out
    run(
        folder / "photo.png",
        "--motion",
        folder / "motion.safetensors",
        "--seconds",
        0.5,
        "--out",
        folder / "alone",
    )
    both, alone = pictures(folder / "both"), pictures(folder / "alone")
    assert both.shape == (15, 64, 96 + 8 + 96, 3) and np.ptp(alone, axis=0).max() > 50
    np.testing.assert_array_equal(
        both[:, :, :96],
        np.broadcast_to(np.array(Image.open(folder / "photo.png")), (15, 64, 96, 3)),
    )
    np.testing.assert_array_equal(both[:, :, 104:], alone)


def test_a_slice_is_one_row_of_what_moves_most_over_time(folder, capsys):
    spectrum = np.zeros((K, 4, *SIZE[::-1]), np.float32)
    spectrum[1, 0, 21] = T
    (folder / "row.safetensors").write_bytes(
        encode_volume(SpectralVolume(spectrum=spectrum, fps=FPS, frames=T, provenance={}))
    )
    run(
        folder / "photo.png",
        "--motion",
        folder / "row.safetensors",
        "--slice",
        folder / "slice.png",
        "--out",
        folder / "row",
    )
    with Image.open(folder / "slice.png") as image:
        over_time = np.array(image.convert("RGB"))
    assert (
        "row 43 of 64" in capsys.readouterr().out
    )  # of rows 42 and 43, which that of the motion makes
    np.testing.assert_array_equal(over_time, pictures(folder / "row")[:, 43])
    assert over_time.shape == (T, 96, 3) and np.ptp(over_time.astype(int), axis=0).mean() > 20


def test_a_folder_of_pictures_is_there_whole_or_not_at_all(folder, capsys):
    out = folder / "numbered"
    out.mkdir()
    options = [folder / "photo.png", "--motion", folder / "motion.safetensors", "--seconds", 0.2]
    run(*options, "--out", out)
    assert (
        sorted(path.name for path in out.iterdir())
        == [f"frame-{number:04}.png" for number in range(6)]
        and out.stat().st_mode & 0o777 == 0o755
    )
    assert "which exists, expected a folder that is new or empty" in refused(
        capsys, *options, "--out", out
    )
    (folder / "note").write_text("there already")
    assert "note" in refused(capsys, *options, "--out", folder / "note")
    assert (folder / "note").read_text() == "there already" and not list(folder.glob(".quiver-*"))


@pytest.mark.slow
def test_the_motion_of_a_video(folder, capsys):
    """Its first frame moves as the video does, at its own size; another photograph does with a
    warning.
    """
    run("--motion-from", folder / "sways.mp4", "--out", folder / "own.mp4")
    with av.open(str(folder / "sways.mp4")) as file:
        real = np.stack(
            [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
        ).astype(int)
    made = frames(folder / "own.mp4")
    assert made.shape == real.shape
    made, real = (
        np.stack([cv2.GaussianBlur(frame.astype(np.float32), (0, 0), 1.5) for frame in film])
        for film in (made, real)
    )
    assert (
        np.abs(made - real).mean() < np.abs(real - real[:1]).mean() * 2 / 3
    )  # without the grain of single pixels, which a codec makes anew
    Image.fromarray(videos.make_texture(400, 260, seed=9)).save(folder / "other.png")
    run(
        folder / "other.png",
        "--motion-from",
        folder / "sways.mp4",
        "--seconds",
        0.5,
        "--out",
        folder / "other.mp4",
    )
    assert "differs much" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("size", "working"), [((160, 90), (256, 144)), ((200, 46), (400, 92))])
def test_a_video_of_any_aspect_moves_whole_and_enlarged_where_it_is_small(
    folder, capsys, size, working
):
    """The film covers a working size of its aspect, and moves as the enlarged frames do."""
    videos.write_swaying(folder / "small.mp4", size=size, seconds=1.5, amplitude=1.5, hertz=2.0)
    run("--motion-from", folder / "small.mp4", "--out", folder / "enlarged.mp4")
    assert (
        f"small.mp4 has {size[0]}x{size[1]} pixels, fewer than motion is measured at,"
        f" {working[0]}x{working[1]}" in capsys.readouterr().err
    )
    films = [frame.astype(np.float32) for frame in frames(folder / "small.mp4")]
    real = np.stack(
        [
            cv2.GaussianBlur(cv2.resize(one, working, interpolation=cv2.INTER_CUBIC), (0, 0), 2)
            for one in films
        ]
    )
    made = np.stack(
        [
            cv2.GaussianBlur(frame.astype(np.float32), (0, 0), 2)
            for frame in frames(folder / "enlarged.mp4")
        ]
    )
    moved, true = made - made[:1], real - real[:1]
    assert moved.shape == true.shape and np.abs(moved - true).mean() < np.abs(true).mean() / 2


def test_a_large_local_swing_is_warned_of_and_a_small_one_is_not(tmp_path, capsys):
    """The picture is 40 px wide, so that 2.5 px are as far as 16 px of 256."""
    sways = {
        "wild": ({"large_motion_px": 3.0}, True),
        "calm": ({"large_motion_px": 2.4, "sway_px": 2.4}, False),
    }
    for name, (measures, is_warned) in sways.items():
        write_dataset(tmp_path / name, {"train-000000": [measures]})
        run("--motion", tmp_path / name, "--seconds", 0.2, "--out", tmp_path / f"{name}.webp")
        message = "px of 40: the picture may melt there, and a --magnify below 1 helps"
        assert (message in capsys.readouterr().err) == is_warned, name


def test_a_data_set_without_a_key_gives_its_sample_of_most_motion(tmp_path, capsys):
    write_dataset(
        tmp_path / "data",
        {
            "train-000000": [{}, {"mean_motion_px": 3.0}, {}],
            "test-000000": [{"mean_motion_px": 1000.0}],
        },
    )
    rows = pq.read_table(
        tmp_path / "data" / "manifest.parquet", columns=["key", "outcome", "mean_motion_px"]
    ).to_pylist()
    (key,) = [row["key"] for row in rows if row["outcome"] == "kept" and row["mean_motion_px"] == 3]
    assert len(rows) == 4
    run("--motion", tmp_path / "data", "--seconds", 0.2, "--out", tmp_path / "liveliest.webp")
    run("--motion", tmp_path / "data", key, "--seconds", 0.2, "--out", tmp_path / "named.webp")
    assert (tmp_path / "liveliest.webp").read_bytes() == (tmp_path / "named.webp").read_bytes()
    write_dataset(tmp_path / "none", {"train-000000": [{"mean_motion_px": 1000.0}]})
    assert "keeps no window, expected at least 1" in refused(
        capsys, "--motion", str(tmp_path / "none"), "--out", str(tmp_path / "a.webp")
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["photo.png", "--out", "a.mp4"],
            "0 sources of motion were given, expected one of --motion-from VIDEO,"
            " --motion FILE or DATASET KEY",
        ),
        (
            [
                "photo.png",
                "--motion",
                "motion.safetensors",
                "--motion-from",
                "sways.mp4",
                "--out",
                "a.mp4",
            ],
            "2 sources of motion",
        ),
        (["--motion", "motion.safetensors", "--out", "a.mp4"], "PHOTO is missing"),
        (["photo.png", "--motion", "gone.safetensors", "--out", "a.mp4"], "which is missing"),
        (
            ["photo.png", "--motion", "photo.png", "--out", "a.mp4"],
            "not a file of a spectral volume",
        ),
        (["photo.png", "--motion-from", "photo.png", "--out", "a.mp4"], "photo.png"),
        (
            ["gone.png", "--motion", "motion.safetensors", "--out", "a.mp4"],
            "is missing, expected a photograph",
        ),
        (
            ["motion.safetensors", "--motion", "motion.safetensors", "--out", "a.mp4"],
            "cannot be read as a picture",
        ),
        (
            ["tiny.png", "--motion", "motion.safetensors", "--out", "a.mp4"],
            "expected at least 48x32",
        ),
        (
            ["photo.png", "--motion", "motion.safetensors", "--out", "a.avi"],
            "expected a name that ends in .mp4, .webm, .gif, .webp",
        ),
        (
            ["photo.png", "--motion", "motion.safetensors", "--out", "none/a.mp4"],
            "in a folder that exists",
        ),
        (
            ["photo.png", "--motion", "motion.safetensors", "--out", "a.mp4", "--seconds", "0"],
            "--seconds is 0",
        ),
        (
            ["photo.png", "--motion", "motion.safetensors", "--out", "a.gif", "--fps", "60"],
            "--fps is 60, expected 1 to 50",
        ),
        (
            ["photo.png", "--motion", "motion.safetensors", "--out", "a.mp4", "--magnify", "nan"],
            "--magnify is nan",
        ),
        (
            [
                "photo.png",
                "--motion",
                "motion.safetensors",
                "--out",
                "a.mp4",
                "--magnify-band",
                "1=2",
            ],
            "'1=2', expected LOW:HIGH=FACTOR, such as 0.5:1=3",
        ),
        (
            [
                "photo.png",
                "--motion",
                "motion.safetensors",
                "--out",
                "a.mp4",
                "--magnify-band",
                "1..2:3=2",
            ],
            "'1..2:3=2', expected LOW:HIGH=FACTOR",
        ),
        (
            [
                "photo.png",
                "--motion",
                "motion.safetensors",
                "--out",
                "a.mp4",
                "--magnify-band",
                "2:1=2",
            ],
            "'2:1=2', expected LOW at most HIGH",
        ),
        (
            [
                "photo.png",
                "--motion",
                "motion.safetensors",
                "--out",
                "a.mp4",
                "--magnify-band",
                "1:2=101",
            ],
            "--magnify-band is 101, expected -100 to 100",
        ),
        (
            [
                "photo.png",
                "--motion",
                "motion.safetensors",
                "--out",
                "a.mp4",
                "--magnify-band",
                "9:10=2",
            ],
            "9 to 10 Hz holds no band of its own",
        ),
        (
            ["photo.png", "--motion", "motion.safetensors", "--out", "a.mp4", "--slice", "a.jpg"],
            "--slice is a.jpg, expected a name that ends in .png",
        ),
        (
            [
                "photo.png",
                "--motion",
                "motion.safetensors",
                "--out",
                "a.mp4",
                "--slice",
                "none/a.png",
            ],
            "--slice",
        ),
        (["photo.png", "--checkpoint", "none", "--out", "a.mp4"], "none"),
    ],
)
def test_mistakes(folder, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(folder)
    Image.new("RGB", (20, 20)).save("tiny.png")
    assert said in refused(capsys, *arguments)
    assert not Path("a.mp4").exists() and not Path("a.gif").exists()


def turned(picture: Image.Image, path: Path) -> None:
    """As a camera that was held sideways saves it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.rotate(90, expand=True).save(path, exif=exif, quality=95)


def sixteen_bits(picture: Image.Image, path: Path, alpha: bool = False) -> None:
    """A png that Pillow can read, but not write."""
    bgr = np.array(picture)[..., ::-1].astype(np.uint16) * 257
    cv2.imwrite(
        str(path), np.dstack([bgr, np.full(bgr.shape[:2], 65535, np.uint16)]) if alpha else bgr
    )


def grey(picture: Image.Image) -> Image.Image:
    return picture.getchannel(0)


KINDS = {
    "cmyk.jpg": lambda picture, path: picture.convert("CMYK").save(path, quality=95),
    "turned.jpg": turned,
    "16-bit.png": sixteen_bits,
    "16-bit-alpha.png": partial(sixteen_bits, alpha=True),
    "16-bit-grey.png": lambda picture, path: Image.fromarray(
        np.array(grey(picture)).astype(np.uint16) * 257
    ).save(path),
    "grey.jpg": lambda picture, path: grey(picture).save(path, quality=95),
    "palette.png": lambda picture, path: picture.quantize(256).save(path),
    "palette-alpha.png": lambda picture, path: picture.quantize(255).save(path, transparency=255),
    "alpha.png": lambda picture, path: picture.convert("RGBA").save(path),
    "moving.gif": lambda picture, path: picture.save(
        path, save_all=True, append_images=[picture.rotate(180)]
    ),
    "moving.webp": lambda picture, path: picture.save(
        path, save_all=True, append_images=[picture.rotate(180)], quality=95
    ),
}
"""How pictures of many kinds are saved."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_any_kind_moves_upright_in_its_colours(folder, kind):
    rising = np.linspace(0, 255, 96) + np.zeros((64, 1))
    true = np.stack(
        [rising, rising / 2, np.linspace(200, 50, 64)[:, None] + 0 * rising], axis=2
    ).astype(np.uint8)
    KINDS[kind](Image.fromarray(true), folder / kind)
    run(
        folder / kind,
        "--motion",
        folder / "motion.safetensors",
        "--seconds",
        0.2,
        "--out",
        folder / "kind.mp4",
    )
    found = frames(folder / "kind.mp4")
    assert found.shape[1:] == (64, 96, 3)
    assert np.abs(found[0] - (true[..., :1] if "grey" in kind else true)).mean() < 6
