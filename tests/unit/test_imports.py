"""Imports point one way, the numerics know no torch, and ``import foreseer`` costs next to nothing."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import foreseer

SOURCE = Path(foreseer.__file__).parent
# A room imports from its own layer's rooms or earlier ones; layers are as in the house plan.
LAYERS = [
    {"errors", "notices"},
    {"checks"},
    {"files"},
    {"grid", "scheduler_levels", "site", "guidance"},
    {"kernel"},
    {"schedule", "forecast"},
    {"plan"},
    {"runtime"},
    {"gate"},
    {"methods"},
    {"attach", "pipelines"},
    {"scale"},
    {"calibrate", "calibration", "evaluate"},
    {"hosts"},
    {"cli", "__main__"},
]
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
NUMPY_ONLY = (
    *("errors", "notices", "checks", "files", "grid", "scheduler_levels", "site"),
    *("guidance", "kernel", "schedule", "forecast", "plan"),
)
TENSOR_LIBRARIES = {"torch", "diffusers", "transformers", "accelerate", "jax", "tensorflow"}


def room_of(path):
    return path.relative_to(SOURCE).with_suffix("").parts[0]


ROOMS = sorted({room_of(path) for path in SOURCE.rglob("*.py")} - {"__init__"})


def imported_modules(path):
    """Every module that a file names in an import, anywhere in it, with the line."""
    package = ("foreseer", *path.relative_to(SOURCE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            if module == "foreseer":
                yield from ((f"foreseer.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield module, node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("__import__", "importlib.import_module"):
            yield (node.args[0].value if isinstance(node.args[0], ast.Constant) else ast.unparse(node)), node.lineno


def imports_between_rooms():
    for path in sorted(SOURCE.rglob("*.py")):
        for module, line in imported_modules(path):
            parts = module.split(".")
            if (
                parts[0] == "foreseer"
                and len(parts) > 1
                and not parts[1].startswith("__")
                and parts[1] != room_of(path)
            ):
                yield path.relative_to(SOURCE), line, room_of(path), parts[1]


def test_every_room_has_its_place_in_the_order():
    assert set(ROOMS) <= {*RANK, "zoo"}


def test_imports_point_from_later_rooms_to_earlier_ones():
    wrong = [
        f"{path}:{line}: {room} imports {other}"
        for path, line, room, other in imports_between_rooms()
        if room not in ("__init__", "zoo") and other != "zoo" and RANK.get(other, 99) > RANK.get(room, 99)
    ]
    assert wrong == []


def test_rooms_do_not_import_each_other_in_a_circle():
    edges = {(room, other) for _, _, room, other in imports_between_rooms() if room != "__init__"}
    left = set(ROOMS)
    while leaves := {room for room in left if not any(a == room and b in left for a, b in edges)}:
        left -= leaves
    assert left == set()


def modules_imported_at_run_time(path):
    """Names of the modules, or of things in them, that a file imports when it runs, in functions too."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in for_types:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_files_do_not_import_each_other_in_a_circle():
    files = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    edges = {}
    for name, path in files.items():
        meant = {whole if whole in files else whole.rpartition(".")[0] for whole in modules_imported_at_run_time(path)}
        edges[name] = (meant & files.keys()) - {name, "foreseer"}
    while leaves := {name for name, others in edges.items() if not others & edges.keys()}:
        edges = {name: others for name, others in edges.items() if name not in leaves}
    assert edges == {}


def test_the_zoo_knows_what_reads_files_and_no_other_room():
    wrong = [f"{path}:{line} {other}" for path, line, room, other in imports_between_rooms() if room == "zoo"]
    assert [entry for entry in wrong if not entry.endswith((" errors", " notices", " checks", " files"))] == []


def test_the_numerics_import_no_tensor_library():
    wrong = [
        f"{path.relative_to(SOURCE)}:{line}: {module}"
        for path in sorted(SOURCE.rglob("*.py"))
        for module, line in imported_modules(path)
        if room_of(path) in NUMPY_ONLY and module.split(".")[0] in TENSOR_LIBRARIES
    ]
    assert wrong == []


def run(program):
    """What ``program`` prints as JSON, in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout)


def test_import_foreseer_is_light_and_quick():
    program = (
        "import json, sys, time; began = time.perf_counter(); import foreseer; taken = time.perf_counter() - began; "
        "print(json.dumps([taken, sorted({name.split('.')[0] for name in sys.modules})]))"
    )
    measured = [run(program) for _ in range(5)]
    heavy = {"torch", "diffusers", "transformers", "matplotlib", "scipy", "numpy", "pandas", "skimage", "PIL"}
    assert heavy.isdisjoint(measured[0][1])
    assert min(taken for taken, _ in measured) < 0.3


AS_MODULE = """
import json, runpy, sys
sys.argv = ["foreseer", "--version"]
try:
    runpy.run_module("foreseer", run_name="__main__", alter_sys=True)
except SystemExit as end:
    print(json.dumps([end.code, sorted({name.split(".")[0] for name in sys.modules})]))
"""


def test_python_m_foreseer_is_the_command_and_imports_no_torch():
    done = subprocess.run([sys.executable, "-c", AS_MODULE], capture_output=True, text=True, check=True, timeout=120)
    version, left = done.stdout.splitlines()
    code, modules = json.loads(left)
    assert (version, code or 0) == (f"foreseer {foreseer.__version__}", 0)
    assert {"torch", "diffusers", "transformers"}.isdisjoint(modules)


@pytest.mark.parametrize("names", ["Grid, Plan, Policy", "schedule, forecast"])
def test_the_numerics_run_without_torch(names):
    program = (
        f"import json, sys; from foreseer import {names}; "
        "from foreseer import Grid, Policy, schedule, forecast; "
        "plan = Policy(schedule.Growing(), forecast.Chebyshev()).compile(Grid.uniform(50)); plan.explain(); "
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    assert {"torch", "diffusers", "matplotlib"}.isdisjoint(run(program))


@pytest.mark.parametrize("name", foreseer.__all__)
def test_every_public_name_can_be_had(name):
    try:
        value = getattr(foreseer, name)
    except ImportError as error:
        missing = (error.name or "").split(".")[0]
        if missing == "foreseer" or missing in sys.modules:
            raise
        pytest.skip(f"{missing} is not installed")
    assert value is not None
    assert name in dir(foreseer)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'accelarate'"):
        foreseer.accelarate  # noqa: B018


WITHOUT_TORCH = """
import json, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "diffusers", "transformers", "huggingface_hub"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
import foreseer as fs

calls = {name: (lambda name=name: getattr(fs, name)) for name in fs.__all__}
calls["zoo.load"] = lambda: fs.zoo.load()
calls["scale.Model.load"] = lambda: fs.scale.Model("emoji").load()
calls["teacache"] = lambda: fs.methods.find("teacache").policy()
calls["gated"] = lambda: fs.methods.resolve("gated", nfe=4, profile=fs.zoo.kernel_path())
calls["from_pretrained"] = lambda: fs.Profile.from_pretrained("someone/something")
calls["from foreseer import gate"] = lambda: exec("from foreseer import gate")
messages = {}
for name, call in calls.items():
    try:
        call()
        messages[name] = ""
    except fs.ForeseerError as error:
        messages[name] = str(error)
print(json.dumps(messages))
"""


def test_without_torch_each_error_names_the_extra_to_install():
    messages = run(WITHOUT_TORCH)
    missing = {name for name, message in messages.items() if message}
    core = {"Grid", "Kernel", "Plan", "Profile", "Policy", "forecast", "learned", "methods", "scale", "schedule", "zoo"}
    assert core.isdisjoint(missing)
    assert {"accelerate", "calibrate", "gate", "refine", "tune", "wrap", "zoo.load", "scale.Model.load"} <= missing
    assert {"teacache", "gated", "from_pretrained", "from foreseer import gate"} <= missing
    for name in missing:
        assert "is not installed: pip install 'foreseer[diffusers]'." in messages[name]
