"""Settings of an extraction, and their form in the run contract."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pipeline.decode.config import DecodeConfig
from pipeline.filters import Thresholds
from pipeline.flow.config import RAFT_TOO_SMALL_PX, FlowConfig
from pipeline.flow.estimator import describe_estimator
from pipeline.motion import spectrum
from schemas.run_contract import to_json_value

KNOWN_FLOW = "known"
"""The flow of the contract of painted scenes, whose motion nobody had to estimate."""


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """How videos are cut into windows and windows are put into shards."""

    frames: int = 150
    """Frames of a window at the working rate; 150 at 30 fps are the paper's 5 s. With auto it is
    the largest number, from 2 s to 5 s, that at least 80 % of the clips have room for.
    """
    fps: float = 30.0
    """Working frame rate to which displacements are brought."""
    stride: int = 10
    """A window starts every this many frames at the working rate."""
    windows_per_shard: int = 64
    """Windows that are built and committed together, by one worker."""
    test_fraction: float = 0.1
    """Share of the videos held out for test, by hash of their source or content."""

    def __post_init__(self):
        for name, low in (("frames", 2), ("stride", 1), ("windows_per_shard", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least {low}")
        if not 0 < self.fps <= 1000:
            raise ValueError(f"fps is {self.fps}, expected more than 0 and at most 1000")
        if not 0 <= self.test_fraction <= 1:
            raise ValueError(f"test_fraction is {self.test_fraction}, expected 0 to 1")


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Everything that can change a byte of a shard."""

    size: tuple[int, int] = (256, 160)
    """Working resolution, width x height."""
    frequencies: int = 16
    """K: Fourier coefficients kept per displacement component."""
    pairs: int = 4
    """True later frames kept per sample, with their flow, for the renderer."""
    checks: int = 8
    """Frames of a window on which backward flow is computed too."""
    damp: bool = True
    """Replace displacements without confidence by what is confident around them, or by rest."""
    stabilize: bool = False
    """Subtract the motion of a hand-held camera, and judge and store what is left; it is fitted to
    what is at rest, and a window with too little at rest stays as it is.
    """
    plan: PlanConfig = field(default_factory=PlanConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    thresholds: Thresholds = field(default_factory=Thresholds)

    def __post_init__(self):
        if min(self.size) < 32 or max(self.size) > 4096:
            raise ValueError(
                f"size is {self.size[0]}x{self.size[1]}, expected 32 to 4096 pixels a side"
            )
        spectrum.check_frequencies(self.frequencies, self.plan.frames)
        for name in ("pairs", "checks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.flow.flow != "dis" and min(self.size) <= RAFT_TOO_SMALL_PX:
            raise ValueError(
                f"size is {self.size[0]}x{self.size[1]}, expected more than {RAFT_TOO_SMALL_PX} "
                f"pixels a side for {self.flow.flow}"
            )


def to_contract(config: BuildConfig) -> dict[str, Any]:
    """Returns the settings as the run contract holds them. Of the flow, these are the settings
    that decide its results; weights are named by the digest of their content.
    """
    return asdict(config) | {"flow": describe_estimator(config.flow)}


def from_contract(config: dict[str, Any], weights: str = "default") -> BuildConfig:
    """Inverse of `to_contract`. The contract holds the digest of RAFT's weights and not their path,
    which is given as `weights` (FlowConfig). Known motion (KNOWN_FLOW) has no estimator: it gives
    the default one, by which the dataset cannot be extended (`check_flow_settings`).

    Raises ValueError if a setting is missing, unknown or of another type.
    """
    try:
        is_known = config["flow"].get("flow") == KNOWN_FLOW
        settings = {} if is_known else config["flow"]
        flow = {name: value for name, value in settings.items() if name != "weights"}
        return _parse_setting(
            BuildConfig, config | {"flow": asdict(FlowConfig(weights=weights)) | flow}
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"run.json has settings that cannot be read: {error}") from error


def _parse_setting(kind: Any, value: Any, name: str = "config") -> Any:
    """Parses a setting of JSON, which has infinities as words and tuples as lists."""
    if hasattr(kind, "__dataclass_fields__"):
        kinds = get_type_hints(kind)
        if value.keys() != kinds.keys():
            raise ValueError(
                f"{sorted(value.keys() ^ kinds.keys())} are missing or not known in {name}"
            )
        return kind(**{part: _parse_setting(kinds[part], value[part], part) for part in kinds})
    if get_origin(kind) is tuple:
        return tuple(
            _parse_setting(part, item, name)
            for part, item in zip(get_args(kind), value, strict=True)
        )
    if not (
        value in get_args(kind)
        if get_origin(kind) is Literal
        else to_json_value(kind(value)) == value and kind in (float, type(value))
    ):
        raise ValueError(f"{name} is {value!r}, expected {getattr(kind, '__name__', kind)}")
    return value if get_origin(kind) is Literal else kind(value)
