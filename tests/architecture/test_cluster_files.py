"""P23: the files in cluster/ carry token authentication, open nothing to the network, and run as
nobody in particular.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.promise("P23")


@pytest.fixture(scope="module")
def cluster() -> dict:
    return yaml.safe_load((ROOT / "cluster" / "ray.yaml").read_text())


def dockerfile() -> list[tuple[str, str]]:
    """Its instructions, each on one line, without comments."""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "cluster" / "Dockerfile").read_text()).replace(
        "\\\n", " "
    )
    return [
        (line.split(maxsplit=1)[0], line.split(maxsplit=1)[1])
        for line in text.splitlines()
        if line.strip()
    ]


def test_ray_takes_the_file(cluster):
    """With what its own launcher fills in; in a process of its own, since Ray reads how it is
    closed to the world when it is imported.
    """
    code = (
        "import json, sys; from ray.autoscaler._private.util import prepare_config, "
        "validate_config; validate_config(prepare_config(json.load(sys.stdin)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(cluster),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_every_ray_that_is_started_wants_a_token(cluster):
    starts = [
        line
        for kind in ("head_start_ray_commands", "worker_start_ray_commands")
        for line in cluster[kind]
        if "ray start" in line
    ]
    assert len(starts) == 2 and all(
        line.startswith("RAY_AUTH_MODE=token ray start") for line in starts
    )
    options = cluster["docker"]["run_options"]
    path = "/home/quiver/.ray/auth_token"
    assert "--env=RAY_AUTH_MODE=token" in options and {
        f"--env=RAY_AUTH_TOKEN_PATH={path}",
        f"--volume={path}:{path}:ro",
    } <= set(options)
    assert "RAY_AUTH_MODE=token" in dict(dockerfile())["ENV"]


def test_no_token_stands_in_the_files():
    for path in (ROOT / "cluster").iterdir():
        assert not re.search(r"RAY_AUTH_TOKEN\s*[=:]|[0-9a-f]{32}", path.read_text())


def test_nothing_is_opened_to_the_network(cluster):
    for path in (ROOT / "cluster").iterdir():
        assert not re.search(
            r"0\.0\.0\.0|\[?::\]?:\d|EXPOSE|--publish|(?<!\w)-p ", path.read_text()
        )
    (head,) = [line for line in cluster["head_start_ray_commands"] if "ray start" in line]
    assert "--dashboard-host=127.0.0.1" in head
    addresses = [cluster["provider"]["head_ip"], *cluster["provider"]["worker_ips"]]
    assert all(address.startswith("10.") for address in addresses)


def test_the_container_is_nobody_and_may_do_nothing(cluster):
    instructions = dockerfile()
    users = [i for i, (word, _) in enumerate(instructions) if word == "USER"]
    assert [instructions[i][1] for i in users] == ["quiver"]
    assert all(word not in ("RUN", "COPY", "ADD") for word, _ in instructions[users[0] :])
    options = cluster["docker"]["run_options"]
    assert {"--cap-drop=ALL", "--security-opt=no-new-privileges"} <= set(options)
    assert not any(
        "privileged" in option.replace("no-new-privileges", "") or "docker.sock" in option
        for option in options
    )


def test_the_image_has_all_of_the_package():
    copied = " ".join(what for word, what in dockerfile() if word == "COPY").split()
    packages = re.search(r"find\]\ninclude = \[(.*?)\]", (ROOT / "pyproject.toml").read_text())[1]
    assert {name.split(".")[0].strip('" *') for name in packages.split(",")} | {
        "pyproject.toml",
        "constraints.txt",
        "README.md",
        "LICENSE",
    } <= set(copied)
    assert all((ROOT / name).exists() for name in copied if name != "./")
