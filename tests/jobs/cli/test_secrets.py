"""Passwords and tokens, in the environment and in what a user names: they are in no file of a data
set and in no output.
"""

import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import cluster, extract_flow, make_clips, status
from jobs.cli.console import sanitize_text
from jobs.cli.errors import ExitCode
from pipeline.decode.client import DecoderProcess
from pipeline.decode.config import DecodeConfig
from pipeline.redact import redact_secrets
from schemas.outcome import Quarantined
from tests.jobs.test_extract_flow import SMALL
from tests.support import videos

ROOT = Path(__file__).resolve().parents[3]
CANARY = "canary0f00d"
ENVIRONMENT = dict.fromkeys(
    (
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "HF_TOKEN",
        "GOOGLE_API_KEY",
        "DB_PASSWORD",
        "RAY_AUTH_TOKEN",
        "SSH_AUTH_SOCK",
    ),
    CANARY,
)
URLS = [
    f"https://me:{CANARY}@host/a.mp4",
    f"https://{CANARY}@host/a.mp4",
    f"s3://key:{CANARY}@bucket/a",
    f"https://host/a.mp4?X-Amz-Signature={CANARY}&b=1",
    f"https://host/a?sv=1&sig={CANARY}",
    f"https://host/a?access_token={CANARY}#t",
    f"https://host/a?AWSAccessKeyId={CANARY}",
    f"https:/me:{CANARY}@host/a",
    f"two: ftp://a:{CANARY}@b and http://c?token={CANARY}",
    f"https://host/a?API_KEY={CANARY}",
    *(
        f"https://host/a?b=1&{name}={CANARY}"
        for name in (
            "pass",
            "pw",
            "passphrase",
            "Subscription-Key",
            "account_key",
            "private_key",
            "authkey",
            "credentials",
            "bearer",
        )
    ),
]


@pytest.mark.parametrize("text", URLS)
def test_what_is_secret_in_a_url_is_hidden(text):
    assert CANARY not in redact_secrets(text) and "***" in redact_secrets(text)
    assert CANARY not in sanitize_text(f"--clips is {text!r}")


@pytest.mark.parametrize(
    "text",
    [
        "https://host/watch?v=abc&t=3",
        "/data/a@b/c.mp4",
        "me@host.org",
        "a?token=b",
        "C:/x",
        "https://host/@me/a",
        "https://host/a?compass=n&bypass=1&passage=2&pwm=3&bearing=4&author=me&monkey=5&cache_key=6&sort-key=7&tokens=8",
    ],
)
def test_what_is_none_stays(text):
    assert redact_secrets(text) == text


def refused(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        extract_flow.main(list(arguments))
    said = "".join(capsys.readouterr())
    assert (
        stopped.value.code == ExitCode.USAGE and CANARY not in said and "Traceback" not in said
    ), said
    return said


@pytest.mark.parametrize(
    "url", [URLS[0], URLS[2], URLS[3], "file:///data/a", "s3:///bucket/a", "http://[::1]/a"]
)
def test_a_url_is_no_path(tmp_path, capsys, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    videos.write_empty(tmp_path / "a.mp4")
    assert "expected a path" in refused(capsys, "--clips", url, "--out", "out")
    assert "expected a path" in refused(capsys, "--clips", "a.mp4", "--out", url)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize(
    "column, value",
    [("uri", URLS[0]), ("source", URLS[3]), ("licence", URLS[4]), ("clip_id", URLS[1])],
)
def test_a_table_that_would_write_a_secret_down_is_refused(tmp_path, capsys, column, value):
    row = dict(uri="a.mp4") | {column: value}
    with (tmp_path / "clips.csv").open("w") as file:
        csv.writer(file).writerows([list(row), list(row.values())])
    assert f"{column} of row 1 of table" in refused(
        capsys, "--clips", str(tmp_path / "clips.csv"), "--out", str(tmp_path / "out")
    )
    assert not (tmp_path / "out").exists()


def test_an_address_that_only_names_a_clips_source_is_kept(tmp_path):
    (tmp_path / "clips.csv").write_text("uri,source\na.mp4,https://host/watch?v=abc\n")
    (clip,) = extract_flow.list_clips([str(tmp_path / "clips.csv")])
    assert clip.source == "https://host/watch?v=abc"


@pytest.fixture
def logs(monkeypatch) -> Iterator[Path]:
    """Of Ray, which wants a short path."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)


@pytest.mark.thorough
def test_the_environment_is_written_nowhere(tmp_path, logs, monkeypatch, capfd):
    """Nor is the token that a run makes for its own Ray, in Ray's logs either."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "clips").mkdir()
    videos.write_swaying(
        tmp_path / "clips" / "a.mp4", seconds=2, amplitude=1.5, hertz=1.2, size=(96, 60)
    )
    videos.write_empty(tmp_path / "clips" / "b.mp4")
    extract_flow.main(
        [
            "--clips",
            str(tmp_path / "clips"),
            "--out",
            str(tmp_path / "out"),
            "--workers",
            "1",
            *SMALL,
        ]
    )
    status.main([str(tmp_path / "out")])
    secrets = (CANARY.encode(), cluster.session_token().encode())
    said = "".join(capfd.readouterr()).encode()
    files = [path for folder in (tmp_path, logs) for path in folder.rglob("*") if path.is_file()]
    assert {"run.json", "progress.jsonl", "manifest.parquet"} <= {
        path.name for path in files
    } and any("raylet" in path.name for path in files)
    assert not [
        path for path in files if any(secret in path.read_bytes() for secret in secrets)
    ] and not any(secret in said for secret in secrets)


def test_a_decoder_knows_no_secret(monkeypatch):
    """What opens a stranger's file has no more than it needs, and what it needs."""
    others = {
        "https_proxy": f"http://me:{CANARY}@proxy",
        "DATABASE_URL": f"postgres://me:{CANARY}@host/a",
        "SLACK_WEBHOOK": CANARY,
        "MY_PATH": CANARY,
    }
    others |= {
        "QUIVER_KEY": CANARY,
        "PYTHON_KEYRING_BACKEND": CANARY,
        "LD_KEY": CANARY,
        "DECORD_PASS": CANARY,
        "LC_TOKEN": CANARY,
    }
    for name, value in (ENVIRONMENT | others | {"LC_TIME": "C"}).items():
        monkeypatch.setenv(name, value)
    decoder = DecoderProcess(DecodeConfig())
    try:
        with pytest.raises(Quarantined):
            decoder.probe("/nowhere.mp4")  # it lives
        found = Path(f"/proc/{decoder.process.pid}/environ").read_text().split("\0")
    finally:
        decoder.close()
    assert not [variable for variable in found if CANARY in variable] and "LC_TIME=C" in found


@pytest.mark.slow
def test_a_failing_command_says_none(tmp_path):
    """The real one, of a folder with a password in its name, as a URL that was mounted."""
    command = [sys.executable, "-m", "jobs.cli.main", "status", f"https://me:{CANARY}@host/a"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=120
    )
    assert (
        done.returncode == ExitCode.USAGE
        and CANARY not in done.stdout + done.stderr
        and "***@host/a holds no dataset" in done.stderr
    )


@pytest.mark.thorough
def test_a_name_with_terminal_codes_is_shown_without(tmp_path, capsys):
    out = tmp_path / "a\x1b[31m\x07"
    make_clips.main(
        ["--out", str(out), "--only", "damaged-30fps", "--seconds", "5", "--processes", "1"]
    )
    said = capsys.readouterr().out
    assert (
        f"1 clips are in {tmp_path}/a?[31m?, listed in" in said
        and "\x1b" not in said
        and list(out.glob("*.mp4"))
    )
