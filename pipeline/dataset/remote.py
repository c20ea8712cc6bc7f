"""Keep a dataset in object storage: build each shard in a local folder, upload it, and commit it.

Life of a shard (RemoteDataset.build_session); its local files are those of commit.py:
1. The tar and the histogram are uploaded as .uploads/SHARD.SHA256.SUFFIX, a name that no other
   content has.
2. records/SHARD.json is created, exactly once, by a conditional request. From then on the shard is
   committed; whoever loses the race goes on with the record of the winner.
3. The storage copies what the record names to shards/SHARD.tar and histograms/SHARD.safetensors.
4. The uploads and the local tar are deleted.

Two attempts at a shard cannot mix their bytes, since a record names its files by their digests. If
a process dies between 2 and 4, whoever comes next finishes the copies. The local folder keeps
records and histograms, from which all else is derived, and the tars that are not uploaded yet.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.atomic_files import create_file, file_sha256
from pipeline.dataset.crashpoint import crashpoint
from pipeline.dataset.finalize import DERIVED_FILES
from pipeline.dataset.folder import DamagedPlan, DamagedShard, Dataset
from pipeline.dataset.object_store import Bucket, is_storage_url
from pipeline.dataset.run_lock import LOCK_FOLDER, max_token
from schemas.records import PlanRow

_UPLOADS = ".uploads/"
_FETCH_THREADS = 8
"""The number of small objects that are fetched at the same time."""


class _RecordedFile(NamedTuple):
    """A file that a record names."""

    path: Path
    """The local file."""
    sha256: str
    upload_key: str
    """The name under which an attempt uploads it."""
    final_key: str
    """The name under which readers find it."""


def locate_dataset(out: str, staging: Path | None = None) -> Dataset:
    """Returns the dataset of a folder or of an s3:// URL. One in object storage is built in a
    folder below `staging`, or below the user's cache.
    """
    return RemoteDataset(out, staging or _cache_folder()) if is_storage_url(out) else Dataset(out)


def _cache_folder() -> Path:
    """Returns the folder for this user's cached files of Quiver."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quiver"


@contextmanager
def build_session(dataset: Dataset, shard: str) -> Iterator[None]:
    """Encloses the building of a shard in a worker: if the dataset is in object storage, the shard
    is uploaded and committed there at the end.
    """
    with dataset.build_session(shard) if isinstance(dataset, RemoteDataset) else nullcontext():
        yield


@contextmanager
def finalize_session(dataset: Dataset) -> Iterator[None]:
    """Encloses the writing of the derived files: if the dataset is in object storage, they are
    uploaded at the end. Raises FolderInUse if a later run has taken over.
    """
    dataset.check_not_taken_over()
    with dataset.finalize_session() if isinstance(dataset, RemoteDataset) else nullcontext():
        yield


class RemoteDataset(Dataset):
    """A dataset in object storage, and the local folder in which it is built."""

    def __init__(self, url: str, staging: Path):
        self.bucket = Bucket(url.rstrip("/"))
        self.tar_sizes: dict[str, int] = {}
        """Bytes of every object below shards/, by name."""
        digest = hashlib.sha256(self.bucket.url.encode()).hexdigest()
        super().__init__(staging.absolute() / digest[:16])

    def absolute(self) -> "RemoteDataset":
        return self

    # The run: lock, contract, plan and rounds

    @contextmanager
    def lock(self, take_over_s: float | None = None) -> Iterator[None]:
        """Locks the local folder. The token comes from the storage, so that workers on other
        machines can check it; runs share one until a run takes over.
        """
        with super().lock(take_over_s):
            self.token = self.newest_token()
            if take_over_s is not None:
                self.token = self._next_token()
            yield

    def newest_token(self) -> int:
        return max_token(Path(name).name for name in self.bucket.list_sizes(f"{LOCK_FOLDER}/"))

    def _next_token(self) -> int:
        """Creates the next token in the storage, which no other run has."""
        while True:
            token = self.newest_token() + 1
            with suppress(FileExistsError):
                self.bucket.create(f"{LOCK_FOLDER}/{token}", os.urandom(16))
                return token

    def create_or_resume(
        self, rows: Sequence[PlanRow], config: dict[str, Any], versions: dict[str, str]
    ) -> list[str]:
        """Does the same as for a folder, and downloads what is committed in the storage. Raises
        OSError if the storage has no conditional requests.
        """
        exists = self._fetch_contract()
        warnings = super().create_or_resume(rows, config, versions)
        if not exists and not self._create_remote_contract():
            return self.create_or_resume(rows, config, versions)
        self._adopt_all_local()
        return warnings

    def earlier_plan(self) -> Iterable[PlanRow]:
        return super().earlier_plan() if self._fetch_contract() else []

    def resume(self) -> None:
        """Does the same as for a folder, and downloads what is committed in the storage. Raises
        ValueError if the storage holds no dataset under this URL.
        """
        if not self._fetch_contract():
            raise ValueError(f"{self.bucket.url} holds no dataset: there is no run.json")
        super().resume()
        self._adopt_all_local()
        self.tar_sizes = self.bucket.list_sizes("shards/")

    def add_round(self, rows: Sequence[PlanRow]) -> None:
        """Adds the round locally and in the storage. If another run has created the round there,
        that one's round counts and replaces the local one.
        """
        super().add_round(rows)
        name = sorted(path.name for path in self.retries.glob("*.json"))[-1]
        try:
            self.bucket.create(f"retries/{name}", (self.retries / name).read_bytes())
        except FileExistsError:
            self._fetch_rounds()
        crashpoint("after-round-upload", "run")

    # What the storage has and this folder lacks, and the reverse

    def _fetch_rounds(self) -> None:
        """Downloads every round, and removes local ones that the storage does not have."""
        self.retries.mkdir(exist_ok=True)
        names = {Path(name).name for name in self.bucket.list_sizes("retries/")}
        for name in names:
            self.bucket.download(f"retries/{name}", self.retries / name)
        for path in self.retries.glob("*.json"):
            if path.name not in names:
                path.unlink()

    def _adopt_all_local(self) -> None:
        """Downloads rounds and records, and finishes what a stopped run has left: commits shards
        that it only built here, and copies files of shards that it only committed.
        """
        self._fetch_rounds()
        committed = self._fetch_records()
        objects = self.bucket.list_sizes()
        for shard in (path.stem for path in sorted(self.records.glob("*.json"))):
            if shard not in committed:
                self._adopt_local(shard)
            elif any(
                file.upload_key in objects or file.final_key not in objects
                for file in self._recorded_files(shard)
            ):
                self._promote_uploads(shard)

    def _fetch_contract(self) -> bool:
        """Returns whether the storage holds a run contract and its plan, which are then here too.
        Local files of another run are removed.
        """
        contract = self.bucket.get(self.run_json.name)
        if not self.run_json.exists() or self.run_json.read_bytes() != contract:
            self.clear_local()
        if contract is None:
            return False
        if self.plan.name not in self.bucket.list_sizes(self.plan.name):
            if self.plan.exists():
                self.bucket.put(self.plan.name, self.plan)
            return self.plan.exists()
        if not self.run_json.exists():
            self.bucket.download(self.plan.name, self.plan)
            create_file(self.run_json, contract)
        return True

    def _create_remote_contract(self) -> bool:
        """Creates the contract, and then the plan, in the storage. Returns False if another run has
        created them meanwhile. Raises DamagedPlan if that run has not uploaded its plan yet.
        """
        self._check_conditional_create()
        try:
            self.bucket.create(self.run_json.name, self.run_json.read_bytes())
        except FileExistsError:
            if self.bucket.list_sizes(self.plan.name):
                return False
            advice = "run the same command when that run has uploaded it, or use another --out"
            raise DamagedPlan(
                f"{self.bucket.url} was created by another run and has no plan yet: {advice}"
            ) from None
        crashpoint("after-contract", "run")
        self.bucket.put(self.plan.name, self.plan)
        return True

    def _check_conditional_create(self) -> None:
        """Raises OSError if the storage overwrites an object that was only to be created."""
        name = f"{_UPLOADS}{os.urandom(8).hex()}"
        self.bucket.create(name, b"one")
        with suppress(FileExistsError):
            self.bucket.create(name, b"another")
            problem = "this storage overwrites what was only to be created (If-None-Match)"
            raise OSError(f"{self.bucket.url}: {problem}, expected one that refuses")
        self.bucket.delete(name)

    def _fetch_records(self) -> set[str]:
        """Downloads every record; returns the names of their shards."""
        shards = [Path(name).stem for name in self.bucket.list_sizes("records/")]
        with ThreadPoolExecutor(_FETCH_THREADS) as pool:
            list(pool.map(self._fetch_record, shards))
        return set(shards)

    def _fetch_record(self, shard: str) -> bool:
        return self.bucket.download(f"records/{shard}.json", self.record_path(shard))

    def _recorded_files(self, shard: str) -> list[_RecordedFile]:
        """Returns the files that the record of a shard names: its tar, if it has one, and its
        histogram.
        """
        record = self.read_record(shard)
        tar = [(self.tar_path(shard), record.tar.sha256)] if record.tar else []
        files = [*tar, (self.histogram_path(shard), record.histogram)]
        return [
            _RecordedFile(
                path,
                sha256,
                f"{_UPLOADS}{shard}.{sha256}{path.suffix}",
                f"{path.parent.name}/{path.name}",
            )
            for path, sha256 in files
        ]

    def _adopt_local(self, shard: str) -> bool:
        """Commits a shard that a stopped run has built here. Returns False, and removes its record,
        if a file of it is incomplete.
        """
        if all(_has_sha256(file.path, file.sha256) for file in self._recorded_files(shard)):
            self._commit_remote(shard)
            return True
        self.record_path(shard).unlink()
        return False

    # A shard

    @contextmanager
    def build_session(self, shard: str) -> Iterator[None]:
        """Encloses the building of a shard in a worker, which may be on another machine than the
        driver: the shard that is built in the block is uploaded and committed at its end.
        """
        self._prepare_worker_folder()
        if committed := self._fetch_record(shard):
            self._promote_uploads(shard)  # the worker may have been killed before it did so
        elif self.is_committed(shard):
            committed = self._adopt_local(shard)
        yield
        if not committed:
            self._commit_remote(shard)

    def _prepare_worker_folder(self) -> None:
        """Creates a worker's folder. Raises OSError if the folder holds another dataset."""
        contract = self.bucket.get(self.run_json.name) or b""
        for folder in (self.shards, self.records, self.histograms, self.run_lock.folder):
            folder.mkdir(parents=True, exist_ok=True)
        if not self.run_json.exists():
            with suppress(FileExistsError):
                create_file(self.run_json, contract)
        if self.run_json.read_bytes() != contract:
            raise OSError(
                f"{self.root} holds another dataset than {self.bucket.url}: remove the folder"
            )

    def _commit_remote(self, shard: str) -> None:
        """Commits a shard in the storage (steps 1 to 4 of the module's docstring). If another
        attempt has committed it meanwhile, that one's record counts, and may name our uploads too.

        Raises FolderInUse if a later run has taken over.
        """
        uploads = self._recorded_files(shard)
        try:
            for file in uploads:
                self.check_not_taken_over()
                self.bucket.put(file.upload_key, file.path)
                crashpoint(f"after-upload-{file.path.suffix[1:]}", shard)
            self.check_not_taken_over()
            self.bucket.create(f"records/{shard}.json", self.record_path(shard).read_bytes())
        except (FileExistsError, FileNotFoundError):
            # not found: another attempt on this machine has committed the shard and removed the tar
            if not self._fetch_record(shard):
                raise
        crashpoint("after-commit", shard)
        self._promote_uploads(shard)
        self._delete_uploads({*uploads} - {*self._recorded_files(shard)})
        self.tar_path(shard).unlink(missing_ok=True)

    def _promote_uploads(self, shard: str) -> None:
        """Copies the uploads that a committed record names to their final names, and deletes them.
        Raises DamagedShard if one is missing.
        """
        files = self._recorded_files(shard)
        for file in files:
            if not self._promote_file(file):
                advice = f"remove records/{shard}.json there, and the same command builds it again"
                raise DamagedShard(f"{self.bucket.url}/{file.final_key} is gone: {advice}")
            crashpoint("after-copy", shard)
        self._delete_uploads(files)

    def _promote_file(self, file: _RecordedFile) -> bool:
        """Copies an upload to its final name; returns whether there is a file of that name then.
        It replaces one of a record that was removed by hand.
        """
        upload, final = self.bucket.etag(file.upload_key), self.bucket.etag(file.final_key)
        if upload in (None, final):
            return final is not None
        if self.bucket.copy(file.upload_key, file.final_key):
            return True
        # another attempt may have copied and deleted the upload meanwhile
        return self.bucket.etag(file.final_key) is not None

    def _delete_uploads(self, files: Iterable[_RecordedFile]) -> None:
        for file in files:
            self.bucket.delete(file.upload_key)

    # The derived files

    @contextmanager
    def finalize_session(self) -> Iterator[None]:
        """Encloses the writing of the derived files: downloads all records and histograms, and at
        the end uploads the derived files and empties the local folder.
        """
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
        file = self._recorded_files(shard)[-1]
        if not _has_sha256(file.path, file.sha256):
            self.bucket.download(file.final_key, file.path)

    def tar_size(self, shard: str) -> int | None:
        return self.tar_sizes.get(f"shards/{shard}.tar")

    def display_path(self, path: Path) -> str:
        return f"{self.bucket.url}/{path.relative_to(self.root)}"

    def clear_local(self) -> None:
        """Removes every local file except the tokens of runs."""
        for path in self.root.iterdir():
            if path.name == LOCK_FOLDER:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _has_sha256(path: Path, sha256: str) -> bool:
    """Returns whether the file exists and has that content."""
    try:
        return file_sha256(path) == sha256
    except FileNotFoundError:
        return False
