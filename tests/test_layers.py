"""The architecture, read from the syntax tree: imports run one way, and nothing in the tree can execute data."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ["schemas", "pipeline", "model", "jobs"]
FILES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]
ONLY_IN_JOBS = {"ray", "tyro", "rich", "argparse"}
NOT_IN_MODEL = {"ray", "decord", "webdataset"}


def imports(path: Path) -> set[str]:
    """Top-level names of the packages that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    layer = path.relative_to(ROOT).parts[0]
    above = set(LAYERS[LAYERS.index(layer) + 1 :])
    found = imports(path)
    assert not found & above
    assert layer == "jobs" or not found & ONLY_IN_JOBS
    assert layer != "model" or not found & NOT_IN_MODEL


def importing(name: str, layer: str = "") -> set[str]:
    """Files of a layer that import a package."""
    return {str(p.relative_to(ROOT)) for p in FILES if str(p.relative_to(ROOT)).startswith(layer) and name in imports(p)}


def test_only_the_decoder_processes_code_opens_videos_with_decord():
    assert importing("decord") == {"pipeline/decode/choice.py", "pipeline/decode/readers.py"}
    assert {path for path in importing("av") if not path.startswith("pipeline/decode/")} == {"pipeline/encode.py"}


def test_torch_is_imported_only_where_networks_run_on_it():
    allowed = {"pipeline/vision.py", "pipeline/device.py", "pipeline/flow/raft.py", "pipeline/flow/weights.py", "jobs/trainer.py", "jobs/sample.py"}
    assert importing("torch", "pipeline") | importing("torch", "schemas") | importing("torch", "jobs") <= allowed
    assert importing("torchvision") == {"pipeline/vision.py"}


def test_only_the_report_draws_pages_and_figures():
    for library in ("matplotlib", "jinja2", "markupsafe"):
        assert importing(library) and all(path.startswith("pipeline/report/") for path in importing(library))


def test_ray_is_started_in_one_place():
    assert [p.name for p in FILES if "ray" in imports(p)] == ["cluster.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_executes_data(path):
    assert not imports(path) & {"pickle", "dill", "joblib", "shelve", "marshal", "yaml"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            arguments = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert name not in {"eval", "exec", "compile", "os.system", "os.popen"}
            assert arguments.get("shell", "False") == "False" and arguments.get("allow_pickle", "False") == "False"
            assert name != "torch.load" or arguments.get("weights_only") == "True"


def test_no_file_of_jobs_hides_a_library():
    import sys

    assert not {path.stem for path in (ROOT / "jobs").glob("*.py")} & (set(sys.stdlib_module_names) | {"ray", "torch", "rich", "av", "click"})
