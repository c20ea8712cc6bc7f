"""The architecture, read from the syntax tree: imports run one way, and nothing in the tree can
execute data.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
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
    return {
        str(p.relative_to(ROOT))
        for p in FILES
        if str(p.relative_to(ROOT)).startswith(layer) and name in imports(p)
    }


def test_only_the_decoder_processes_code_opens_videos_with_decord():
    assert importing("decord") == {"pipeline/decode/decord_reader.py"}
    assert {path for path in importing("av") if not path.startswith("pipeline/decode/")} == {
        "pipeline/images/encode.py"
    }


def test_torch_is_imported_only_where_networks_run_on_it():
    allowed = {
        "pipeline/torchvision_import.py",
        "pipeline/motion/spectrum_gpu.py",
        "pipeline/flow/raft.py",
        "pipeline/flow/raft_weights.py",
        "jobs/cli/training.py",
    }
    assert (
        importing("torch", "pipeline") | importing("torch", "schemas") | importing("torch", "jobs")
        <= allowed
    )
    assert importing("torchvision") == {"pipeline/torchvision_import.py"}


def test_one_file_knows_object_storage():
    assert importing("boto3") | importing("botocore") == {"pipeline/dataset/object_store.py"}


def test_only_the_report_draws_pages_and_figures():
    for library in ("matplotlib", "jinja2", "markupsafe"):
        assert importing(library) and all(
            path.startswith("pipeline/report/") for path in importing(library)
        )


def test_ray_is_started_in_one_place():
    assert {p.parent.relative_to(ROOT).as_posix() for p in FILES if "ray" in imports(p)} == {
        "jobs/cluster"
    }


TREE = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if not {".venv", "build"} & set(path.relative_to(ROOT).parts)
]
"""All of it, tests and benchmarks too: a test that unpickles is a way in for whoever changes its
data.
"""
MODULES = {
    "pickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "runpy",
    "pty",
    "code",
    "imp",
}
NAMES = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "torch.jit.load",
    "torch.package",
    "torch.utils.model_zoo",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
}
"""What they end with: torch.serialization.pickle.load is one of them."""
LOADS = {
    "torch.load": ("weights_only", "True"),
    "np.load": ("allow_pickle", "False"),
    "numpy.load": ("allow_pickle", "False"),
}
"""Let through where this argument is spelt out."""
KEYWORDS = {"shell", "allow_pickle"}
"""Let through where they are False."""
SYSTEM = {("os", "system"), ("os", "popen")}
PROVES = {
    "tests/jobs/train/test_training_input.py": [
        "os.system",
        "torch.load(io.BytesIO(data), weights_only=False)",
        "np.load(io.BytesIO(data), allow_pickle=True)",
        "np.save(file, np.array([Hostile(canary)], object), allow_pickle=True)",
    ],
    "tests/model/data/test_loader.py": ["pickle", "pickle.loads(pickle.dumps(found))"],
    "tests/model/test_checkpoints.py": ["pickle"],
    "tests/pipeline/flow/test_raft_weights.py": [
        "pickle",
        "pickle.loads(pickle.dumps(Hostile(canary)))",
    ],
}
"""What tests do to bytes of their own: make a payload, show that it is live, send an object to
another process.
"""
TRUSTED = {
    "model/evaluate/feature_networks.py": ["torch.jit.load(io.BytesIO(data), map_location=device)"]
}
"""The one place that runs a program which the command line names: docs/security.md, What is
trusted.
"""


def dangers(text: str) -> list[str]:
    """What could execute data, in a file's text."""
    tree = ast.parse(text)
    calls = {node.func: node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found += imported(node)
        elif (
            isinstance(node, ast.Attribute | ast.Name)
            and isinstance(node.ctx, ast.Load)
            and is_danger(ast.unparse(node), calls.get(node))
        ):
            found.append(ast.unparse(calls.get(node, node)))
        elif isinstance(node, ast.Call) and any(
            k.arg in KEYWORDS and ast.unparse(k.value) != "False" for k in node.keywords
        ):
            found.append(ast.unparse(node))
    return found


def imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    """Imports of what executes data, or that would hide it from us under another name."""
    if isinstance(node, ast.Import):
        return [
            alias.name
            for alias in node.names
            if alias.name.split(".")[0] in MODULES or (alias.name == "torch" and alias.asname)
        ]
    package, names = (
        (node.module or "").split(".")[0],
        {alias.name for alias in node.names} - {"UnpicklingError", "safe_load"},
    )
    if node.module in MODULES:
        return [f"from {node.module} import {name}" for name in names]
    return [
        f"from {node.module} import {name}"
        for name in names
        if (package, name) in {("torch", "load"), ("numpy", "load"), ("yaml", "load")} | SYSTEM
    ]


def is_danger(name: str, call: ast.Call | None) -> bool:
    """Whether it is dangerous to use that name, in that call of it or none."""
    if name in LOADS:
        given = {} if call is None else {k.arg: ast.unparse(k.value) for k in call.keywords}
        return given.get(LOADS[name][0]) != LOADS[name][1]
    plain = name.removeprefix("builtins.")
    return plain in NAMES or name.endswith(
        (".read_pickle", *(f".{one}" for one in NAMES if "." in one))
    )


@pytest.mark.promise("P20", injections=0)
@pytest.mark.parametrize("path", TREE, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_executes_data(path):
    assert sorted({*dangers(path.read_text())}) == sorted(
        (PROVES | TRUSTED).get(str(path.relative_to(ROOT)), [])
    )


@pytest.mark.promise("P20", injections=0)
@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "import os, marshal",
        "from pickle import loads",
        "from _pickle import loads",
        "import torch as t",
        "from torch import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
        "exec(text)",
        "builtins.eval(text)",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
        "subprocess.run(text, shell=flag)",
        "yaml.load(text)",
        "pd.read_pickle(path)",
        "torch.jit.load(path)",
        "__import__(name)",
        "from os import system",
        "map(torch.load, paths)",
        "run = eval",
        "torch.serialization.pickle.loads(data)",
        "subprocess.getoutput(text)",
        "from yaml import load",
        "np.load(path, allow_pickle=flag)",
        "import shelve as s",
        "from numpy import load",
        "load = np.load",
        "torch.package.PackageImporter(path)",
    ],
)
def test_what_would_execute_data_is_seen(text):
    assert dangers(text)


@pytest.mark.promise("P20", injections=0)
@pytest.mark.parametrize(
    "text",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "re.compile(text)",
        "model.eval()",
        "from yaml import safe_load",
        "subprocess.run(args, shell=False)",
        "json.load(file)",
    ],
)
def test_what_executes_nothing_is_let_through(text):
    assert not dangers(text)


def test_no_file_of_jobs_hides_a_library():
    import sys

    assert not {path.stem for path in (ROOT / "jobs").glob("*.py")} & (
        set(sys.stdlib_module_names) | {"ray", "torch", "rich", "av", "click"}
    )


def printed(path: Path) -> set[str]:
    """What a file prints."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return {
        ast.unparse(call.args[0]).partition("(")[0]
        for call in calls
        if ast.unparse(call.func) in ("print", "print_raw", "put") and call.args
    }


def test_what_a_person_is_told_has_no_terminal_code_and_no_secret_in_it():
    """`print_output` removes both; what is printed otherwise is JSON, in which neither can be, or our
    own words. The messages of processes that train together were cleaned where they were written.
    """
    paths = [
        path
        for path in (ROOT / "jobs").rglob("*.py")
        if path.relative_to(ROOT / "jobs").as_posix()
        not in ("cli/console.py", "cli/main.py", "cluster/training.py")
    ]
    assert set.union(*map(printed, paths)) == {"json.dumps", "_format_json"}
