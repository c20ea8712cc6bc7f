"""Which window most clips have room for, from their durations alone."""

import pytest

from pipeline.extract.config import PlanConfig
from pipeline.extract.window_length import ClipLength, choose_frames, describe_short_clips

PLAN = PlanConfig()


def lengths(*groups: tuple[int, float]) -> list[ClipLength]:
    """So many clips of so many seconds each."""
    return [ClipLength(seconds, seconds >= 5) for count, seconds in groups for _ in range(count)]


def test_the_sentence_counts_the_short_clips_and_names_the_largest_window_for_four_fifths():
    clips = lengths((51, 8.0), (19, 3.21), (17, 2.5))
    assert describe_short_clips(clips, PLAN, 16) == (
        "36 of 87 clips are shorter than a window of 5 s (--frames 150); "
        "--frames 96 would keep 70 of 87 clips (80 %)"
    )


@pytest.mark.parametrize(
    "clips, text",
    [
        (lengths((3, 6.0)), None),
        ([], None),
        (lengths((9, 6.0), (1, 3.0)), "1 of 10 clips is shorter than a window of 5 s"),
        (lengths((1, 0.5)), "1 of 1 clip is shorter than a window of 5 s"),
    ],
    ids=["all fit", "no clips", "four fifths fit already", "no room for the frequencies"],
)
def test_no_number_is_advised_if_none_would_help(clips, text):
    sentence = describe_short_clips(clips, PLAN, 16)
    assert sentence == (text and f"{text} (--frames 150)")


@pytest.mark.parametrize(
    "clips, frames, text",
    [
        (lengths((8, 60.0), (2, 1.0)), 150, "a window of 5 s: it keeps 8 of 10 clips (80 %)"),
        (lengths((7, 60.0), (2, 4.0), (1, 3.0)), 120, "it keeps 9 of 10 clips (90 %)"),
        (
            lengths((3, 2.0), (7, 1.0)),
            60,
            "a window of 2 s, its least: it keeps only 3 of 10 clips (30 %)",
        ),
        ([], 150, "a window of 5 s"),
    ],
)
def test_auto_is_between_2_and_5_s_and_says_what_it_keeps(clips, frames, text):
    chosen, sentence = choose_frames(clips, PLAN)
    assert chosen == frames
    assert sentence.startswith(f"--frames auto is {frames}, ") and sentence.endswith(text)
