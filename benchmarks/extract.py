"""From a complete video to a committed shard, against the scripts that one would write for it.

Quiver does all that a run does: plan, decode, flow, spectrum, measures, verdicts, samples, tar,
fsync, record; no filter rejects, so every window is written. The naive script goes window by
window: decord's frames at full size, resized, converted to gray, OpenCV DIS, numpy.fft.rfft,
numpy.savez. The smart script has decord scale the frames instead. Both keep one reader open for the
video, use the same DIS preset and the same 149 pairs a window, and neither measures, checks or
syncs.

The scripts are timed on a few windows, which are the middles of equal parts, the latest first, so
that each begins with a seek as in a complete pass; the times are scaled to all windows. `--full`
runs one complete naive pass to check that. DIS alone, on frames that are ready, is the lower bound
for all of them, and so bounds how many times as fast as a script anything with the same flow could
be.
"""

import functools
import tempfile
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import av
import cv2
import decord
import numpy as np

from benchmarks.clips import ordinary_clip
from benchmarks.rounds import (
    Target,
    arguments,
    interleaved,
    medians,
    one_cpu,
    report,
    speedup,
    table,
    timed,
    timings_table,
)
from benchmarks.windows import planned
from pipeline.dataset.folder import Dataset
from pipeline.extract.build_shard import build_shard
from pipeline.extract.config import BuildConfig, to_contract
from pipeline.filters import PRESETS
from pipeline.flow.config import FlowConfig
from schemas.outcome import Outcome

SIZES = ((640, 360), (1280, 720))
GOALS = {"medium": (6, 2), "fast": (12, 3)}
"""How many times as long as Quiver the naive and the smart script should take, by preset."""
WINDOW, FREQUENCIES = 150, 16


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of the videos")
    parser.add_argument(
        "--windows", type=int, default=5, help="windows on which the scripts are timed"
    )
    parser.add_argument(
        "--clips",
        type=Path,
        default=Path(tempfile.gettempdir()) / "quiver-bench-clips",
        help="folder where the videos are kept",
    )
    parser.add_argument(
        "--full", action="store_true", help="also one whole naive pass, to check the scaling"
    )
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.windows, options.rounds = 7.0, 2, 1
    one_cpu()
    targets, tables = [], []
    for size in SIZES[: 1 if options.quick else None]:
        path = ordinary_clip(options.clips, size, options.seconds)
        targets.append(decoded_target(path))
        for preset in GOALS:
            clip_targets, body = compare(
                path, preset, options.rounds, options.windows, options.full
            )
            targets, tables = targets + clip_targets, [*tables, body]
            print(f"{body}\n", flush=True)
    report(
        "extract", "Video to shard", __doc__, "\n\n".join(tables), targets, keep=not options.quick
    )


def compare(
    path: Path, preset: str, rounds: int, windows: int, full: bool
) -> tuple[list[Target], str]:
    """Measures Quiver on the whole video and both scripts on some windows, in turns."""
    config = BuildConfig(flow=FlowConfig(dis_preset=preset), thresholds=PRESETS["none"])
    starts = [row.window().start_frame for row in planned(path, config)]
    sample = [starts[int((i + 0.5) * len(starts) / windows)] for i in range(windows)][::-1]
    contenders: dict[str, Callable] = {"Quiver": functools.partial(quiver, path, config)}
    for script in (naive, smart):
        contenders[f"{script.__name__} script, {len(sample)} of {len(starts)} windows"] = (
            functools.partial(script(path, config), sample)
        )
    contenders[f"DIS alone, {len(sample)} windows"] = functools.partial(
        flow_alone, ready(path, config, sample), estimator(config)
    )
    timings = interleaved(contenders, rounds, warm_up=False)
    quiver_times, *script_times, flow_times = timings.values()
    name = f"{path.stem.split('-')[1]}, {preset}"
    targets = [
        speedup(
            f"{name}: {script} script / Quiver",
            goal,
            quiver_times,
            seconds,
            share=len(sample) / len(starts),
        )
        for script, goal, seconds in zip(
            ("naive", "smart"), GOALS[preset], script_times, strict=True
        )
    ]
    limits = [
        f"{kind} {medians(seconds).cpu / medians(flow_times).cpu:.2g} times"
        for kind, seconds in zip(("naive", "smart"), script_times, strict=True)
    ]
    text = (
        f"{name}, {len(starts)} windows:\n\n{timings_table(timings)}\n\n"
        f"Processor time against DIS alone: {', '.join(limits)}."
    )
    return targets, text + (f"\n\n{scaling(naive(path, config), starts, sample)}" if full else "")


def scaling(
    script: Callable[[Sequence[int]], None], starts: Sequence[int], sample: Sequence[int]
) -> str:
    """Checks that a few windows stand for all: one whole pass between two sampled ones."""
    before, full_pass, after = (
        timed(functools.partial(script, windows)) for windows in (sample, starts, sample)
    )
    scaled = [(a + b) / 2 * len(starts) / len(sample) for a, b in zip(before, after, strict=True)]
    return table(
        ("naive script", "clock, s", "processor, s"),
        [("all windows", *full_pass), ("scaled from the sample", *scaled)],
    )


def quiver(path: Path, config: BuildConfig) -> None:
    """Creates a dataset of one video, with every shard committed."""
    with tempfile.TemporaryDirectory() as folder:
        rows, dataset = planned(path, config), Dataset(Path(folder) / "out")
        with dataset.lock():
            dataset.create_or_resume(rows, to_contract(config), {})
            for shard, group in groupby(rows, key=lambda row: row.shard):
                outcomes = {
                    decided.outcome
                    for decided in list(build_shard(dataset, shard, list(group), config))[:-1]
                }
                assert outcomes == {Outcome.KEPT}, outcomes


def naive(path: Path, config: BuildConfig) -> Callable[[Sequence[int]], None]:
    """Reads whole frames with decord and scales them with OpenCV."""
    return script(decord.VideoReader(str(path), num_threads=1), config)


def smart(path: Path, config: BuildConfig) -> Callable[[Sequence[int]], None]:
    """Reads frames that decord scales."""
    width, height = config.size
    return script(decord.VideoReader(str(path), width=width, height=height, num_threads=1), config)


def script(reader: decord.VideoReader, config: BuildConfig) -> Callable[[Sequence[int]], None]:
    """Computes flow and FFT of each window that starts at one of these frames; writes an .npz."""
    dis = estimator(config)

    def run(starts: Sequence[int]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for start in starts:
                frames = reader.get_batch(range(start, start + WINDOW)).asnumpy()
                if frames.shape[2:0:-1] != config.size:
                    frames = [
                        cv2.resize(frame, config.size, interpolation=cv2.INTER_AREA)
                        for frame in frames
                    ]
                grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
                flow = np.stack(
                    [
                        np.zeros((*grey[0].shape, 2), np.float32),
                        *(dis.calc(grey[0], later, None) for later in grey[1:]),
                    ]
                )
                np.savez(
                    f"{folder}/{start}.npz",
                    image=frames[0],
                    spectrum=np.fft.rfft(flow, axis=0)[:FREQUENCIES],
                )

    return run


def estimator(config: BuildConfig) -> cv2.DISOpticalFlow:
    """Creates OpenCV's estimator, as a script does."""
    presets = {"medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM, "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST}
    return cv2.DISOpticalFlow.create(presets[config.flow.dis_preset])


def ready(path: Path, config: BuildConfig, starts: Sequence[int]) -> list[list[np.ndarray]]:
    """Yields the grey frames of each window."""
    reader = decord.VideoReader(
        str(path), width=config.size[0], height=config.size[1], num_threads=1
    )
    return [
        [
            cv2.cvtColor(f, cv2.COLOR_RGB2GRAY)
            for f in reader.get_batch(range(start, start + WINDOW)).asnumpy()
        ]
        for start in starts
    ]


def flow_alone(windows: Sequence[Sequence[np.ndarray]], dis: cv2.DISOpticalFlow) -> None:
    """Computes the flow of all pairs of each window, and discards it."""
    for first, *later_frames in windows:
        for later in later_frames:
            dis.calc(first, later, None)


def decoded_target(path: Path) -> Target:
    """Frames decoded for a window, from the keyframes in the file's packets: those wanted, and
    those on the way to them.

    Quiver decodes a stretch (a video's windows in one shard) once; a script goes back to a keyframe
    for each window.
    """
    with av.open(str(path)) as file:
        packets = sorted(
            (packet.pts, packet.is_keyframe) for packet in file.demux(video=0) if packet.size
        )
    keys = np.flatnonzero([key for _, key in packets])
    rows = planned(path, BuildConfig())
    stretches = [
        [row.window().start_frame for row in group]
        for _, group in groupby(rows, key=lambda row: row.shard)
    ]
    quiver_frames = sum(decoded(keys, starts[0], starts[-1]) for starts in stretches) / len(rows)
    firsts = [row.window().start_frame for row in rows]
    script_frames = sum(decoded(keys, first, first) for first in firsts) / len(rows)
    size = path.stem.split("-")[1]
    return Target(
        name=f"{size}: frames decoded a window, "
        f"scripts {script_frames:.0f} / Quiver {quiver_frames:.1f}",
        goal=10,
        reached=script_frames / quiver_frames,
    )


def decoded(keys: np.ndarray, first: int, last: int) -> int:
    """Counts the frames from the keyframe before window `first` to the end of window `last`."""
    return last + WINDOW - int(keys[keys <= first].max())


if __name__ == "__main__":
    main()
