"""The rules that keep the code base in shape, checked on its syntax trees: layering, randomness, loading, size."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("rcnas_env", "agents", "experiments", "benchmarks", "examples")
MAX_LINES = 350

# Which of the project's own packages each one must not import.
FORBIDDEN_IMPORTS = {
    "rcnas_env": {"agents", "experiments", "benchmarks", "examples", "tests"},
    "agents": {"experiments", "benchmarks", "examples", "tests"},
    "experiments": {"benchmarks", "examples", "tests"},
    "benchmarks": {"examples", "tests"},
    "examples": {"experiments", "benchmarks", "tests"},
}

# The files that import such a package all the same, and why.
IMPORT_ALLOWED = {
    "experiments/scaling.py": "prices simulated students by the cost model that benchmarks/cost_model.py measures",
    "benchmarks/fuzzing.py": "gives the surfaces of tests/test_fuzzing.py more inputs",
}

# Names that say nothing of what is inside.
DUMPING_GROUNDS = {"utils", "util", "helpers", "helper", "common", "misc"}

# Calls that run code found in data. Weights are safetensors here, everything else JSON.
UNSAFE_CALLS = {
    "eval", "exec", "torch.load", "yaml.load", "yaml.unsafe_load", "joblib.load", "marshal.load", "marshal.loads",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads", "dill.load",
    "dill.loads",
}  # fmt: skip

# Calls that set or advance a process-wide random stream whatever their arguments.
GLOBAL_STREAM_CALLS = {
    "torch.manual_seed", "torch.seed", "torch.set_rng_state", "torch.random.manual_seed", "torch.random.seed",
    "torch.random.set_rng_state", "torch.cuda.manual_seed", "torch.cuda.manual_seed_all", "torch.cuda.seed",
    "torch.mps.manual_seed", "stable_baselines3.common.utils.set_random_seed",
}  # fmt: skip

# Calls that draw from the process-wide stream unless they are given a generator.
DRAWS = {
    "torch.rand", "torch.randn", "torch.randint", "torch.randperm", "torch.normal", "torch.bernoulli",
    "torch.multinomial", "torch.poisson", "torch.rand_like", "torch.randn_like", "torch.randint_like",
}  # fmt: skip

# Methods of tensors, and functions of torch.nn.init, of which the same is true.
DRAWING_METHODS = {
    "uniform_", "normal_", "random_", "bernoulli_", "exponential_", "log_normal_", "cauchy_", "geometric_",
    "trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_normal_", "xavier_uniform_", "orthogonal_",
}  # fmt: skip

# The parts of these modules that keep a stream of their own; all else in them is the process-wide one.
OWN_STREAMS = {
    "random": {"Random"},
    "numpy.random": {"default_rng", "Generator", "SeedSequence", "BitGenerator", "PCG64", "PCG64DXSM", "Philox"},
}

# The files that use a process-wide stream outside a `with fork_rng()` of their own, and why the caller's survives it.
GLOBAL_STREAM_ALLOWED = {
    "rcnas_env/random_streams.py": "saves Python's and numpy's states before a library draws, and restores them after",
}

Finder = Callable[[ast.Module], Iterator[tuple[int, str]]]
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def sources(*folders: str) -> list[Path]:
    """All Python files below the `folders` of the project."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def offences(paths: list[Path], find: Finder) -> list[str]:
    """What `find` finds in the files at `paths`, as `file:line what`."""
    return [
        f"{path.relative_to(ROOT).as_posix()}:{line} {what}"
        for path in paths
        for line, what in find(ast.parse(path.read_text(encoding="utf-8")))
    ]


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every absolute import, those by importlib with a literal name among them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {"import_module", "__import__"}:
            names = [each.value for each in node.args if isinstance(each, ast.Constant)]
            yield from ((node.lineno, name) for name in names if isinstance(name, str))


def aliases(tree: ast.Module) -> dict[str, str]:
    """The dotted name that each imported name stands for: `import numpy as np` gives np → numpy."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                full = alias.name if alias.asname else alias.name.split(".")[0]
                known[alias.asname or full] = full
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return known


def calls(tree: ast.Module) -> Iterator[tuple[ast.Call, str]]:
    """(call, full dotted name of what is called) for each call of an imported name or a built-in."""
    known = aliases(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        root, attributes = node.func, list[str]()
        while isinstance(root, ast.Attribute):
            attributes.insert(0, root.attr)
            root = root.value
        if isinstance(root, ast.Name) and (root.id in known or not attributes):
            yield node, ".".join([known.get(root.id, root.id), *attributes])


def unsafe_calls(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Calls that would run code found in data."""
    for call, name in calls(tree):
        lenient = any(
            each.arg == "allow_pickle" and not (isinstance(each.value, ast.Constant) and each.value.value is False)
            for each in call.keywords
        )
        if name in UNSAFE_CALLS or lenient:
            yield call.lineno, f"{name}()"


def global_randomness(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Calls that set or advance a process-wide random stream; of torch's, those that no fork_rng encloses."""
    forked = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.With) and any("fork_rng(" in ast.unparse(each.context_expr) for each in node.items)
        for inner in ast.walk(node)
    }
    for call, name in calls(tree):
        module, _, attribute = name.rpartition(".")
        shared = module in OWN_STREAMS and attribute not in OWN_STREAMS[module]
        of_torch = name in GLOBAL_STREAM_CALLS or (name in DRAWS and not given_a_generator(call))
        if shared or (of_torch and call not in forked):
            yield call.lineno, f"{name}()"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node in forked:
            continue
        if node.func.attr in DRAWING_METHODS and not given_a_generator(node):
            yield node.lineno, f".{node.func.attr}()"


def given_a_generator(call: ast.Call) -> bool:
    """Whether `call` passes a generator on, by its keyword or inside **keywords."""
    return any(each.arg in ("generator", None) for each in call.keywords)


def undocumented(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The module, and its public classes, functions and methods, that have no docstring, nested ones among them.

    Private is what has such a name, and all within a class of such a name. Overloads and setters are documented by
    the function and the property that they belong to.
    """
    if tree.body and ast.get_docstring(tree) is None:
        yield 1, "module"
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        private = isinstance(node, Definition) and node.name.startswith("_")
        if not (private and isinstance(node, ast.ClassDef)):
            nodes += ast.iter_child_nodes(node)
        if not isinstance(node, Definition) or private:
            continue
        decorators = {ast.unparse(each).split(".")[-1] for each in node.decorator_list}
        if ast.get_docstring(node) is None and not decorators & {"overload", "setter"}:
            yield node.lineno, node.name


def upward(package: str) -> Finder:
    """A finder of the imports that a file of `package` must not make."""
    return lambda tree: (each for each in imported(tree) if each[1].split(".")[0] in FORBIDDEN_IMPORTS[package])


def test_imports_follow_the_layers() -> None:
    found = [each for package in PACKAGES for each in offences(sources(package), upward(package))]
    assert [each for each in found if each.split(":")[0] not in IMPORT_ALLOWED] == []
    assert set(IMPORT_ALLOWED) == {each.split(":")[0] for each in found}, "an exception that nothing needs"


def test_no_name_is_a_dumping_ground() -> None:
    paths = sources(*PACKAGES, "tests")
    assert paths
    named = [path for path in paths if DUMPING_GROUNDS & {*path.relative_to(ROOT).parts, path.stem}]
    assert named == []


def test_nothing_loads_code_from_data() -> None:
    assert offences(sources(*PACKAGES), unsafe_calls) == []


def test_no_process_wide_random_stream_is_used() -> None:
    found = offences(sources(*PACKAGES), global_randomness)
    assert [each for each in found if each.split(":")[0] not in GLOBAL_STREAM_ALLOWED] == []
    assert set(GLOBAL_STREAM_ALLOWED) == {each.split(":")[0] for each in found}, "an exception that nothing needs"


def test_everything_public_is_documented() -> None:
    assert offences(sources(*PACKAGES), undocumented) == []


def test_files_hold_one_concept_by_size() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources(*PACKAGES, "tests")}
    assert {path.relative_to(ROOT).as_posix(): n for path, n in lengths.items() if n > MAX_LINES} == {}


@pytest.mark.parametrize(
    ("find", "code", "found"),
    [
        (imported, "from agents.vpg import VPG", ["agents.vpg"]),
        (imported, "import importlib\nimportlib.import_module('agents.vpg')", ["importlib", "agents.vpg"]),
        (imported, "from .agents import VPG", []),
        (upward("agents"), "from experiments import search", ["experiments"]),
        (upward("benchmarks"), "from experiments import search", []),
        (unsafe_calls, "from torch import load as read\nread('x')", ["torch.load()"]),
        (unsafe_calls, "import numpy as np\nnp.load('x', allow_pickle=True)", ["numpy.load()"]),
        (unsafe_calls, "eval('1')", ["eval()"]),
        (unsafe_calls, "model.eval()", []),
        (global_randomness, "import numpy as np\nnp.random.rand(2)", ["numpy.random.rand()"]),
        (global_randomness, "from random import shuffle\nshuffle(x)", ["random.shuffle()"]),
        (global_randomness, "import torch\ntorch.manual_seed(0)", ["torch.manual_seed()"]),
        (global_randomness, "import torch\ntorch.rand(3)", ["torch.rand()"]),
        (global_randomness, "import torch\nwith torch.random.fork_rng():\n    torch.manual_seed(0)", []),
        (global_randomness, "import random\nwith fork_rng():\n    random.random()", ["random.random()"]),
        (global_randomness, "nn.init.orthogonal_(weight)", [".orthogonal_()"]),
        (global_randomness, "delta.uniform_(-1, 1)", [".uniform_()"]),
        (global_randomness, "import numpy as np\nnp.random.default_rng(0).normal()", []),
        (global_randomness, "import random\nrandom.Random(0).shuffle(x)", []),
        (global_randomness, "import torch\ntorch.rand(3, generator=g)\ng.manual_seed(1)", []),
        (undocumented, "def shown(): ...", ["module", "shown"]),
        (undocumented, '"""M."""\nclass C:\n    """C."""\n    def m(self): ...', ["m"]),
        (undocumented, '"""M."""\ndef _hidden(): ...', []),
        (undocumented, '"""M."""\ndef _hidden():\n    if x:\n        def nested(): ...', ["nested"]),
        (undocumented, '"""M."""\nclass _C:\n    def m(self): ...', []),
        (undocumented, '"""M."""\n@overload\ndef f(): ...', []),
        (undocumented, '"""M."""\n@p.setter\ndef p(self, value): ...', []),
    ],
)
def test_the_rules_find_what_they_forbid(find: Finder, code: str, found: list[str]) -> None:
    assert [what for _, what in find(ast.parse(code))] == found
