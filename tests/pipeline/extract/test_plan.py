import os
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset.folder import inputs_digest
from pipeline.extract.config import PlanConfig
from pipeline.extract.list_clips import list_clips
from pipeline.extract.plan import keep_earlier_decisions, plan_rows
from pipeline.extract.plan_clip import (
    PlannedClip,
    choose_split,
    failed_clip,
    identify_clip,
    plan_clip,
    plan_windows,
    retry_clip,
    window_span,
    with_windows,
)
from schemas.clip import Clip, VideoInfo, Window
from schemas.outcome import ENVIRONMENTAL_REASONS, Outcome, Quarantined, Reason, Stage
from schemas.records import PLAN_SCHEMA, PlanRow
from tests.support import videos
from tests.support.building import probe_video

PLAN = PlanConfig()


def starts(count: int, rate: float, config: PlanConfig = PLAN) -> list[int]:
    return [i for i, _ in plan_windows(np.arange(count) / rate, count / rate, config)]


@pytest.mark.parametrize(
    "count, rate, expected",
    [
        (120, 24, [0]),  # 5.0 s at 24 fps is one window
        (118, 24, [0]),  # two source frames may be missing at the end
        (117, 24, []),
        (299, 60, [0]),
        (124, 25, [0]),
        (150, 30, [0]),
        (160, 30, [0, 10]),
        (158, 30, [0, 10]),
        (157, 30, [0]),
        (125, 25, [0]),
        (133, 25, [0, 8]),  # 10/30 s is 8.33 frames of 25 fps
        (260, 50, [0]),
        (267, 50, [0, 17]),
    ],
)
def test_windows_start_at_the_source_frame_nearest_to_every_tenth_working_frame(
    count, rate, expected
):
    assert starts(count, rate) == expected


@given(
    st.lists(st.floats(1 / 60, 0.4), min_size=1, max_size=300),
    st.integers(1, 40),
    st.integers(2, 60),
)
def test_windows_of_any_times_fit_and_start_once(steps, stride, frames):
    times = np.concatenate([[1.5], 1.5 + np.cumsum(steps)])
    config = PlanConfig(stride=stride, frames=frames)
    windows = plan_windows(times, times[-1] + steps[-1], config)
    assert all(a < b for (a, _), (b, _) in pairwise(windows))
    assert all(time + frames / 30 <= times[-1] + 3.02 * max(steps) for _, time in windows)
    assert all(time + frames / 60 <= times[-1] + steps[-1] + 1e-9 for _, time in windows)


def test_a_window_needs_frames_up_to_the_first_that_reaches_its_last_instant_and_no_other_clips():
    video = VideoInfo(
        times=np.arange(300) / 25,
        end_s=12.0,
        aspect=1.6,
        height=400,
        keyframes=np.zeros(1, int),
        decoder="none",
        decoder_reason="",
        signature=(0, 0, 0),
    )
    window = Window(key="a", start_frame=50, start_time_s=2.0)
    assert window_span(Clip(uri="a"), video, window, PLAN) == range(50, 176)
    assert window_span(Clip(uri="a", end_s=6.98), video, window, PLAN) == range(50, 175)


def test_a_tenth_of_the_videos_is_for_test_and_none_moves_when_others_come():
    splits = [choose_split(f"video {i}", 0.1) for i in range(20_000)]
    assert Counter(splits)["test"] == pytest.approx(2000, abs=150)
    assert {choose_split("video 7", 0.0), choose_split("video 7", 1.0)} == {"train", "test"}


def test_two_cuts_of_one_video_never_part(tmp_path):
    path = str(videos.write_swaying(tmp_path / "a.mp4", seconds=2))
    config = PlanConfig(frames=20, test_fraction=0.5)
    cuts = [
        plan_clip(Clip(uri=path, start_s=s, end_s=s + 1), config, probe_video) for s in (0.0, 1.0)
    ]
    sources = [
        plan_clip(Clip(uri=path, source=f"garden {i}"), config, probe_video) for i in range(12)
    ]
    assert cuts[0].split == cuts[1].split and cuts[0].clip_id != cuts[1].clip_id
    assert {p.split for p in sources} == {"train", "test"}
    assert (
        plan_clip(
            Clip(uri=path, split="test"), PlanConfig(frames=20, test_fraction=0.0), probe_video
        ).split
        == "test"
    )


def test_a_plan_does_not_depend_on_the_order_of_its_clips_and_its_shards_hold_one_split(tmp_path):
    config = PlanConfig(frames=15, stride=5, windows_per_shard=7, test_fraction=0.4)
    clips = [
        plan_clip(
            Clip(uri=str(videos.write_swaying(tmp_path / f"{i}.mp4", seconds=1.5, seed=i))),
            config,
            probe_video,
        )
        for i in range(4)
    ]
    rows = plan_rows(clips, config)
    assert rows == plan_rows(reversed(clips), config)
    by_shard = Counter(row.shard for row in rows)
    assert max(by_shard.values()) == 7 and all(row.shard.startswith(row.split) for row in rows)
    assert len({row.key for row in rows}) == sum(len(c.windows) for c in clips) == len(rows)


def test_content_that_is_listed_twice_is_taken_once(tmp_path):
    videos.write_swaying(tmp_path / "a.mp4", seconds=1)
    (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes())
    config = PlanConfig(frames=20)
    rows = plan_rows(
        [plan_clip(clip, config, probe_video) for clip in list_clips([str(tmp_path)])], config
    )
    assert [row.reason for row in rows if row.key is None] == [Reason.DUPLICATE_CLIP]
    assert len(rows) == 3


@pytest.mark.parametrize("reason", videos.BROKEN_VIDEO_WRITERS)
def test_a_broken_file_is_one_row_with_its_reason(tmp_path, reason):
    path = videos.BROKEN_VIDEO_WRITERS[reason](tmp_path / "broken.mp4")
    (row,) = plan_rows([plan_clip(Clip(uri=str(path)), PLAN, probe_video)], PLAN)
    assert (row.outcome, row.stage, row.reason, row.key, row.shard) == (
        "quarantined",
        "probe",
        reason,
        None,
        None,
    )


@pytest.mark.parametrize("begins_s", [0, 1.4, 1.467, 60001])
def test_a_window_needs_the_same_frames_wherever_the_time_stamps_begin(begins_s):
    """149 steps after its first frame a window of 150 is whole: rounding adds no frame."""
    ticks = np.round(90000 * begins_s) + 3000 * np.arange(600)
    video = VideoInfo(
        times=ticks / 90000,
        end_s=float(ticks[-1] + 3000) / 90000,
        aspect=1.6,
        height=80,
        keyframes=np.zeros(1, np.int64),
        decoder="ours",
        decoder_reason="a test",
        signature=(0, 0, 0),
    )
    clip, config = Clip(uri="a.ts"), PlanConfig(stride=1)
    times = video.times - video.times[0]
    windows = [
        Window(key="a", start_frame=i, start_time_s=float(np.round(times[i], 9)))
        for i in range(451)
    ]
    assert {len(window_span(clip, video, window, config)) for window in windows} == {150}


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    outside = videos.write_swaying(tmp_path / "outside.mp4", seconds=1)
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "link.mp4").symlink_to(outside)
    (clip,) = list_clips([str(tmp_path / "clips")])
    assert plan_clip(clip, PLAN, probe_video).reason == Reason.FORBIDDEN_PATH
    assert plan_clip(replace(clip, root=None), PLAN, probe_video).reason == Reason.TOO_SHORT


def test_a_pipe_and_a_name_that_no_table_holds_are_rows_too(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4")).write_bytes(b"x")
    clips = [plan_clip(clip, PLAN, probe_video) for clip in list_clips([str(tmp_path)])]
    assert {clip.reason for clip in clips} == {Reason.NOT_MEDIA, Reason.FORBIDDEN_PATH}
    pa.Table.from_pylist([row.dump() for row in plan_rows(clips, PLAN)])


def test_a_clip_without_room_for_a_window_is_too_short(tmp_path):
    planned = plan_clip(
        Clip(uri=str(videos.write_swaying(tmp_path / "a.mp4", seconds=2))), PLAN, probe_video
    )
    assert (planned.reason, planned.detail) == (
        Reason.TOO_SHORT,
        "2.000 s, a window is 5 s (--frames 150)",
    )


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_carries_its_columns_through(tmp_path, suffix):
    table = pa.table(
        {
            "uri": ["a.mp4", "sub/b.mp4"],
            "clip_id": ["007", None],
            "start_s": [0.5, None],
            "licence": ["CC0-1.0", None],
            "split": ["test", None],
        }
    )
    path = tmp_path / f"clips{suffix}"
    if suffix == ".csv":
        path.write_text(
            "uri,clip_id,start_s,licence,split\na.mp4,007,0.5,CC0-1.0,test\nsub/b.mp4,,,,\n"
        )
    else:
        pq.write_table(table, path)
    first, second = list_clips([str(path)])
    assert first == Clip(
        uri=str(tmp_path / "a.mp4"), clip_id="007", start_s=0.5, licence="CC0-1.0", split="test"
    )
    assert second == Clip(uri=str(tmp_path / "sub/b.mp4"))


@pytest.mark.parametrize(
    "rows, words",
    [
        ("path\na.mp4\n", "expected one uri column"),
        ("uri,uri\na.mp4,b.mp4\n", "expected one uri column"),
        ("uri\n", "0 rows"),
        ("uri,start_s\na.mp4,soon\n", "soon"),
        ("uri,split\na.mp4,dev\n", "split of .* is 'dev', expected 'train' or 'test'"),
        ("uri,clip_id\na.mp4,x\nb.mp4,x\n", "clip_id 'x' is listed twice"),
    ],
)
def test_a_bad_table_is_one_sentence(tmp_path, rows, words):
    (tmp_path / "t.csv").write_text(rows)
    with pytest.raises(ValueError, match=words):
        list_clips([str(tmp_path / "t.csv")])


def transport_stream(path: Path, seconds: float = 6.0) -> Path:
    """A stream whose time stamps begin over 1 s, as broadcasts do."""
    whole = videos.write_swaying(path.with_suffix(".mp4"), seconds=seconds)
    with av.open(str(whole)) as source, av.open(str(path), "w", format="mpegts") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                packet.pts, packet.dts = (
                    stamp + int(1.4 / packet.time_base) for stamp in (packet.pts, packet.dts)
                )
                target.mux(packet)
    return path


def test_cuts_and_windows_count_from_the_first_frame_whatever_the_container_says(tmp_path):
    stream, config = transport_stream(tmp_path / "a.ts"), PlanConfig(frames=30)
    whole, same = (
        plan_clip(Clip(uri=str(path)), config, probe_video)
        for path in (stream, stream.with_suffix(".mp4"))
    )
    assert probe_video(str(stream)).times[0] > 1
    assert [window.start_frame for window in whole.windows] == [
        window.start_frame for window in same.windows
    ]
    assert [window.start_time_s for window in whole.windows] == pytest.approx(
        [window.start_time_s for window in same.windows], abs=1e-3
    )
    cut, same = (
        plan_clip(Clip(uri=str(path), start_s=1.0, end_s=2.0), config, probe_video)
        for path in (stream, stream.with_suffix(".mp4"))
    )
    assert (
        [window.start_frame for window in cut.windows]
        == [window.start_frame for window in same.windows]
        == [30]
    )
    span, twin = (
        window_span(p.clip, probe_video(p.clip.uri), p.windows[0], config) for p in (cut, same)
    )
    assert span == twin == range(30, 60)


@pytest.mark.parametrize("first", [0.0, 1.4, 1.466667, 60001.0166, -0.0333])
def test_a_cut_has_the_same_frames_wherever_the_time_stamps_begin(first):
    """Of a container that counts in 90,000ths of a second."""
    times = np.rint((first + np.arange(300) / 30) * 90_000) / 90_000
    video = VideoInfo(
        times=times,
        end_s=float(times[-1]) + 1 / 30,
        aspect=1.6,
        height=400,
        keyframes=np.zeros(1, int),
        decoder="none",
        decoder_reason="",
        signature=(0, 0, 0),
    )
    for start, end in ((1, 2), (2, 7), (3, 4)):
        clip, config = (
            Clip(uri="a", start_s=float(start), end_s=float(end)),
            PlanConfig(frames=30, stride=30),
        )
        windows = with_windows(identify_clip(clip, "0" * 64, 1, config), video, config).windows
        spans = [window_span(clip, video, window, config) for window in windows]
        assert [(span.start, span.stop) for span in spans] == [
            (30 * i, 30 * i + 30) for i in range(start, end)
        ]


@pytest.mark.sample(16)
@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(
    "start_s, end_s, windows",
    [
        ("", "1e308", [0, 10, 20]),
        ("", "inf", [0, 10, 20]),
        ("nan", "nan", [0, 10, 20]),
        ("-5", "", [0, 10, 20]),
        ("-1e308", "1e308", [0, 10, 20]),
        ("1e308", "", []),
        ("2", "1", []),
        ("1e308", "-1e308", []),
        ("-3", "-2", []),
    ],
)
def test_whatever_the_times_of_a_cut_are_they_cost_only_its_row(
    tmp_path, suffix, start_s, end_s, windows
):
    videos.write_swaying(tmp_path / "a.mp4", seconds=50 / 30)
    path, config = tmp_path / f"clips{suffix}", PlanConfig(frames=30)
    if suffix == ".csv":
        path.write_text(f"uri,start_s,end_s\na.mp4,{start_s},{end_s}\na.mp4,,\n")
    else:
        numbers = {
            name: [float(text) if text else None, None]
            for name, text in (("start_s", start_s), ("end_s", end_s))
        }
        pq.write_table(pa.table({"uri": ["a.mp4", "a.mp4"]} | numbers), path)
    odd, sound = (plan_clip(clip, config, probe_video) for clip in list_clips([str(path)]))
    assert [window.start_frame for window in odd.windows] == windows and odd.reason == (
        None if windows else Reason.TOO_SHORT
    )
    assert [window.start_frame for window in sound.windows] == [0, 10, 20]
    rows = plan_rows([odd], config)
    assert inputs_digest(rows) == inputs_digest(map(stored_row, rows))


@pytest.mark.parametrize("name", ["NULL", "NA", "nan", "null", "None", "#N/A"])
def test_a_clip_may_be_called_what_other_programs_say_for_nothing(tmp_path, name):
    (tmp_path / "t.csv").write_text(
        f"uri,clip_id,source,start_s\na.mp4,{name},{name},NA\nb.mp4,,,\n"
    )
    first, second = list_clips([str(tmp_path / "t.csv")])
    assert (first.clip_id, first.source, first.start_s) == (
        name,
        name,
        None,
    ) and second.clip_id is None


@pytest.mark.parametrize("text", ["uri,source\na.mp4,Gärten\n", "uri\nGärten.mp4\n"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_a_table_that_is_not_utf_8_is_refused_by_its_name(tmp_path, encoding, text):
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    with pytest.raises(ValueError, match=r"table '.*t\.csv' (cannot be read|has columns)"):
        list_clips([str(tmp_path / "t.csv")])


def test_linked_and_closed_folders_below_the_one_given_are_rows(tmp_path):
    for name in ("clips", "clips/inside", "outside"):
        (tmp_path / name).mkdir()
    videos.write_swaying(tmp_path / "outside" / "a.mp4", seconds=1)
    videos.write_swaying(tmp_path / "clips" / "inside" / "b.mp4", seconds=1)
    (tmp_path / "clips" / "linked").symlink_to(tmp_path / "outside")
    (tmp_path / "clips" / "again").symlink_to(tmp_path / "clips" / "inside")
    planned = {
        Path(clip.uri).name: plan_clip(clip, PLAN, probe_video)
        for clip in list_clips([str(tmp_path / "clips")])
    }
    assert planned.keys() == {"linked", "b.mp4"}
    assert (
        planned["linked"].reason == Reason.FORBIDDEN_PATH
        and planned["b.mp4"].reason == Reason.TOO_SHORT
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_searched_is_a_row(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    (clip,) = list_clips([str(tmp_path)])
    assert plan_clip(clip, PLAN, probe_video).reason == Reason.UNREADABLE


CUT = PlanConfig(frames=24, test_fraction=0.5)


def stored_row(row: PlanRow) -> PlanRow:
    """The row as it is read back from a plan."""
    return PlanRow.load(pa.Table.from_pylist([row.dump()], PLAN_SCHEMA).to_pylist()[0])


def planned_row(clip: Clip, config: PlanConfig = CUT) -> PlanRow:
    (row,) = plan_rows([plan_clip(clip, config, probe_video)], config)
    return stored_row(row)


def test_a_clip_that_is_tried_again_is_named_and_split_as_if_it_had_been_there(tmp_path):
    unnamed, named = (
        Clip(uri=str(tmp_path / "a.mp4")),
        Clip(uri=str(tmp_path / "a.mp4"), clip_id="mine", split="test", source="garden"),
    )
    rows = [planned_row(clip) for clip in (unnamed, named)]
    assert [(row.reason, row.split) for row in rows] == [
        (Reason.MISSING, None),
        (Reason.MISSING, "test"),
    ]
    videos.write_swaying(tmp_path / "a.mp4", seconds=1)
    for row, clip in zip(rows, (unnamed, named), strict=True):
        again, fresh = retry_clip(row, CUT, probe_video), plan_clip(clip, CUT, probe_video)
        assert (
            replace(again, clip=clip, retried=None) == fresh
            and again.windows
            and again.retried == row.clip_id
        )


def test_a_clip_that_is_tried_again_is_held_to_its_folder_and_its_content(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    link = folder / "link.mp4"
    link.symlink_to(folder / "none.mp4")
    (clip,) = list_clips([str(folder)])
    row = planned_row(clip)
    assert row.reason == Reason.MISSING
    link.unlink()
    link.symlink_to(videos.write_swaying(tmp_path / "outside.mp4", seconds=1))
    assert retry_clip(row, CUT, probe_video).reason == Reason.FORBIDDEN_PATH
    crashed = failed_clip(clip, Quarantined(Stage.PROBE, Reason.CRASH, "died"), CUT, "0" * 64, 1)
    link.unlink()
    videos.write_swaying(link, seconds=1)
    (row,) = plan_rows([crashed], CUT)
    again = retry_clip(row, CUT, probe_video)
    assert (again.reason, again.windows, again.retried) == (Reason.HASH_MISMATCH, (), "0" * 16)


@pytest.mark.sample(9)
@pytest.mark.slow
@pytest.mark.parametrize("broken_first", [True, False])
@pytest.mark.parametrize("reason", sorted(ENVIRONMENTAL_REASONS))
def test_what_the_machine_may_have_done_changes_no_plan(tmp_path, reason, broken_first):
    """Then, or when the same command goes on; of a file whose content was read, and of one that was
    not.
    """
    clips = [
        Clip(uri=str(videos.write_swaying(tmp_path / f"{i}.mp4", seconds=1, seed=i)))
        for i in range(3)
    ]
    sound = [plan_clip(clip, CUT, probe_video) for clip in clips]
    error = Quarantined(Stage.PROBE, reason, "as it was")
    broken = [
        sound[0],
        failed_clip(clips[1], error, CUT),
        failed_clip(clips[2], error, CUT, sound[2].sha256, sound[2].bytes),
    ]
    first, now = (broken, sound) if broken_first else (sound, broken)
    before = plan_rows(first, CUT)
    assert inputs_digest(plan_rows(now, CUT)) != inputs_digest(before)
    assert inputs_digest(plan_rows(keep_earlier_decisions(now, before), CUT)) == inputs_digest(
        before
    )
    for change in (dict(licence="CC0-1.0"), dict(source="garden")):
        edited = [replace(planned, clip=replace(planned.clip, **change)) for planned in now]
        assert inputs_digest(
            plan_rows(keep_earlier_decisions(edited, before), CUT)
        ) != inputs_digest(before)
    for grown in (now[:2], [*now, failed_clip(Clip(uri="new.mp4"), error, CUT)]):
        assert inputs_digest(
            plan_rows(keep_earlier_decisions(grown, before), CUT)
        ) != inputs_digest(before)
    final = [
        replace(planned, reason=Reason.NOT_MEDIA, outcome=Outcome.QUARANTINED, windows=())
        for planned in sound
    ]
    assert broken_first or keep_earlier_decisions(final, before) == final, (
        "what a video is now is not hidden"
    )


@pytest.mark.parametrize("clip_id", [None, "mine"])
@pytest.mark.parametrize("broken_first", [True, False])
def test_a_video_that_was_replaced_is_another_input_though_its_probe_fails(clip_id, broken_first):
    """Its content was read before the probe crashed, then or now."""
    clip, error = (
        Clip(uri="/clips/a.mp4", clip_id=clip_id, split="train"),
        Quarantined(Stage.PROBE, Reason.CRASH, "died"),
    )
    first, now = (failed_clip(clip, error, CUT, letter * 64, 1) for letter in "ab")
    windows = (Window(key="a-000000", start_frame=0, start_time_s=0.0),)
    sound = dict(windows=windows, outcome=None, stage=None, reason=None, detail=None)
    first, now = (first, replace(now, **sound)) if broken_first else (replace(first, **sound), now)
    before = plan_rows([first], CUT)
    assert inputs_digest(plan_rows(keep_earlier_decisions([now], before), CUT)) != inputs_digest(
        before
    )
    same = replace(now, sha256=first.sha256, clip_id=first.clip_id)
    assert inputs_digest(plan_rows(keep_earlier_decisions([same], before), CUT)) == inputs_digest(
        before
    )


CRASHED = Quarantined(Stage.PROBE, Reason.CRASH, "died")


def sound_clip(clip: Clip, sha256: str) -> PlannedClip:
    """A clip with one window, of which no file is read."""
    planned = failed_clip(clip, CRASHED, CUT, sha256, 1)
    window = Window(key=f"{planned.clip_id}-000000", start_frame=0, start_time_s=0.0)
    fate = dict(outcome=None, stage=None, reason=None, detail=None)
    return replace(planned, windows=(window,), **fate)


@pytest.mark.parametrize(
    "listed, fates",
    [
        ("folder", "failed failed"),
        ("folder", "failed sound"),
        ("folder", "sound failed"),
        ("table", "failed failed"),
        ("table", "failed sound"),
    ],
)
def test_a_folder_that_is_moved_is_the_same_input_though_a_clip_was_not_read(
    tmp_path, listed, fates
):
    """Clips of one name in two folders are told apart."""

    def plan(folder: Path, fate: str) -> list[PlannedClip]:
        places = [folder / name for name in ("a", "b")]
        if listed == "table":
            places = [folder / "clips.csv"]
            places[0].write_text(
                "\n".join(["uri", "a/0.mp4", "a/1.mp4", "b/0.mp4", "b/1.mp4"]) + "\n"
            )
        clips = list_clips([str(place) for place in places])
        digests = ["0" * 64, "1" * 64, "2" * 64, "3" * 64]
        planned = list(map(sound_clip, clips, digests))
        return planned if fate == "sound" else [failed_clip(clips[0], CRASHED, CUT), *planned[1:]]

    for name in ("a", "b"):
        (tmp_path / "then" / name).mkdir(parents=True)
        for i in range(2):
            (tmp_path / "then" / name / f"{i}.mp4").write_bytes(b"film")
    first, now = fates.split()
    before = plan_rows(plan(tmp_path / "then", first), CUT)
    moved = (tmp_path / "then").rename(tmp_path / "now")
    again = plan_rows(keep_earlier_decisions(plan(moved, now), before), CUT)
    assert inputs_digest(again) == inputs_digest(before)
    assert all(row.uri.startswith(str(moved)) for row in again)


class Tracked(PlanRow):
    """A row of which a test can see whether anyone still holds it."""


class Stored:
    """Rows as of a file: made anew each time they are read."""

    def __init__(self, rows: list[PlanRow]):
        self.rows, self.alive, self.most = rows, weakref.WeakValueDictionary(), 0

    def __iter__(self) -> Iterator[dict]:
        for row in self.rows:
            tracked = Tracked(**row.dump())
            self.alive[id(tracked)] = tracked
            self.most = max(self.most, len(self.alive))
            yield tracked


@pytest.mark.parametrize("then, now", [(True, False), (False, True), (True, True), (False, False)])
def test_an_extraction_that_goes_on_holds_few_rows_of_the_plan(then, now):
    """Those of clips that the machine may have failed, then or now, and not the rest."""
    clips = [Clip(uri=f"/clips/{i}.mp4") for i in range(200)]
    sound = [sound_clip(clip, f"{i:064d}"[::-1]) for i, clip in enumerate(clips)]
    broken = [*sound[:50], failed_clip(clips[50], CRASHED, CUT), *sound[51:]]
    before = Stored(plan_rows(broken if then else sound, CUT))
    kept = keep_earlier_decisions(broken if now else sound, before)
    assert inputs_digest(plan_rows(kept, CUT)) == inputs_digest(before.rows)
    assert before.most < 10
