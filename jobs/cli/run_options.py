"""Options that extract-flow, retry and repair share, and the checks of their values."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from jobs.cli.errors import ExitCode, exit_with
from jobs.cluster import Resources
from pipeline.dataset.folder import ContractMismatch, Dataset
from pipeline.dataset.object_store import is_storage_url
from pipeline.extract.config import BuildConfig, from_contract
from pipeline.flow.config import FlowConfig, uses_gpu
from pipeline.flow.estimator import describe_estimator
from pipeline.redact import check_not_url


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    workers: int | None = None
    """Worker processes; by default, as many as fit."""
    decoders_per_worker: int = 1
    """Decoder processes, and CPU cores, of each worker; more if a GPU computes the flow faster than
    one decodes.
    """
    gpus_per_worker: float | None = None
    """GPUs that each worker occupies; by default, one if the flow runs on a GPU. With 0.5, two
    workers share one.
    """

    def __post_init__(self):
        check_positive(self, "workers", "decoders_per_worker")
        if self.gpus_per_worker is not None and not 0 <= self.gpus_per_worker <= 8:
            raise ValueError(f"--gpus-per-worker is {self.gpus_per_worker}, expected 0 to 8")

    def resources(self, flow: FlowConfig) -> Resources:
        """Returns what one worker occupies."""
        gpus = float(uses_gpu(flow)) if self.gpus_per_worker is None else self.gpus_per_worker
        return Resources(self.decoders_per_worker, gpus)


@dataclass(frozen=True, kw_only=True)
class MachineOptions(WorkerOptions):
    """Settings with which windows are built that the run contract does not hold."""

    weights: str = "default"
    """raft: the weights of the run, whose digest the dataset knows: a file, or default for
    torchvision's own, by torch.hub.
    """
    networks: str | None = None
    """raft: the code that torch.hub runs; by default, the run's."""
    device: Literal["cuda", "cpu"] | None = None
    """raft: where the network runs; by default, as in the run."""

    def build_config(self, settings: dict[str, Any]) -> BuildConfig:
        """Returns the settings of a run contract, with these."""
        weights = self.weights if self.weights == "default" else os.path.abspath(self.weights)
        config = from_contract(settings, weights)
        overrides = {"networks": self.networks, "device": self.device}
        overrides = {name: value for name, value in overrides.items() if value is not None}
        return replace(config, flow=replace(config.flow, **overrides))


def check_same_flow(dataset: Dataset, config: BuildConfig) -> None:
    """Ends the process if the flow would be measured differently than in the run."""
    try:
        dataset.check_flow_settings(describe_estimator(config.flow))
    except ContractMismatch as error:
        exit_with(
            ExitCode.CONTRACT,
            "the flow of the run was measured differently (there -> asked for):\n  "
            + "\n  ".join(error.differences),
        )


def check_positive(job: Any, *names: str) -> None:
    """Raises ValueError if one of these options is a number under 1."""
    for name in names:
        if (value := getattr(job, name)) is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {value}, expected at least 1")


def check_quarantine_limit(share: float) -> None:
    """Raises ValueError unless --quarantine-limit is a share."""
    if not 0 <= share <= 1:
        raise ValueError(f"--quarantine-limit is {share:g}, expected a share, 0 to 1")


def check_dataset_location(text: str, option: str = "--out") -> None:
    """Raises ValueError unless it is a folder, a name for a new one, or a URL of object storage."""
    if is_storage_url(text):
        return
    if not text.strip():
        raise ValueError(
            f"{option} is {text!r}, expected a folder, a name for a new one, or s3://BUCKET/PREFIX"
        )
    check_not_url(option, text)
    if Path(text).exists() and not Path(text).is_dir():
        raise ValueError(
            f"{option} is {text!r}, which is a file; expected a folder, or a name for a new one"
        )
