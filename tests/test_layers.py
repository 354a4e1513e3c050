"""Imports run downwards only: read from the source, so that a lazy import inside a function counts too."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ROOMS = {  # a folder -> the folders of ours that it may import from, beside itself
    "hybrid_jax": set(),
    "envs": {"hybrid_jax"},
    "experiments": {"hybrid_jax", "envs"},
    "benchmarks": {"hybrid_jax", "envs", "experiments"},
    "tests": {"hybrid_jax", "envs", "experiments", "benchmarks"},
}
LAYERS = (  # modules and folders of hybrid_jax, lowest first; within a layer imports are free but for circles
    {"types", "chains", "config", "manifest", "metrics", "exploration", "normaliser", "plots", "progress", "provenance",
     "ranges", "scaling", "statistics", "testing"},
    {"losses", "networks", "distributions", "dynamics_gap", "learned", "actor_critic", "gap_learner", "buffers",
     "mixing", "schedules", "finite", "linear_ac", "guards", "her", "physics", "sizes"},
    {"algorithms", "rollout", "datasets", "export"},
    {"real"},
    {"collect", "trainer", "feed", "evaluate", "checkpoint", "report", "command"},
)  # fmt: skip
ALONE = {"types"}  # imports nothing of ours
NEVER = [  # (importer, imported): what drives a learner knows the bundle, no particular algorithm
    (driver, "algorithms") for driver in ("rollout", "datasets", "real", *sorted(LAYERS[-1]))
]


def imports(path: Path, package: str) -> list[tuple[str, int]]:
    """(absolute dotted name, line) of everything the file imports; `from a import b` gives `a.b`."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            found += [(f"{base}.{alias.name}", node.lineno) for alias in node.names]
    return found


def graph(root: Path) -> dict[str, list[tuple[str, str]]]:
    """Module -> [(module of ours that it imports, file:line)]."""
    files = {path: path.relative_to(root) for room in ROOMS for path in sorted((root / room).rglob("*.py"))}
    names = {}
    for path, relative in files.items():
        parts = relative.with_suffix("").parts
        names[path] = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    known = set(names.values())
    edges: dict[str, list[tuple[str, str]]] = {}
    for path, name in names.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        edges[name] = []
        for target, line in imports(path, package):
            # `a.b.f` is the function f of the module a.b, unless a.b.f is a module itself.
            module = target if target in known else target.rpartition(".")[0]
            if target.split(".")[0] in ROOMS and module != name:
                edges[name].append((module, f"{files[path]}:{line}"))
    return edges


def violations(root: Path) -> list[str]:
    """One sentence for each import that breaks a rule, and for each module without a layer."""
    edges = graph(root)
    level = {unit: i for i, layer in enumerate(LAYERS) for unit in layer}
    unit = {name: name.split(".")[1] for name in edges if name.startswith("hybrid_jax.")}
    found = [
        f"hybrid_jax/{part} has no layer; add it to LAYERS in tests/test_layers.py."
        for part in sorted(set(unit.values()) - level.keys())
    ]
    for name, targets in edges.items():
        room = name.split(".")[0]
        for target, where in targets:
            there, mine, theirs = target.split(".")[0], unit.get(name), unit.get(target)
            if there != room and there not in ROOMS[room]:
                found.append(f"{where}: {room} must not import {there} ({target}).")
            elif mine is None or there != "hybrid_jax" or mine == theirs or mine not in level:
                continue
            elif theirs is None:
                found.append(f"{where}: inside hybrid_jax import the module, not the package's front ({target}).")
            elif mine in ALONE or (mine, theirs) in NEVER:
                found.append(f"{where}: {mine} must not import {theirs}.")
            elif level.get(theirs, -1) > level[mine]:
                found.append(f"{where}: {mine} imports {theirs}, which lies above it.")
    return found + circles(edges)


def circles(edges: dict[str, list[tuple[str, str]]]) -> list[str]:
    """One sentence for each circle of imports that a depth-first walk meets."""
    found, done = [], set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            found.append("imports go in a circle: " + " -> ".join([*trail[trail.index(name) :], name]) + ".")
        elif name in edges and name not in done:
            for target, _ in edges[name]:
                walk(target, (*trail, name))
            done.add(name)

    for name in edges:
        walk(name, ())
    return found


@pytest.fixture
def house(tmp_path):
    """An empty copy of the house, in which every import is allowed so far."""
    files = ["hybrid_jax/types.py", "hybrid_jax/config.py", "hybrid_jax/losses.py", "hybrid_jax/rollout.py"]
    files += ["hybrid_jax/trainer.py", "hybrid_jax/report.py", "hybrid_jax/algorithms/sac.py"]
    files += ["hybrid_jax/__init__.py", "hybrid_jax/physics/native.py", "envs/gap.py", "experiments/run.py"]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("")
    return tmp_path


def test_every_import_runs_downwards():
    found = violations(ROOT)
    assert not found, "\n" + "\n".join(found)


def test_the_walk_sees_the_imports_of_the_house():
    edges = graph(ROOT)
    assert ("hybrid_jax.metrics") in [target for target, _ in edges["hybrid_jax.report"]]
    assert ("hybrid_jax.export") in [target for target, _ in edges["tests.test_export"]]


@pytest.mark.parametrize(
    ("file", "source", "message"),
    [
        (
            "hybrid_jax/losses.py",
            "from hybrid_jax.trainer import run",
            "losses imports trainer, which lies above",
        ),
        ("hybrid_jax/losses.py", "import hybrid_jax.rollout", "losses imports rollout, which lies above"),
        (
            "hybrid_jax/losses.py",
            "def f():\n    from hybrid_jax import rollout",
            "losses.py:2: losses imports rollout",
        ),
        ("hybrid_jax/losses.py", "from . import rollout", "losses imports rollout, which lies above"),
        (
            "hybrid_jax/physics/native.py",
            "from ..algorithms import sac",
            "physics imports algorithms, which lies",
        ),
        (
            "hybrid_jax/algorithms/sac.py",
            "from hybrid_jax import trainer",
            "algorithms imports trainer, which lies",
        ),
        (
            "hybrid_jax/trainer.py",
            "from hybrid_jax.algorithms import sac",
            "trainer must not import algorithms",
        ),
        (
            "hybrid_jax/evaluate.py",
            "from hybrid_jax.algorithms.sac import f",
            "evaluate must not import algorithms",
        ),
        (
            "hybrid_jax/rollout.py",
            "from hybrid_jax.algorithms import sac",
            "rollout must not import algorithms",
        ),
        ("hybrid_jax/types.py", "from hybrid_jax.config import parse", "types must not import config"),
        ("hybrid_jax/losses.py", "from envs import gap", "hybrid_jax must not import envs (envs.gap)"),
        ("hybrid_jax/losses.py", "import tests.conftest", "hybrid_jax must not import tests"),
        ("envs/gap.py", "from experiments import run", "envs must not import experiments"),
        ("experiments/run.py", "import benchmarks.update", "experiments must not import benchmarks"),
        (
            "hybrid_jax/losses.py",
            "from hybrid_jax import __version__",
            "import the module, not the package's front",
        ),
        (
            "hybrid_jax/helpers.py",
            "",
            "hybrid_jax/helpers has no layer; add it to LAYERS in tests/test_layers.py",
        ),
        ("hybrid_jax/novel/thing.py", "", "hybrid_jax/novel has no layer"),
    ],
)
def test_a_forbidden_import_is_named_with_its_place(house, file, source, message):
    path = house / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(source)
    (found,) = violations(house)
    assert message in found and (not source or file in found)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("hybrid_jax/trainer.py", "from hybrid_jax.rollout import f\nimport jax"),
        (
            "hybrid_jax/algorithms/h2o.py",
            "from hybrid_jax import losses\nfrom hybrid_jax.algorithms import sac",
        ),
        ("hybrid_jax/physics/mjx.py", "from .native import f\nfrom hybrid_jax.types import Spec"),
        ("hybrid_jax/checkpoint.py", "from hybrid_jax.report import f"),
        ("envs/gap.py", "from hybrid_jax import types"),
        ("experiments/run.py", "from envs import gap\nfrom hybrid_jax.algorithms import sac"),
    ],
)
def test_downward_imports_are_free(house, file, source):
    (house / file).write_text(source)
    assert violations(house) == []


def test_circles_within_a_layer_are_found(house):
    (house / "hybrid_jax/report.py").write_text("from hybrid_jax import evaluate")
    (house / "hybrid_jax/evaluate.py").write_text("from hybrid_jax.report import f")
    assert violations(house) == [
        "imports go in a circle: hybrid_jax.evaluate -> hybrid_jax.report -> hybrid_jax.evaluate."
    ]
