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
    allowed = {"pipeline/vision.py", "pipeline/device.py", "pipeline/flow/raft.py", "pipeline/flow/weights.py", "jobs/trainer.py"}
    assert importing("torch", "pipeline") | importing("torch", "schemas") | importing("torch", "jobs") <= allowed
    assert importing("torchvision") == {"pipeline/vision.py"}


def test_only_the_report_draws_pages_and_figures():
    for library in ("matplotlib", "jinja2", "markupsafe"):
        assert importing(library) and all(path.startswith("pipeline/report/") for path in importing(library))


def test_ray_is_started_in_one_place():
    assert [p.name for p in FILES if "ray" in imports(p)] == ["cluster.py"]


MODULES = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "runpy", "pty"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.jit.load", "np.load", "numpy.load", "yaml.load"}
"""np.load with allow_pickle=False, spelt out, is let through."""
KEYWORDS = {"shell", "allow_pickle"}


def dangers(text: str) -> list[str]:
    """What could execute data, in a file's text."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES or (alias.name == "torch" and alias.asname)]
        elif isinstance(node, ast.ImportFrom):
            package = (node.module or "").split(".")[0]
            names = {alias.name for alias in node.names} - {"UnpicklingError"}
            found += [
                f"from {node.module} import {name}" for name in names if package in MODULES or (package in ("torch", "os") and name in ("load", "system"))
            ]
        elif isinstance(node, ast.Call):
            found += [ast.unparse(node)] if is_danger(ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}) else []
    return found


def is_danger(name: str, arguments: dict[str | None, str]) -> bool:
    if name == "torch.load":
        return arguments.get("weights_only") != "True"
    if any(arguments.get(keyword, "False") != "False" for keyword in KEYWORDS):
        return True
    return (name.removeprefix("builtins.") in CALLS or name.endswith(".read_pickle")) and "allow_pickle" not in arguments


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_executes_data(path):
    """P20, in every layer."""
    assert not dangers(path.read_text())


@pytest.mark.parametrize("text", [
    "import pickle", "import os, yaml", "from pickle import loads", "from _pickle import loads", "import torch as t", "from torch import load",
    "torch.load(path)", "torch.load(path, weights_only=False)", "torch.load(path, weights_only=flag)", "np.load(path)", "np.load(path, allow_pickle=True)",
    "eval(text)", "exec(text)", "builtins.eval(text)", "os.system(text)", "subprocess.run(text, shell=True)", "subprocess.run(text, shell=flag)",
    "yaml.load(text)", "pd.read_pickle(path)", "torch.jit.load(path)", "__import__(name)", "from os import system",
])  # fmt: skip
def test_what_would_execute_data_is_seen(text):
    assert dangers(text)


def test_no_file_of_jobs_hides_a_library():
    import sys

    assert not {path.stem for path in (ROOT / "jobs").glob("*.py")} & (set(sys.stdlib_module_names) | {"ray", "torch", "rich", "av", "click"})
