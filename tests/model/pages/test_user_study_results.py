"""What a study's answers say, against numbers known from elsewhere, and files that the page did not
write.
"""

import math

import pytest

from model.pages.user_study_results import (
    CSV_COLUMNS,
    count_viewer_leanings,
    estimate_preference,
    merge_choices,
    overall_preference,
    preference_per_pair,
    read_choices,
)

HEAD = ",".join(CSV_COLUMNS)
STUDY = "s0123456789ab"


def row(
    viewer: int,
    pair: str,
    left: str = "A",
    choice: str = "left",
    seconds: str = "2.50",
    study: str = STUDY,
) -> str:
    return f"{study},v{viewer:08x},7,{pair},{left},{'AB'[left == 'A']},{choice},{seconds}"


def file(*rows: str) -> bytes:
    return "\r\n".join((HEAD, *rows, "")).encode()


def wilson(chosen: int, of: int) -> tuple[float, float]:
    """Wilson (1927), written out."""
    z, p = 1.959963984540054, chosen / of
    middle, half = p + z * z / (2 * of), z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    return (middle - half) / (1 + z * z / of), (middle + half) / (1 + z * z / of)


def test_the_papers_study():
    """30 videos, 35 people, 80.9 % for the paper's results: 849 of 1050 choices."""
    found = estimate_preference(849, 1050)
    assert f"{100 * found.share:.1f}" == "80.9"
    assert (found.low, found.high) == pytest.approx(wilson(849, 1050), abs=1e-12)
    assert (found.low, found.high) == pytest.approx((0.7837, 0.8312), abs=1e-3)
    assert found.p < 1e-90


@pytest.mark.parametrize(
    ("chosen", "of", "p"),
    [(5, 5, 2 / 32), (0, 5, 2 / 32), (5, 10, 1.0), (8, 10, 2 * (45 + 10 + 1) / 1024), (1, 1, 1.0)],
)
def test_small_studies(chosen, of, p):
    found = estimate_preference(chosen, of)
    assert found.p == pytest.approx(p)
    assert (found.low, found.high) == pytest.approx(wilson(chosen, of), abs=1e-12)
    assert 0 <= found.low <= found.share <= found.high <= 1


def test_choices_count_for_the_set_that_was_chosen_wherever_it_stood():
    choices = read_choices(
        file(
            row(1, "x", "A", "left"),
            row(1, "y", "A", "right"),
            row(1, "z", "B", "left"),
            row(1, "u", "B", "right"),
        )
    )
    assert [one.is_for_a for one in choices] == [True, False, False, True]
    assert overall_preference(choices).chosen == 2 and overall_preference(choices).of == 4


def test_pairs_and_viewers_are_told_apart():
    files = [
        ("1", read_choices(file(row(1, "x"), row(1, "y")))),
        ("2", read_choices(file(row(2, "x"), row(2, "y", choice="right")))),
        ("3", read_choices(file(row(3, "x", choice="right")))),
    ]
    choices = merge_choices(files)
    assert {name: (one.chosen, one.of) for name, one in preference_per_pair(choices).items()} == {
        "x": (2, 3),
        "y": (1, 2),
    }
    assert count_viewer_leanings(choices) == (1, 1, 1)


def test_a_name_may_hold_what_a_csv_quotes():
    (choice,) = read_choices(file(row(1, '"a, ""b"""')))
    assert choice.pair == 'a, "b"'


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "begins with '', expected the columns study,viewer"),
        (b"pair,left\r\nx,A\r\n", "begins with 'pair,left', expected the columns study,viewer"),
        (file(), "has no choice"),
        (b"\xff\xfe\x00", "is not a CSV file in UTF-8"),
        (file(row(1, '"x')), "is not a CSV file in UTF-8"),
        (file(row(1, "x") + ",more"), "has 9 fields in row 2, expected 8"),
        (
            file(row(1, "x"), row(1, "y", choice="middle")),
            "has choice 'middle' in row 3, expected left or right",
        ),
        (file(row(1, "x", left="C")), "has left 'C' in row 2, expected A or B"),
        (file(f"{STUDY},v00000001,7,x,A,A,left,2"), "has A on both sides in row 2"),
        (
            file(row(1, "x", seconds="nan")),
            "has seconds 'nan' in row 2, expected a number of seconds",
        ),
        (file(row(1, "x", seconds="1e9")), "has seconds '1e9' in row 2"),
        (
            file(row(1, "x", study="sX")),
            "has study 'sX' in row 2, expected s and 12 hexadecimal digits",
        ),
        (
            file(f"{STUDY},1,7,x,A,B,left,2"),
            "has viewer '1' in row 2, expected v and 8 hexadecimal digits",
        ),
        (file(row(1, "")), "has pair '' in row 2, expected a name"),
        (file(row(1, "x" * 301)), "expected a name of 1 to 300 characters"),
        (file(row(1, '"a\nb"')), "has pair 'a b' in row 2, expected a name"),
        (file(*[row(1, f"x{i}") for i in range(30000)]), "is too large, expected at most 1 MB"),
        (file("\x1b[31mred" + row(1, "x")), "has study '?[31mreds0123456789ab' in row 2"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_the_page_does_not_write_is_refused(data, sentence):
    with pytest.raises(ValueError) as refused:
        read_choices(data)
    assert sentence in str(refused.value)
    assert str(refused.value).isprintable()


def test_files_of_different_studies_and_the_same_file_twice_are_refused():
    one, other = (
        read_choices(file(row(1, "x"))),
        read_choices(file(row(2, "x", study="s" + "f" * 12))),
    )
    with pytest.raises(
        ValueError,
        match=r"b\.csv is of study sffffffffffff and the files before of s0123456789ab,"
        " expected one study",
    ):
        merge_choices([("a.csv", one), ("b.csv", other)])
    with pytest.raises(
        ValueError, match=r"viewer v00000001 judged 'x' twice, in a\.csv and b\.csv, expected once"
    ):
        merge_choices([("a.csv", one), ("b.csv", one)])
