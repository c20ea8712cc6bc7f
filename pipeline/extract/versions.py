"""Lists the versions of the libraries that can change the bytes of a shard."""

import platform
from importlib.metadata import version

from pipeline.extract.config import BuildConfig
from pipeline.version import quiver_version

_RECORDED_PACKAGES = (
    "numpy",
    "scipy",
    "opencv-python-headless",
    "av",
    "pillow",
    "safetensors",
    "pyarrow",
)


def library_versions(config: BuildConfig) -> dict[str, str]:
    """Returns what decides the bytes of a shard apart from the configuration: versions by package,
    and the machine.
    """
    # Not imported above, like every package of an extra: if one is missing, `jobs` says which
    # extra brings it.
    import cv2

    packages = [
        *_RECORDED_PACKAGES,
        *(["decord"] if config.decode.decoder == "auto" else []),
        *(["torch", "torchvision"] if config.flow.flow != "dis" else []),
    ]
    return {
        "quiver": quiver_version(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": cv2.getCPUFeaturesLine(),
    } | {name: version(name) for name in packages}
