"""Objects against a real S3 server, through connections that break: what is done is done once, and
what is read is whole.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.dataset import object_store
from pipeline.dataset.object_store import Bucket, StorageError, is_storage_url
from pipeline.dataset.remote_clips import local_clip_path
from pipeline.extract.list_clips import list_clips
from schemas.outcome import Quarantined
from tests.faults import storage


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with storage.s3_server(tmp_path_factory.mktemp("storage") / "log") as address:
        storage.s3_client(address).create_bucket(Bucket=storage.BUCKET)
        yield address


@pytest.fixture
def through(address, monkeypatch):
    """Makes a bucket's calls go through a proxy of that share of faults."""
    opened = []

    def through(share: float, seed: int = 0) -> storage.FaultyProxy:
        entered = storage.faulty_proxy(address, seed, share)
        opened.append(entered)
        proxy = entered.__enter__()
        for name, value in storage.proxy_environment(proxy).items():
            monkeypatch.setenv(name, value)
        object_store.client.cache_clear()
        return proxy

    yield through
    object_store.client.cache_clear()
    for entered in opened:
        entered.__exit__(None, None, None)


@pytest.mark.parametrize(
    "text, found",
    [
        ("s3://bucket/a/b", True),
        ("s3://bucket", True),
        ("s3://bucket/", True),
        ("s3://key:secret@bucket/a", False),
        ("s3:/bucket/a", False),
        ("https://host/a", False),
        ("s3://bucket/a?X-Amz-Signature=1", False),
        ("s3://", False),
        ("/data", False),
    ],
)
def test_what_is_a_url_of_object_storage(text, found):
    assert is_storage_url(text) is found


@pytest.mark.slow
def test_what_is_written_through_faults_is_read_as_it_was(through, tmp_path):
    proxy, bucket = through(0.3), Bucket(storage.bucket_url("all"))
    written = {f"a/{i:02d} é": bytes([i]) * (i * 20_000) for i in range(12)}
    for name, data in written.items():
        bucket.put(name, data)
    (tmp_path / "big").write_bytes(big := bytes(range(256)) * 20_000)
    bucket.put("big", tmp_path / "big")
    assert bucket.download("big", tmp_path / "again") and (tmp_path / "again").read_bytes() == big
    assert {name: bucket.get(name) for name in written} == written
    assert bucket.list_sizes("a/") == {
        name: len(data) for name, data in written.items()
    } and bucket.list_sizes().keys() == {*written, "big"}
    assert bucket.copy("big", "copied") and bucket.get("copied") == big
    assert (
        bucket.etag("copied") == bucket.etag("big") != bucket.etag("a/01 é") is not None
        and bucket.etag("a/01") is None
    )
    bucket.delete("big")
    bucket.delete("big")
    assert (
        bucket.get("big") is None
        and not bucket.download("big", tmp_path / "none")
        and not bucket.copy("big", "b")
        and not (tmp_path / "none").exists()
    )
    assert {kind for kind in proxy.faults if kind != "none"} == {
        "refused",
        "answer lost",
        "upload broken off",
        "answer broken off",
    }


@pytest.mark.thorough
def test_a_creation_whose_answer_is_lost_is_ours(through):
    """Of forty, about six are created and say 412 to the second attempt; with other bytes each is
    refused.
    """
    proxy, bucket = through(0.3, seed=1), Bucket(storage.bucket_url("created"))
    for i in range(40):
        bucket.create(f"{i}", b"ours")
        with pytest.raises(FileExistsError, match=rf"created: {i} is there already"):
            bucket.create(f"{i}", b"another's")
        assert bucket.get(f"{i}") == b"ours"
    assert proxy.faults["answer lost"] > 5


@pytest.mark.slow
def test_of_many_who_create_one_does(through):
    through(0.2, seed=2)
    bucket = Bucket(storage.bucket_url("raced"))

    def attempt(who: int) -> bool:
        try:
            bucket.create("record", b"%d" % who)
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(attempt, range(8)))
    assert won.count(True) == 1 and bucket.get("record") == b"%d" % won.index(True)


def test_a_listing_of_many_pages_is_whole(through):
    through(0.1, seed=3)
    bucket = Bucket(storage.bucket_url("pages"))
    for i in range(7):
        bucket.put(f"{i}", b"x" * i)
    assert bucket.list_sizes() == {f"{i}": i for i in range(7)}


def test_clips_of_a_name_in_the_storage(through, tmp_path):
    """All videos below it, as of a folder, or the object of that name; each is copied for as long
    as it is read.
    """
    through(0.1, seed=4)
    bucket = Bucket(storage.bucket_url("clips"))
    for name in ("a.mp4", "b/c d.MP4", "b/e#f?.mp4", "notes.txt"):
        bucket.put(name, name.encode())
    assert [clip.uri for clip in list_clips([bucket.url])] == [
        f"{bucket.url}/{name}" for name in ("a.mp4", "b/c d.MP4", "b/e#f?.mp4")
    ]
    (one,) = list_clips([f"{bucket.url}/b/e#f?.mp4"])
    with local_clip_path(one.uri, tmp_path) as path:
        assert Path(path).read_bytes() == b"b/e#f?.mp4" and Path(path).is_relative_to(tmp_path)
    assert not list(tmp_path.iterdir())
    for url in (f"{bucket.url}/none", f"{bucket.url}/a"):
        with pytest.raises(ValueError, match=r"does not exist"):
            list_clips([url])
    with (
        pytest.raises(Quarantined, match="no such object"),
        local_clip_path(f"{bucket.url}/none.mp4", tmp_path),
    ):
        pass


def test_a_storage_that_never_answers_is_one_sentence(through, monkeypatch):
    monkeypatch.setattr(object_store, "PAUSE_S", 0.001)
    proxy, bucket = through(1.0), Bucket(storage.bucket_url("none"))
    with pytest.raises(
        StorageError,
        match=r"^s3://quiver-test/none: record: "
        r"the storage refused or did not answer, 10 times: [^\n]+$",
    ):
        bucket.put("record", b"data")
    assert proxy.fault_count == object_store.ATTEMPTS


def test_a_bucket_that_is_not_there_is_not_asked_again(through):
    proxy = through(0.0)
    for call in (
        lambda b: b.get("a"),
        lambda b: b.put("a", b""),
        lambda b: b.list_sizes(),
        lambda b: b.create("a", b""),
    ):
        with pytest.raises(StorageError, match=r"s3://nowhere-here/a: .*NoSuchBucket"):
            call(Bucket("s3://nowhere-here/a"))
    assert proxy.faults["none"] == 4
