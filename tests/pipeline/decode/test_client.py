"""A decoder that hangs, crashes, leaks or lies costs one clip, in time, and leaves nothing."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.decode.client import COMMAND, DecoderDied, DecoderProcess
from pipeline.decode.config import DecodeConfig
from pipeline.decode.pool import MAX_ATTEMPTS, DecoderPool, Prefetcher, split_at_keyframes
from pipeline.decode.probe import probe
from schemas.outcome import Quarantined, Reason
from tests.faults.reference import choose_count
from tests.pipeline.decode.test_probe import with_a_lost_picture
from tests.support.numbered import FRAME_COUNT, SIZE, encode_numbered, read_frames, read_number

ROOT = Path(__file__).resolve().parents[3]
CONFIG = DecodeConfig(deadline_s=4.0, decoder_memory_mb=400)


def fake(config: DecodeConfig) -> DecoderProcess:
    """A process that misbehaves as the name of the file says."""
    return DecoderProcess(config, (sys.executable, str(Path(__file__).with_name("misbehaving.py"))))


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return encode_numbered(tmp_path_factory.mktemp("video") / "good.mp4", options={"g": "24"}).path


def children() -> set[int]:
    """Ids of this process's children, including dead ones that were not waited for."""
    listing = subprocess.run(
        ["ps", "--ppid", str(os.getpid()), "-o", "pid="], capture_output=True, text=True
    ).stdout
    return {int(pid) for pid in listing.split() if Path(f"/proc/{pid}").exists()}


@pytest.mark.sample(2)
@pytest.mark.slow
@pytest.mark.promise("P10")
@pytest.mark.parametrize("attempt", range(choose_count(10, 1)))
@pytest.mark.parametrize(
    "how, reason, words",
    [
        ("sleeps", Reason.TIMEOUT, "silent for 4 s"),
        ("ignores_sigterm", Reason.TIMEOUT, "silent for 4 s"),
        ("spins", Reason.TIMEOUT, "silent for 4 s"),
        ("segfaults", Reason.CRASH, "SIGSEGV"),
        ("aborts", Reason.CRASH, "SIGABRT"),
        ("exits", Reason.CRASH, "exited with code 0"),
        ("leaks", Reason.OUT_OF_MEMORY, "memory"),
        ("leaks_shared", Reason.OUT_OF_MEMORY, "the decoder took"),
        ("takes_much_at_once", Reason.OUT_OF_MEMORY, "asked for more memory"),
        ("speaks_nonsense", Reason.CRASH, "nonsense"),
        ("sends_too_much", Reason.CRASH, "announced a message of more than 64 MB"),
        ("sends_a_part", Reason.TIMEOUT, "silent for 4 s"),
        ("nests_deeply", Reason.CRASH, "nonsense"),
    ],
)
def test_a_decoder_that_misbehaves_is_ended_within_its_deadline(
    video, tmp_path, attempt, how, reason, words
):
    path = shutil.copy(video, tmp_path / f"{how}.mp4")
    process, before = fake(CONFIG), time.monotonic()
    memory = process.memory.fileno()
    with pytest.raises((DecoderDied, Quarantined)) as caught:
        process.probe(str(path))
    assert time.monotonic() - before < CONFIG.deadline_s + 2
    assert caught.value.reason == reason and words in caught.value.detail
    process.close()
    assert process.process.pid not in children()
    with pytest.raises(OSError, match="Bad file descriptor"):  # nobody holds the pictures
        os.fstat(memory)


def test_a_child_cannot_take_the_shared_memory_away(video, tmp_path):
    """Reading memory that is gone would end the parent by SIGBUS."""
    process = fake(CONFIG)
    pictures = process.pictures(
        str(video), process.probe(str(video)), range(FRAME_COUNT), (640, 400)
    )
    first = next(pictures)
    with pytest.raises(PermissionError):
        os.ftruncate(process.memory.fileno(), 0)
    assert read_number(first.image) == 0
    assert [read_number(picture.image) for picture in pictures] == list(range(1, FRAME_COUNT))
    process.close()


@pytest.mark.promise("P10")
def test_a_leak_is_bounded_by_the_limit_and_a_tenth(video, tmp_path):
    process, peak = fake(CONFIG), 0
    path = shutil.copy(video, tmp_path / "leaks.mp4")
    with pytest.raises((DecoderDied, Quarantined)):
        process.probe(str(path))
    peak = process.resident_bytes
    process.close()
    assert peak <= 1.1 * CONFIG.decoder_memory_mb * 2**20


@pytest.mark.promise("P10")
def test_a_leak_from_clip_to_clip_costs_no_clip(video, tmp_path, record_property):
    """100 MB leak per clip, and the limit allows three: the process is replaced before that."""
    processes, clips = [], choose_count(10, 4)
    pool = DecoderPool(CONFIG, 1, lambda config: processes.append(fake(config)) or processes[-1])
    path = str(shutil.copy(video, tmp_path / "leaks_a_clip.mp4"))
    for _ in range(clips):
        assert len(pool.probe(path).times) == FRAME_COUNT
    assert clips // 3 <= len(processes)
    limit = 1.1 * CONFIG.decoder_memory_mb * 2**20
    assert max(process.resident_bytes for process in processes) <= limit
    pool.close()
    assert not {process.process.pid for process in processes} & children()
    record_property("injections", clips)


@pytest.mark.promise("P10")
def test_a_clip_whose_decoder_dies_is_tried_three_times_and_its_neighbours_are_decoded(
    video, tmp_path
):
    pool = DecoderPool(CONFIG, 1, fake)
    with pytest.raises(Quarantined) as caught:
        pool.probe(str(shutil.copy(video, tmp_path / "aborts.mp4")))
    assert (caught.value.reason, caught.value.attempts) == (Reason.CRASH, MAX_ATTEMPTS)
    images = pool.frames(str(video), pool.probe(str(video)), [0, 30, 31], SIZE)
    assert [read_number(image) for image in images] == [0, 30, 31]
    pool.close()


def test_a_decoder_that_dies_once_costs_nothing(video, tmp_path):
    makes = iter([fake, DecoderProcess])
    pool = DecoderPool(CONFIG, 1, lambda config: next(makes)(config))
    path = str(shutil.copy(video, tmp_path / "aborts.mp4"))
    assert len(pool.probe(path).times) == FRAME_COUNT and next(makes, None) is None
    pool.close()


def detail_of(path: str, *earlier: str) -> str:
    """The detail of a crash at `path`, of a decoder that has probed other files before."""
    process = fake(CONFIG)
    for earlier_path in earlier:
        process.probe(earlier_path)
    with pytest.raises(DecoderDied) as caught:
        process.probe(path)
    assert caught.value.reason == Reason.CRASH
    return caught.value.detail


def test_the_detail_of_a_crash_has_its_last_errors_and_is_the_same_each_time(video, tmp_path):
    """It is printable, fits into a table, and has nothing that differs from run to run or is about
    another clip.
    """
    path, talkative = (
        str(shutil.copy(video, tmp_path / f"{how}.mp4")) for how in ("says_and_aborts", "says_much")
    )
    detail, again = detail_of(path), detail_of(path, talkative)
    assert detail == again and len(detail) <= 500 and detail.isprintable()
    assert (
        detail.startswith("the decoder was ended by SIGABRT; it said: ")
        and "line 1999 / [h264 @ ?] broken?[31m" in detail
    )
    assert " / ==PID== " in detail and detail.endswith(": the heap is corrupt")
    assert str(tmp_path) not in detail and "words" not in detail


def test_a_decoder_that_does_not_load_says_why(tmp_path):
    """For example because a library is missing."""
    process = DecoderProcess(CONFIG, (sys.executable, "-c", "import av.of_another_version"))
    with pytest.raises(DecoderDied) as caught:
        process.probe(str(tmp_path / "a.mp4"))
    assert caught.value.reason == Reason.CRASH and "exited with code 1" in caught.value.detail
    assert caught.value.detail.endswith(
        "ModuleNotFoundError: No module named 'av.of_another_version'"
    )


def test_a_decoder_that_says_much_waits_for_nobody(video, tmp_path):
    process = fake(CONFIG)
    path = str(shutil.copy(video, tmp_path / "says_much.mp4"))
    assert len(process.probe(path).times) == FRAME_COUNT
    process.close()


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_frames_that_came_before_the_decoder_died_are_given(video, tmp_path, count):
    pool = DecoderPool(CONFIG, count, fake)
    path = str(shutil.copy(video, tmp_path / "halfway.mp4"))
    images = pool.frames(path, pool.probe(path), range(FRAME_COUNT), (512, 320))
    numbers = []
    with pytest.raises(Quarantined):
        numbers.extend(read_number(image) for image in images)
    assert 0 < len(numbers) < FRAME_COUNT and numbers == list(range(len(numbers)))
    pool.close()


@pytest.mark.parametrize("count", [1, 2])
def test_a_refusal_in_the_middle_of_the_frames_comes_after_those_before_it(tmp_path, count):
    """The pictures of a slot that is not full are not lost, the process stays alive, and one
    refusal is final.
    """
    path = str(with_a_lost_picture(tmp_path / "hevc.mp4", "hevc.mp4", 100))
    processes, numbers = [], []
    pool = DecoderPool(
        DecodeConfig(),
        count,
        lambda config: processes.append(DecoderProcess(config)) or processes[-1],
    )
    images = pool.frames(path, pool.probe(path), range(FRAME_COUNT), SIZE)
    with pytest.raises(Quarantined) as caught:
        numbers.extend(read_number(image) for image in images)
    assert (caught.value.reason, caught.value.attempts) == (Reason.DECODE_ERROR, 1)
    assert 90 <= len(numbers) < FRAME_COUNT and numbers == list(range(len(numbers)))
    assert len(processes) <= count
    pool.close()


@pytest.mark.thorough
@pytest.mark.promise("P10")
@pytest.mark.parametrize("size", [SIZE, (4096, 2560)])
def test_a_lost_picture_costs_no_frame_before_it_and_no_other_clip(video, tmp_path, size):
    """This holds for any size: if few pictures fit into memory, they are read in parts."""
    path = str(with_a_lost_picture(tmp_path / "h264.mp4", "h264.mp4", 44))
    pool = DecoderPool(DecodeConfig(), 1)
    info = pool.probe(path)
    images = pool.frames(path, info, range(24, 44), size)
    assert [read_number(image) for image in images] == list(range(24, 44))
    pictures = list(pool.pictures(path, info, range(40, 51), size))
    assert [picture.damage is None for picture in pictures] == (
        4 * [True] + 4 * [False] + 3 * [True]
    )
    numbers = [read_number(picture.image) for picture in pictures if not picture.damage]
    assert numbers == [40, 41, 42, 43, 48, 49, 50]
    assert len(pool.probe(str(video)).times) == FRAME_COUNT
    pool.close()


@pytest.mark.promise("P10")
def test_what_a_decoder_says_unasked_is_no_answer(video, tmp_path):
    process = fake(CONFIG)
    process.probe(str(shutil.copy(video, tmp_path / "says_more.mp4")))
    assert process.connection.poll(CONFIG.deadline_s)
    with pytest.raises(DecoderDied, match="without being asked"):
        process.probe(str(video))
    assert process.process.pid not in children()


@pytest.mark.slow
def test_the_time_in_which_a_decoder_loads_itself_is_no_clips(video):
    """A busy machine takes much longer for it than an idle one."""
    code = (
        f"import sys, time; time.sleep({CONFIG.deadline_s + 1}); "
        "from pipeline.decode import worker; worker.main(sys.argv[1:])"
    )
    process = DecoderProcess(CONFIG, (sys.executable, "-c", code))
    assert len(process.probe(str(video)).times) == FRAME_COUNT
    process.close()


def test_a_file_that_is_replaced_is_refused_even_with_the_same_time_and_size(video, tmp_path):
    path = str(shutil.copy2(video, tmp_path / "a.mp4"))
    process = DecoderProcess(DecodeConfig())
    info = process.probe(path)
    assert len(list(process.pictures(path, info, [3, 4], SIZE))) == 2
    shutil.copy2(video, tmp_path / "b.mp4")
    os.replace(tmp_path / "b.mp4", path)
    with pytest.raises(Quarantined) as caught:
        list(process.pictures(path, info, [3, 4], SIZE))
    assert caught.value.reason == Reason.HASH_MISMATCH
    assert list(process.pictures(path, process.probe(path), [], SIZE)) == []
    process.close()


def test_a_process_that_cannot_be_started_costs_its_own_request_alone(video):
    starts = []

    def make(config):
        starts.append(1)
        if len(starts) == 1:
            raise BlockingIOError("no more processes")
        return DecoderProcess(config)

    pool = DecoderPool(DecodeConfig(), 1, make)
    with pytest.raises(BlockingIOError):
        pool.probe(str(video))
    assert len(pool.probe(str(video)).times) == FRAME_COUNT
    pool.close()


def test_a_process_that_starts_late_answers_all_the_same(video, monkeypatch):
    """On a busy machine loading may take longer than the wait, which is not the clip's fault."""
    monkeypatch.setattr("pipeline.decode.client.START_TIMEOUT_S", 0.0)
    process = DecoderProcess(DecodeConfig())
    monkeypatch.setattr("pipeline.decode.client.START_TIMEOUT_S", 60.0)
    assert len(process.probe(str(video)).times) == FRAME_COUNT
    process.close()


def test_a_process_that_never_starts_is_said_to_be_that(video, monkeypatch):
    monkeypatch.setattr("pipeline.decode.client.START_TIMEOUT_S", 0.2)
    process = DecoderProcess(CONFIG, (sys.executable, "-c", "import time; time.sleep(1000)"))
    with pytest.raises(DecoderDied, match=r"had not loaded itself after 0\.4 s") as caught:
        process.probe(str(video))
    assert caught.value.reason == Reason.TIMEOUT and not process.is_alive()


@pytest.mark.slow
def test_frames_that_nobody_takes_do_not_keep_a_program_from_ending(video):
    code = (
        "from pipeline.decode import DecodeConfig, DecoderPool; "
        f"pool, path = DecoderPool(DecodeConfig(), 2), {str(video)!r}; "
        "next(pool.frames(path, pool.probe(path), range(150), (640, 400)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=20).returncode == 0


@pytest.mark.slow
def test_pictures_of_the_largest_size_are_decoded_within_the_memory(video):
    pool = DecoderPool(DecodeConfig(), 1)
    images = pool.frames(str(video), pool.probe(str(video)), range(40), (4096, 2560))
    assert [image.shape for image in images] == [(2560, 4096, 3)] * 40
    pool.close()


def test_a_refusal_passes_through_and_the_process_lives_on(video, tmp_path):
    process = DecoderProcess(DecodeConfig())
    (tmp_path / "text.mp4").write_text("not a video")
    for _ in range(2):
        with pytest.raises(Quarantined) as caught:
            process.probe(str(tmp_path / "text.mp4"))
        assert caught.value.reason == Reason.NOT_MEDIA
        assert len(process.probe(str(video)).times) == FRAME_COUNT
    process.close()


def test_the_child_loads_no_torch(video):
    code = (
        "import sys, pipeline.decode.worker, pipeline.decode.probe, pipeline.decode.readers; "
        "sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    assert COMMAND[-1] == "pipeline.decode.worker"


@pytest.mark.slow
def test_a_child_whose_parent_is_killed_goes_away_in_the_middle_of_its_work(video, tmp_path):
    path = shutil.copy(video, tmp_path / "spins.mp4")
    program = str(Path(__file__).with_name("misbehaving.py"))
    code = (
        "import sys; from pipeline.decode import DecodeConfig; "
        "from pipeline.decode.client import DecoderProcess; "
        f"process = DecoderProcess(DecodeConfig(), (sys.executable, {program!r})); "
        f"print(process.process.pid, flush=True); process.probe({str(path)!r})"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    child = int(parent.stdout.readline())
    assert Path(f"/proc/{child}").exists()
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()


@pytest.mark.sample(2)
@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("size", [(128, 80), (640, 400)])
def test_any_number_of_decoders_gives_the_same_pixels_in_the_same_order(video, count, size):
    pool = DecoderPool(DecodeConfig(), count)
    indices = range(3, FRAME_COUNT - 2)
    images = np.stack(list(pool.frames(str(video), pool.probe(str(video)), indices, size)))
    expected = np.stack(list(read_frames(probe(str(video), DecodeConfig()), indices, size)))
    np.testing.assert_array_equal(images, expected)
    pool.close()


@pytest.mark.slow
def test_a_reader_that_is_left_in_the_middle_harms_nobody(video):
    pool = DecoderPool(DecodeConfig(), 2)
    info = pool.probe(str(video))
    for _ in range(3):
        images = pool.frames(str(video), info, range(FRAME_COUNT), (640, 400))
        assert read_number(next(images)) == 0
        images.close()
    images = pool.frames(str(video), info, [7, 100], SIZE)
    assert [read_number(image) for image in images] == [7, 100]
    pool.close()


def test_a_worn_process_is_replaced(video, monkeypatch):
    monkeypatch.setattr("pipeline.decode.pool.MAX_PROCESS_REQUESTS", 2)
    processes = []
    pool = DecoderPool(
        DecodeConfig(), 1, lambda config: processes.append(DecoderProcess(config)) or processes[-1]
    )
    for _ in range(5):
        pool.probe(str(video))
    assert [process.is_alive() for process in processes] == [False, False, True]
    pool.close()


def test_pieces_begin_at_key_frames_and_hold_every_index_once():
    pieces = list(split_at_keyframes(range(10, 500), np.array([0, 100, 130, 250, 480])))
    assert [int(piece[0]) for piece in pieces] == [10, 100, 250]
    assert [i for piece in pieces for i in piece] == list(range(10, 500))
    assert [list(piece) for piece in split_at_keyframes([5, 6, 7], np.array([0]))] == [[5, 6, 7]]


def test_what_is_taken_ahead_arrives_in_order_and_the_error_last():
    def items():
        yield from range(20)
        raise ValueError("the end")

    received = []
    with pytest.raises(ValueError, match="the end"):
        received.extend(Prefetcher(items(), 3))
    assert received == list(range(20))


def test_what_is_taken_ahead_is_closed_when_nobody_wants_it():
    closed = []

    def items():
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    prefetcher = Prefetcher(items(), 3)
    next(prefetcher)
    prefetcher.close()
    prefetcher.thread.join(5)
    assert closed == [True]
