"""A data set that is kept in object storage: built in a folder of this machine, handed over shard by shard.

    .uploads/NAME.DIGEST.tar            what an attempt at a shard made, under a name that no other content has
    records/NAME.json                   created once, after what it names: from then on the shard is committed
    shards/NAME.tar  histograms/...     copied, within the storage, from what the record names

So no twin can put its bytes under another's record, and a copy that was not made can be made by whoever comes next. The folder
here holds records and histograms, from which all else is derived, and the tars that are not handed over yet.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.dataset.crashpoint import crashpoint
from pipeline.dataset.finalize import FILES
from pipeline.dataset.folder import DamagedPlan, DamagedShard, Dataset
from pipeline.dataset.object_store import Bucket, is_url
from pipeline.dataset.run_lock import FOLDER, last_of
from pipeline.dataset.shards import create_file

UPLOADS = ".uploads/"
AT_ONCE = 8
"""Small objects that are fetched together."""


class Named(NamedTuple):
    """A file that a record names."""

    path: Path
    sha256: str
    upload: str
    """Where an attempt puts it, in the storage."""
    place: str
    """Where it is looked for."""


def dataset_at(out: str, staging: Path | None = None) -> Dataset:
    """The data set of a folder, or of a URL of object storage, which is staged below that folder or the user's cache."""
    return Staged(out, staging or cache_folder()) if is_url(out) else Dataset(out)


def cache_folder() -> Path:
    """Where a program of this user may keep what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quiver"


class Staged(Dataset):
    """The folder in which a data set of object storage is built."""

    def __init__(self, url: str, staging: Path):
        self.bucket, self.sizes = Bucket(url.rstrip("/")), {}
        super().__init__(staging.absolute() / hashlib.sha256(self.bucket.url.encode()).hexdigest()[:16])

    def absolute(self) -> "Staged":
        return self

    @contextmanager
    def held(self, take_over_s: float | None = None) -> Iterator[None]:
        """The folder here. The token is one of the storage, for workers on other machines; runs share it until one takes over."""
        with super().held(take_over_s):
            self.token = self.newest_token()
            if take_over_s is not None:
                self.token = self._next_token()
            yield

    def newest_token(self) -> int:
        return last_of(Path(name).name for name in self.bucket.list(f"{FOLDER}/"))

    def _next_token(self) -> int:
        """Creates the next one, once."""
        while True:
            with suppress(FileExistsError):
                self.bucket.create(f"{FOLDER}/{(token := self.newest_token() + 1)}", os.urandom(16))
                return token

    def open(self, rows: Sequence[dict], config: dict[str, Any], versions: dict[str, str]) -> list[str]:
        """As of a folder; what is committed in the storage is then here too. Raises OSError where the storage cannot keep runs apart."""
        begun = self._fetch_contract()
        warnings = super().open(rows, config, versions)
        if not begun and not self._begin():
            return self.open(rows, config, versions)
        self._take_up_all()
        return warnings

    def plan_before(self) -> Iterable[dict]:
        return super().plan_before() if self._fetch_contract() else []

    def resume(self) -> None:
        """As of a folder, with what is committed in the storage. Raises ValueError if no data set
        was begun there.
        """
        if not self._fetch_contract():
            raise ValueError(f"{self.bucket.url} holds no data set: there is no run.json")
        super().resume()
        self._take_up_all()
        self.sizes = self.bucket.list("shards/")

    def begin_round(self, rows: Sequence[dict]) -> None:
        """Here and in the storage. If another run has begun it there, it is that one's round which
        counts.
        """
        super().begin_round(rows)
        name = sorted(path.name for path in self.retries.glob("*.json"))[-1]
        try:
            self.bucket.create(f"retries/{name}", (self.retries / name).read_bytes())
        except FileExistsError:
            self._fetch_rounds()
        crashpoint("after-round-upload", "run")

    def _fetch_rounds(self) -> None:
        """Brings every round of the storage here, and removes one that is not there."""
        self.retries.mkdir(exist_ok=True)
        there = {Path(name).name for name in self.bucket.list("retries/")}
        for name in there:
            self.bucket.fetch(f"retries/{name}", self.retries / name)
        for path in self.retries.glob("*.json"):
            if path.name not in there:
                path.unlink()

    def _take_up_all(self) -> None:
        """Brings rounds and records here; hands over what a run that was stopped has built and not
        handed over.
        """
        self._fetch_rounds()
        committed = self._fetch_records()
        there = self.bucket.list()
        for shard in (path.stem for path in sorted(self.records.glob("*.json"))):
            if shard not in committed:
                self._take_up(shard)
            elif any(file.upload in there or file.place not in there for file in self._named(shard)):
                self._put_in_place(shard)

    def _fetch_contract(self) -> bool:
        """Whether the data set was begun in the storage: its contract and plan are then here, and nothing that is not its."""
        found = self.bucket.get(self.run.name)
        if not self.run.exists() or self.run.read_bytes() != found:
            self.clear()
        if found is None:
            return False
        if self.plan.name not in self.bucket.list(self.plan.name):
            if self.plan.exists():
                self.bucket.put(self.plan.name, self.plan)
            return self.plan.exists()
        if not self.run.exists():
            self.bucket.fetch(self.plan.name, self.plan)
            create_file(self.run, found)
        return True

    def _begin(self) -> bool:
        """Creates the contract, and then the plan, in the storage; not where another run has begun there meanwhile."""
        self._check_conditions()
        try:
            self.bucket.create(self.run.name, self.run.read_bytes())
        except FileExistsError:
            if self.bucket.list(self.plan.name):
                return False
            words = "was begun elsewhere and has no plan yet: the same command when that run has put it there, or another --out"
            raise DamagedPlan(f"{self.bucket.url} {words}") from None
        crashpoint("after-contract", "run")
        self.bucket.put(self.plan.name, self.plan)
        return True

    def _check_conditions(self) -> None:
        """Raises OSError where the storage creates what is there already."""
        name = f"{UPLOADS}{os.urandom(8).hex()}"
        self.bucket.create(name, b"one")
        with suppress(FileExistsError):
            self.bucket.create(name, b"another")
            raise OSError(f"{self.bucket.url}: this storage overwrites what was only to be created (If-None-Match), expected one that refuses")
        self.bucket.delete(name)

    def _fetch_records(self) -> set[str]:
        """Brings every record of the storage here; returns their shards."""
        shards = [Path(name).stem for name in self.bucket.list("records/")]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self._fetch_record, shards))
        return set(shards)

    def _fetch_record(self, shard: str) -> bool:
        return self.bucket.fetch(f"records/{shard}.json", self.record(shard))

    def _named(self, shard: str) -> list[Named]:
        """What the record of a shard names."""
        record = self.read_record(shard)
        tar = [(self.tar(shard), record["tar"]["sha256"])] if record["tar"] else []
        both = [*tar, (self.histogram(shard), record["histogram"])]
        return [Named(path, sha256, f"{UPLOADS}{shard}.{sha256}{path.suffix}", f"{path.parent.name}/{path.name}") for path, sha256 in both]

    def _take_up(self, shard: str) -> bool:
        """Hands over a shard that a run which was stopped has built here; one that is not whole is forgotten."""
        if all(is_file(file.path, file.sha256) for file in self._named(shard)):
            self._share(shard)
            return True
        self.record(shard).unlink()
        return False

    @contextmanager
    def building(self, shard: str) -> Iterator[None]:
        """In a worker, which may be on another machine than the driver: what is built within is handed over, and then committed."""
        self._join()
        if done := self._fetch_record(shard):
            self._put_in_place(shard)  # whose worker may have been killed before it had
        elif self.is_committed(shard):
            done = self._take_up(shard)
        yield
        if not done:
            self._share(shard)

    def _join(self) -> None:
        """Makes a worker's folder. Raises OSError where it holds another data set."""
        contract = self.bucket.get(self.run.name) or b""
        for folder in (self.shards, self.records, self.histograms, self.fence.folder):
            folder.mkdir(parents=True, exist_ok=True)
        if not self.run.exists():
            with suppress(FileExistsError):
                create_file(self.run, contract)
        if self.run.read_bytes() != contract:
            raise OSError(f"{self.root} is of another data set than {self.bucket.url} is now: remove the folder")

    def _share(self, shard: str) -> None:
        """Commits a shard in the storage. Where a twin has done it, that one's record counts, and may name what we uploaded too.

        Raises FolderInUse after a take-over.
        """
        ours = self._named(shard)
        try:
            for file in ours:
                self.check_fence()
                self.bucket.put(file.upload, file.path)
                crashpoint(f"after-upload-{file.path.suffix[1:]}", shard)
            self.check_fence()
            self.bucket.create(f"records/{shard}.json", self.record(shard).read_bytes())
        except (FileExistsError, FileNotFoundError):  # not found: a twin of this machine has handed the tar over
            if not self._fetch_record(shard):
                raise
        crashpoint("after-commit", shard)
        self._put_in_place(shard)
        self._remove({*ours} - {*self._named(shard)})
        self.tar(shard).unlink(missing_ok=True)

    def _put_in_place(self, shard: str) -> None:
        """Copies what a committed record names to where it is looked for. Raises DamagedShard where it is gone."""
        files = self._named(shard)
        for file in files:
            if not self._bring(file):
                raise DamagedShard(f"{self.bucket.url}/{file.place} is gone: remove records/{shard}.json there, and the same command builds it again")
            crashpoint("after-copy", shard)
        self._remove(files)

    def _bring(self, file: Named) -> bool:
        """Copies a file to where it is looked for, over another of a record that was removed by hand; whether it is there then."""
        upload, place = self.bucket.tag(file.upload), self.bucket.tag(file.place)
        if upload in (None, place):
            return place is not None
        return self.bucket.copy(file.upload, file.place) or self.bucket.tag(file.place) is not None  # a twin may have done it meanwhile

    def _remove(self, files: Iterable[Named]) -> None:
        for file in files:
            self.bucket.delete(file.upload)

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """What is derived within, from all records and histograms, is handed over; then nothing is kept here."""
        self.check_fence()
        self._fetch_rounds()
        shards, self.sizes = self._fetch_records(), self.bucket.list("shards/")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self._fetch_histogram, shards))
        yield
        for path in (self.root / name for name in FILES):
            if path.exists():
                self.bucket.put(path.name, path)
            crashpoint("after-derived", path.stem)
        for name in self.bucket.list(UPLOADS):
            self.bucket.delete(name)
        self.clear()

    def _fetch_histogram(self, shard: str) -> None:
        path, sha256, _, place = self._named(shard)[-1]
        if not is_file(path, sha256):
            self.bucket.fetch(place, path)

    def tar_size(self, shard: str) -> int | None:
        return self.sizes.get(f"shards/{shard}.tar")

    def where(self, path: Path) -> str:
        return f"{self.bucket.url}/{path.relative_to(self.root)}"

    def clear(self) -> None:
        """Removes everything here but the tokens of runs."""
        for path in self.root.iterdir():
            if path.name == FOLDER:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def is_file(path: Path, sha256: str) -> bool:
    """Whether there is a file of that content."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False
