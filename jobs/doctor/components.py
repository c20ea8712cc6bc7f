"""Checks what Quiver is built from: each check does the thing rather than asking whether it can."""

import tempfile
from importlib.metadata import version
from pathlib import Path

from jobs.doctor.finding import Finding, State


def check_torchvision() -> Finding:
    from pipeline.torchvision_import import raft_large, raft_small

    return Finding(
        State.OK,
        f"{version('torchvision')} brings {raft_small.__name__} and {raft_large.__name__}",
    )


def check_decoders() -> Finding:
    """Checks that a video of ours comes back from a decoder process, and that no listed codec is
    missing.
    """
    from pipeline.decode.config import DecodeConfig
    from pipeline.decode.container import ALLOWED_CODECS, missing_codecs
    from pipeline.decode.pool import DecoderPool
    from schemas.outcome import Quarantined

    with tempfile.TemporaryDirectory(prefix="quiver-") as folder:
        (path := Path(folder) / "a.mp4").write_bytes(_encode_test_film(".mp4"))
        pool = DecoderPool(DecodeConfig())
        try:
            video = pool.probe(str(path))
            count = sum(1 for _ in pool.frames(str(path), video, range(len(video.times)), (64, 64)))
        except Quarantined as error:
            return Finding(
                State.WRONG,
                f"a decoder process could not read a video of ours: {error.reason}, {error.detail}",
                "install av again",
            )
        finally:
            pool.close()
    if missing := missing_codecs():
        return Finding(
            State.WARNING,
            f"PyAV {version('av')} lacks {', '.join(missing)}",
            "such videos are quarantined: install PyAV from its wheel",
        )
    return Finding(
        State.OK,
        f"{video.decoder} read {count} frames of H.264 in a process of its own; "
        f"PyAV {version('av')} has all {len(ALLOWED_CODECS)} codecs",
    )


def check_sandbox() -> Finding:
    """Checks what a decoder process that a malicious file has taken over cannot do here."""
    from pipeline.decode.client import DecoderProcess
    from pipeline.decode.config import DecodeConfig
    from pipeline.decode.sandbox import DEFENSES

    process = DecoderProcess(DecodeConfig())
    process.close()
    if not process.has_started:
        return Finding(State.WRONG, "a decoder process does not start", "install av again")
    missing = [words for name, words in DEFENSES.items() if name not in process.defenses]
    if not missing:
        return Finding(State.OK, f"all of it holds: {'; '.join(DEFENSES.values())}")
    return Finding(
        State.WARNING,
        f"holds, but for {len(missing)} of {len(DEFENSES)}: it is not certain that "
        + "; ".join(missing),
        "docs/design/security.md says what each needs; "
        "a container without a network makes up for most",
    )


def check_encoders() -> Finding:
    """Checks that each kind of animation is written, without an ffmpeg of the system."""
    from pipeline.images.encode import ENCODERS

    suffixes = [suffix for suffix in ENCODERS if suffix != ".png"]
    for suffix in suffixes:
        _encode_test_film(suffix)
    return Finding(
        State.OK, f"{', '.join(suffixes)} by PyAV {version('av')} and Pillow {version('pillow')}"
    )


def _encode_test_film(suffix: str) -> bytes:
    """Encodes 8 grey frames of 64 x 64 pixels, each lighter than the last."""
    import numpy as np

    from pipeline.images.encode import encode_animation

    frames = (np.full((64, 64, 3), 20 * i, np.uint8) for i in range(8))
    return encode_animation(frames, 25.0, suffix)


def check_splatting() -> Finding:
    """Checks that the kernel is built, or can be."""
    from model.render.splatting_cpu import kernel_path, load_kernel

    if load_kernel() is None:
        return Finding(
            State.WARNING,
            "its kernel cannot be built: animations come out alike, several times slower",
            "install a C++ compiler (g++) and ninja",
        )
    return Finding(State.OK, f"its kernel is {kernel_path()}")


def check_raft_weights() -> Finding:
    """Checks that a cached file of weights is the one that was published."""
    from pipeline.flow.raft_weights import check_published_digest, locate_default_weights

    paths = {flow: locate_default_weights(flow)[1] for flow in ("raft_small", "raft_large")}
    missing = [flow for flow, path in paths.items() if not path.exists()]
    try:
        for flow, path in paths.items():
            if flow not in missing:
                check_published_digest(path)
    except ValueError as error:
        return Finding(
            State.WRONG,
            str(error),
            "delete that file, which somebody or a broken download has changed",
        )
    folder = paths["raft_small"].parent
    if not missing:
        return Finding(State.OK, f"both in {folder}")
    return Finding(
        State.WARNING,
        f"of {' and '.join(missing)} are not in {folder}",
        "--flow raft_... downloads them, or takes a file by --weights FILE; --flow dis needs none",
    )
