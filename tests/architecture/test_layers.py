"""The architecture, read from the syntax tree: imports run one way, no folder is crowded, and
nothing in the tree can execute data.
"""

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ["schemas", "pipeline", "model", "jobs"]
FILES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]
ONLY_IN_JOBS = {"ray", "tyro", "rich", "argparse"}
NOT_IN_MODEL = {"ray", "decord", "webdataset"}
FOLDERS = {
    "pipeline": [
        *["version", "sizes", "redact", "atomic_files", "torchvision_import"],
        *[
            "decode",
            "motion",
            "flow",
            "filters",
            "dataset",
            "maintain",
            "extract",
            "images",
            "preview",
        ],
        *["preview", "whole_clip", "report", "synthetic", "flow_benchmark"],
    ],
    "model": [
        *["device", "normalizer", "checkpoints", "backbones", "efficientnet"],
        *["data", "prior", "motion", "render", "evaluate", "train", "pages"],
    ],
    "jobs": ["cluster", "cli", "verbs", "ablation", "measure"],
}
"""Files and folders of each package: imports run from the later to the earlier."""
MAX_FOLDER_FILES = 17


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES_OF_TREE = {module_name(path): path for path in FILES}


def imports(path: Path) -> set[str]:
    """Top-level names of the packages that a file imports, anywhere in it."""
    return {name.split(".")[0] for name in imported_modules(path)}


@cache
def imported_modules(path: Path, outermost: bool = False) -> frozenset[str]:
    """Dotted names that a file imports: anywhere in it, or only where the import runs when the
    file itself is imported.
    """
    nodes = parse(path).body if outermost else ast.walk(parse(path))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names.add(full if full in MODULES_OF_TREE else node.module)
    return frozenset(names)


def test_imports_run_one_way():
    for path in FILES:
        layer = path.relative_to(ROOT).parts[0]
        packages = imports(path)
        above = set(LAYERS[LAYERS.index(layer) + 1 :])
        assert not packages & above, path
        assert layer == "jobs" or not packages & ONLY_IN_JOBS, path
        assert layer != "model" or not packages & NOT_IN_MODEL, path


def folder_of(module: str) -> str | None:
    """The entry of FOLDERS to which a module belongs; None for the file of a package itself."""
    layer, *rest = module.split(".")
    if layer not in FOLDERS or not rest:
        return None
    if layer == "jobs" and rest[0] not in FOLDERS["jobs"]:
        return "verbs"
    return rest[0]


def test_folders_of_a_package_import_only_earlier_ones():
    wrong = []
    for module, path in MODULES_OF_TREE.items():
        order = FOLDERS.get(module.split(".")[0])
        if order is None or (folder := folder_of(module)) is None:
            continue
        assert folder in order, f"{module} has no place in FOLDERS"
        for name in imported_modules(path):
            other = folder_of(name) if name in MODULES_OF_TREE else None
            same_layer = name.split(".")[0] == module.split(".")[0]
            if same_layer and other is not None and order.index(other) > order.index(folder):
                wrong.append(f"{module} imports {name}")
    assert not wrong, wrong


def test_no_module_imports_itself_by_a_detour():
    states: dict[str, str] = {}

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert states.get(module) != "open", " -> ".join((*trail, module))
        if module in states:
            return
        states[module] = "open"
        for name in sorted(imported_modules(MODULES_OF_TREE[module], outermost=True)):
            if name in MODULES_OF_TREE and name != module:
                visit(name, (*trail, module))
        states[module] = "closed"

    for module in MODULES_OF_TREE:
        visit(module, ())


def test_no_folder_is_crowded():
    folders = {path.parent for path in FILES}
    counts = {
        str(folder.relative_to(ROOT)): len(
            [path for path in folder.iterdir() if path.is_file() and path.suffix != ".pyc"]
        )
        for folder in folders
    }
    assert all(count <= MAX_FOLDER_FILES for count in counts.values()), counts


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
        "pipeline/images/film.py"
    }


def test_torch_is_imported_only_where_networks_run_on_it():
    allowed = {
        "pipeline/torchvision_import.py",
        "pipeline/motion/gpu.py",
        "pipeline/motion/spectrum_gpu.py",
        "pipeline/flow/raft.py",
        "pipeline/flow/raft_weights.py",
        "pipeline/dataset/torch_dataset.py",
        "jobs/cli/training.py",
    }
    assert (
        importing("torch", "pipeline") | importing("torch", "schemas") | importing("torch", "jobs")
        <= allowed
    )
    assert importing("torchvision") == {"pipeline/torchvision_import.py"}


@pytest.mark.slow
def test_one_file_knows_object_storage():
    assert importing("boto3") | importing("botocore") == {"pipeline/dataset/object_store.py"}


REPORTS = ("model/evaluate", "jobs/ablation", "pipeline/flow_benchmark")


def test_only_the_reports_draw_pages_and_figures():
    for library in ("matplotlib", "jinja2", "markupsafe"):
        users = importing(library)
        pages = ("pipeline/report/", *(f"{folder}/report.py" for folder in REPORTS))
        assert users and all(path.startswith(pages) for path in users), users


def test_ray_is_started_in_one_place():
    assert importing("ray") and all(path.startswith("jobs/cluster") for path in importing("ray"))


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
    "torch.package",
    "subprocess.getstatusoutput",
    "torch.jit.load",
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
"""The one place that runs a program which the command line names: docs/design/security.md, What is
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


@pytest.mark.sample(76)
@pytest.mark.slow
@pytest.mark.promise("P20", injections=0)
def test_nothing_executes_data():
    for path in TREE:
        name = str(path.relative_to(ROOT))
        expected = (PROVES | TRUSTED).get(name, [])
        assert sorted({*dangers(path.read_text())}) == sorted(expected), name


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
    names = {path.stem for path in (ROOT / "jobs").iterdir()}
    assert not names & {*sys.stdlib_module_names, "ray", "torch", "rich", "av", "click"}


def printed_raw(path: Path) -> set[str]:
    """The functions whose results a file prints as they are."""
    calls = [node for node in ast.walk(parse(path)) if isinstance(node, ast.Call)]
    return {
        ast.unparse(call.args[0]).partition("(")[0]
        for call in calls
        if ast.unparse(call.func) in ("print", "print_raw") and call.args
    }


def test_what_a_person_reads_has_no_terminal_code_and_no_secret_in_it():
    """`print_output` sees to that. What is printed as it is can only be JSON, in which neither can
    be: everywhere but in the command's own help, in the console and in what speaks for Ray.
    """
    excluded = ("jobs/cli/console.py", "jobs/cli/main.py", "jobs/cluster")
    paths = [path for path in FILES if path.is_relative_to(ROOT / "jobs")]
    paths = [p for p in paths if not str(p.relative_to(ROOT)).startswith(excluded)]
    assert set.union(*map(printed_raw, paths)) <= {"json.dumps", "_format_json"}
