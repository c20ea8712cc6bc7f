"""A data set that is kept in object storage: built in a folder of this machine, handed over shard
by shard.

    .uploads/NAME.DIGEST.tar            what an attempt at a shard made, under a name that no other
                                        content has
    records/NAME.json                   created once, after what it names: from then on the shard is
                                        committed
    shards/NAME.tar  histograms/...     copied, within the storage, from what the record names

So no twin can put its bytes under another's record, and a copy that was not made can be made by
whoever comes next. The folder here holds records and histograms, from which all else is derived,
and the tars that are not handed over yet.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.atomic_files import create_file
from pipeline.dataset.crashpoint import crashpoint
from pipeline.dataset.finalize import DERIVED_FILES
from pipeline.dataset.folder import DamagedPlan, DamagedShard, Dataset
from pipeline.dataset.object_store import Bucket, is_storage_url
from pipeline.dataset.run_lock import LOCK_FOLDER, max_token
from schemas.records import PlanRow

_UPLOADS = ".uploads/"
_FETCH_THREADS = 8
"""Small objects that are fetched together."""


class _RecordedFile(NamedTuple):
    """A file that a record names."""

    path: Path
    sha256: str
    upload_key: str
    """Where an attempt puts it, in the storage."""
    final_key: str
    """Where it is looked for."""


def locate_dataset(out: str, staging: Path | None = None) -> Dataset:
    """The data set of a folder, or of a URL of object storage, which is staged below that folder or
    the user's cache.
    """
    return RemoteDataset(out, staging or _cache_folder()) if is_storage_url(out) else Dataset(out)


def _cache_folder() -> Path:
    """Where a program of this user may keep what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quiver"


class RemoteDataset(Dataset):
    """The folder in which a data set of object storage is built."""

    def __init__(self, url: str, staging: Path):
        self.bucket, self.tar_sizes = Bucket(url.rstrip("/")), {}
        super().__init__(
            staging.absolute() / hashlib.sha256(self.bucket.url.encode()).hexdigest()[:16]
        )

    def absolute(self) -> "RemoteDataset":
        return self

    @contextmanager
    def lock(self, take_over_s: float | None = None) -> Iterator[None]:
        """The folder here. The token is one of the storage, for workers on other machines; runs
        share it until one takes over.
        """
        with super().lock(take_over_s):
            self.token = self.newest_token()
            if take_over_s is not None:
                self.token = self._next_token()
            yield

    def newest_token(self) -> int:
        return max_token(Path(name).name for name in self.bucket.list_sizes(f"{LOCK_FOLDER}/"))

    def _next_token(self) -> int:
        """Creates the next one, once."""
        while True:
            with suppress(FileExistsError):
                self.bucket.create(
                    f"{LOCK_FOLDER}/{(token := self.newest_token() + 1)}", os.urandom(16)
                )
                return token

    def create_or_resume(
        self, rows: Sequence[PlanRow], config: dict[str, Any], versions: dict[str, str]
    ) -> list[str]:
        """As of a folder; what is committed in the storage is then here too. Raises OSError where
        the storage cannot keep runs apart.
        """
        begun = self._fetch_contract()
        warnings = super().create_or_resume(rows, config, versions)
        if not begun and not self._create_remote_contract():
            return self.create_or_resume(rows, config, versions)
        self._adopt_all_local()
        return warnings

    def earlier_plan(self) -> Iterable[PlanRow]:
        return super().earlier_plan() if self._fetch_contract() else []

    def resume(self) -> None:
        """As of a folder, with what is committed in the storage. Raises ValueError if no data set
        was begun there.
        """
        if not self._fetch_contract():
            raise ValueError(f"{self.bucket.url} holds no data set: there is no run.json")
        super().resume()
        self._adopt_all_local()
        self.tar_sizes = self.bucket.list_sizes("shards/")

    def add_round(self, rows: Sequence[PlanRow]) -> None:
        """Here and in the storage. If another run has begun it there, it is that one's round which
        counts.
        """
        super().add_round(rows)
        name = sorted(path.name for path in self.retries.glob("*.json"))[-1]
        try:
            self.bucket.create(f"retries/{name}", (self.retries / name).read_bytes())
        except FileExistsError:
            self._fetch_rounds()
        crashpoint("after-round-upload", "run")

    def _fetch_rounds(self) -> None:
        """Brings every round of the storage here, and removes one that is not there."""
        self.retries.mkdir(exist_ok=True)
        there = {Path(name).name for name in self.bucket.list_sizes("retries/")}
        for name in there:
            self.bucket.download(f"retries/{name}", self.retries / name)
        for path in self.retries.glob("*.json"):
            if path.name not in there:
                path.unlink()

    def _adopt_all_local(self) -> None:
        """Brings rounds and records here; hands over what a run that was stopped has built and not
        handed over.
        """
        self._fetch_rounds()
        committed = self._fetch_records()
        there = self.bucket.list_sizes()
        for shard in (path.stem for path in sorted(self.records.glob("*.json"))):
            if shard not in committed:
                self._adopt_local(shard)
            elif any(
                file.upload_key in there or file.final_key not in there
                for file in self._recorded_files(shard)
            ):
                self._promote_uploads(shard)

    def _fetch_contract(self) -> bool:
        """Whether the data set was begun in the storage: its contract and plan are then here, and
        nothing that is not its.
        """
        found = self.bucket.get(self.run_json.name)
        if not self.run_json.exists() or self.run_json.read_bytes() != found:
            self.clear_local()
        if found is None:
            return False
        if self.plan.name not in self.bucket.list_sizes(self.plan.name):
            if self.plan.exists():
                self.bucket.put(self.plan.name, self.plan)
            return self.plan.exists()
        if not self.run_json.exists():
            self.bucket.download(self.plan.name, self.plan)
            create_file(self.run_json, found)
        return True

    def _create_remote_contract(self) -> bool:
        """Creates the contract, and then the plan, in the storage; not where another run has begun
        there meanwhile.
        """
        self._check_conditional_create()
        try:
            self.bucket.create(self.run_json.name, self.run_json.read_bytes())
        except FileExistsError:
            if self.bucket.list_sizes(self.plan.name):
                return False
            words = "was begun elsewhere and has no plan yet: the same command when that run has put it there, or another --out"
            raise DamagedPlan(f"{self.bucket.url} {words}") from None
        crashpoint("after-contract", "run")
        self.bucket.put(self.plan.name, self.plan)
        return True

    def _check_conditional_create(self) -> None:
        """Raises OSError where the storage creates what is there already."""
        name = f"{_UPLOADS}{os.urandom(8).hex()}"
        self.bucket.create(name, b"one")
        with suppress(FileExistsError):
            self.bucket.create(name, b"another")
            raise OSError(
                f"{self.bucket.url}: this storage overwrites what was only to be created (If-None-Match), expected one that refuses"
            )
        self.bucket.delete(name)

    def _fetch_records(self) -> set[str]:
        """Brings every record of the storage here; returns their shards."""
        shards = [Path(name).stem for name in self.bucket.list_sizes("records/")]
        with ThreadPoolExecutor(_FETCH_THREADS) as pool:
            list(pool.map(self._fetch_record, shards))
        return set(shards)

    def _fetch_record(self, shard: str) -> bool:
        return self.bucket.download(f"records/{shard}.json", self.record_path(shard))

    def _recorded_files(self, shard: str) -> list[_RecordedFile]:
        """What the record of a shard names."""
        record = self.read_record(shard)
        tar = [(self.tar_path(shard), record.tar.sha256)] if record.tar else []
        both = [*tar, (self.histogram_path(shard), record.histogram)]
        return [
            _RecordedFile(
                path,
                sha256,
                f"{_UPLOADS}{shard}.{sha256}{path.suffix}",
                f"{path.parent.name}/{path.name}",
            )
            for path, sha256 in both
        ]

    def _adopt_local(self, shard: str) -> bool:
        """Hands over a shard that a run which was stopped has built here; one that is not whole is
        forgotten.
        """
        if all(_has_sha256(file.path, file.sha256) for file in self._recorded_files(shard)):
            self._commit_remote(shard)
            return True
        self.record_path(shard).unlink()
        return False

    @contextmanager
    def build_session(self, shard: str) -> Iterator[None]:
        """In a worker, which may be on another machine than the driver: what is built within is
        handed over, and then committed.
        """
        self._prepare_worker_folder()
        if done := self._fetch_record(shard):
            self._promote_uploads(shard)  # whose worker may have been killed before it had
        elif self.is_committed(shard):
            done = self._adopt_local(shard)
        yield
        if not done:
            self._commit_remote(shard)

    def _prepare_worker_folder(self) -> None:
        """Makes a worker's folder. Raises OSError where it holds another data set."""
        contract = self.bucket.get(self.run_json.name) or b""
        for folder in (self.shards, self.records, self.histograms, self.run_lock.folder):
            folder.mkdir(parents=True, exist_ok=True)
        if not self.run_json.exists():
            with suppress(FileExistsError):
                create_file(self.run_json, contract)
        if self.run_json.read_bytes() != contract:
            raise OSError(
                f"{self.root} is of another data set than {self.bucket.url} is now: remove the folder"
            )

    def _commit_remote(self, shard: str) -> None:
        """Commits a shard in the storage. Where a twin has done it, that one's record counts, and
        may name what we uploaded too.

        Raises FolderInUse after a take-over.
        """
        ours = self._recorded_files(shard)
        try:
            for file in ours:
                self.check_not_taken_over()
                self.bucket.put(file.upload_key, file.path)
                crashpoint(f"after-upload-{file.path.suffix[1:]}", shard)
            self.check_not_taken_over()
            self.bucket.create(f"records/{shard}.json", self.record_path(shard).read_bytes())
        except (
            FileExistsError,
            FileNotFoundError,
        ):  # not found: a twin of this machine has handed the tar over
            if not self._fetch_record(shard):
                raise
        crashpoint("after-commit", shard)
        self._promote_uploads(shard)
        self._delete_uploads({*ours} - {*self._recorded_files(shard)})
        self.tar_path(shard).unlink(missing_ok=True)

    def _promote_uploads(self, shard: str) -> None:
        """Copies what a committed record names to where it is looked for. Raises DamagedShard where
        it is gone.
        """
        files = self._recorded_files(shard)
        for file in files:
            if not self._promote_file(file):
                raise DamagedShard(
                    f"{self.bucket.url}/{file.final_key} is gone: remove records/{shard}.json there, and the same command builds it again"
                )
            crashpoint("after-copy", shard)
        self._delete_uploads(files)

    def _promote_file(self, file: _RecordedFile) -> bool:
        """Copies a file to where it is looked for, over another of a record that was removed by
        hand; whether it is there then.
        """
        upload, place = self.bucket.etag(file.upload_key), self.bucket.etag(file.final_key)
        if upload in (None, place):
            return place is not None
        return (
            self.bucket.copy(file.upload_key, file.final_key)
            or self.bucket.etag(file.final_key) is not None
        )  # a twin may have done it meanwhile

    def _delete_uploads(self, files: Iterable[_RecordedFile]) -> None:
        for file in files:
            self.bucket.delete(file.upload_key)

    @contextmanager
    def finalize_session(self) -> Iterator[None]:
        """What is derived within, from all records and histograms, is handed over; then nothing is
        kept here.
        """
        self.check_not_taken_over()
        self._fetch_rounds()
        shards, self.tar_sizes = self._fetch_records(), self.bucket.list_sizes("shards/")
        with ThreadPoolExecutor(_FETCH_THREADS) as pool:
            list(pool.map(self._fetch_histogram, shards))
        yield
        for path in (self.root / name for name in DERIVED_FILES):
            if path.exists():
                self.bucket.put(path.name, path)
            crashpoint("after-derived", path.stem)
        for name in self.bucket.list_sizes(_UPLOADS):
            self.bucket.delete(name)
        self.clear_local()

    def _fetch_histogram(self, shard: str) -> None:
        path, sha256, _, place = self._recorded_files(shard)[-1]
        if not _has_sha256(path, sha256):
            self.bucket.download(place, path)

    def tar_size(self, shard: str) -> int | None:
        return self.tar_sizes.get(f"shards/{shard}.tar")

    def display_path(self, path: Path) -> str:
        return f"{self.bucket.url}/{path.relative_to(self.root)}"

    def clear_local(self) -> None:
        """Removes everything here but the tokens of runs."""
        for path in self.root.iterdir():
            if path.name == LOCK_FOLDER:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _has_sha256(path: Path, sha256: str) -> bool:
    """Whether there is a file of that content."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False
