"""The house's floors: imports only go down, and the two lowest working floors stand on few libraries."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("params", "tracking", "corpus", "engine", "evaluation", "registry", "stages", "flows")  # lowest first
SOURCES = sorted(path for package in ("medtune", "stages", "flows") for path in (ROOT / package).rglob("*.py"))

# What corpus and engine must do without, so that they can be used in a plain training environment.
BLOCKED = (
    "pydantic rensa great_expectations gguf mlflow prefect dvc rich ruamel typer sacrebleu matplotlib".split()  # noqa: SIM905
)


def floor_of(module: str) -> str | None:
    """medtune.engine.load -> engine, stages.train -> stages; None for commands and what is not ours."""
    parts = module.split(".")
    if parts[0] == "medtune":
        return parts[1] if len(parts) > 1 and parts[1] in FLOORS else None
    return parts[0] if parts[0] in FLOORS else None


def is_command(path: Path) -> bool:
    """cli.py and what it lists from medtune/commands."""
    return path.name == "cli.py" or path.parent == ROOT / "medtune/commands"


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imported(path: Path) -> list[tuple[int, str]]:
    """(line, module) of every import of a file, those under TYPE_CHECKING too: a type from above is a tie as well."""
    found = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                package = ".".join(path.relative_to(ROOT).parts[: -node.level])
                base = f"{package}.{node.module}" if node.module else package
            else:
                base = node.module
            found.append((node.lineno, base))
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_go_down(path):
    module = module_of(path)
    own = floor_of(module)
    if own is None:
        if is_command(path):  # beside the stages: any floor below them, never stages or flows
            above = [(n, m) for n, m in imported(path) if floor_of(m) in ("stages", "flows")]
            assert not above, f"{path.name} imports {above}; start `dvc` or a flow as a subprocess"
        return
    allowed = FLOORS[: FLOORS.index(own) + 1]
    if own in ("corpus", "engine"):
        allowed = tuple(floor for floor in allowed if floor != "tracking")
    wrong = [f"line {n}: {m}" for n, m in imported(path) if floor_of(m) and floor_of(m) not in allowed]
    assert not wrong, f"{module} is on the floor {own}; it must not import {wrong}"


def test_every_file_has_a_floor():
    loose = [
        str(p.relative_to(ROOT))
        for p in SOURCES
        if floor_of(".".join(p.relative_to(ROOT).with_suffix("").parts)) is None and not is_command(p)
    ]
    assert loose == ["medtune/__init__.py"]


def test_package_files_are_a_docstring_and_nothing_else():
    """They import nothing, so that closures stay small; and DVC warns at every run of a dep that is empty."""
    for path in SOURCES:
        if path.name == "__init__.py":
            tree = ast.parse(path.read_bytes())
            assert len(tree.body) == 1, f"{path.relative_to(ROOT)} must hold a docstring and nothing else"
            assert ast.get_docstring(tree), f"{path.relative_to(ROOT)} must hold a docstring and nothing else"


@pytest.mark.parametrize("floor", ["corpus", "engine"])
def test_corpus_and_engine_import_with_the_training_libraries_alone(floor):
    modules = [module_of(path) for path in SOURCES if path.parent.name == floor and path.name != "__init__.py"]
    assert modules
    code = f"""
import importlib.machinery, sys

class Without(importlib.machinery.PathFinder):
    # as if they were not installed: libraries that look for each other expect None, not an error
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {BLOCKED!r} else super().find_spec(name, path, target)

sys.meta_path[:] = [Without if f is importlib.machinery.PathFinder else f for f in sys.meta_path]
for name in {modules!r}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
