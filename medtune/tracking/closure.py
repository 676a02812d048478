"""What a stage is made of: the project files that its module imports, and one digest over their code.

    python -m medtune.tracking.closure stages.train     # the files, as lines for dvc.yaml's deps

DVC watches these files (tests/test_graph.py holds dvc.yaml to this list); a candidate's digest takes their syntax
trees, so that a comment makes no new candidate. The sources are read, never imported. Names that are only built at run
time (importlib.import_module("medtune." + name), `python -m` in a subprocess) cannot be seen: write imports out.
"""

import argparse
import ast
import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from medtune.params.errors import UserError

PACKAGES = ("medtune", "stages", "flows")
BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")  # where a statement has statements


def import_closure(module: str, root: Path = Path(".")) -> list[Path]:
    """Files under `root`, relative to it and sorted, that importing `module` can come to read: itself, what it imports,
    and so on, with the `__init__.py` of every package on the way.

    Imports inside functions count, those under `if TYPE_CHECKING:` do not. Only this project's packages are followed.
    UserError names the file and line of an import of the project that leads nowhere, and of a file that does not parse.
    """
    first = _file_of(module, root)
    if first is None:
        raise UserError(f"{module} is no module of this project: there is neither {_path_of(module)}.py nor a package")
    closure: set[Path] = set()
    waiting = [(file, name) for name in _with_parents(module) if (file := _file_of(name, root))]
    while waiting:
        file, name = waiting.pop()
        if file in closure:
            continue
        closure.add(file)
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        for imported in _imports(root / file, file, package, root):
            waiting += [(f, part) for part in _with_parents(imported) if (f := _file_of(part, root))]
    return sorted(closure)


def source_digest(module: str, root: Path = Path(".")) -> str:
    """sha256 (hex) over path and syntax tree of every file of the closure. Comments, docstrings, line breaks and quote
    styles do not count; neither does the Python version, as long as it parses the same code to the same nodes."""
    digest = hashlib.sha256()
    for file in import_closure(module, root):
        tree = _without_docstrings(_parse(root / file))
        digest.update(f"{file.as_posix()}\n{_dump(tree)}\n".encode())
    return digest.hexdigest()


def _imports(path: Path, file: Path, package: str, root: Path) -> Iterator[str]:
    """Dotted names of the project's modules that a file imports."""
    try:
        statements = _import_statements(path.read_bytes())
    except SyntaxError as error:
        raise _not_python(path, error) from None
    for node in statements:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in PACKAGES:
                    yield _known(alias.name, file, node.lineno, root)
        else:
            base = _absolute(node, package, file)
            if base.partition(".")[0] in PACKAGES:
                yield _known(base, file, node.lineno, root)
                # `from a import b`: b is a module, or a name that a defines
                yield from (name for alias in node.names if _file_of(name := f"{base}.{alias.name}", root))


@lru_cache(maxsize=1024)  # closures overlap: most files are in those of several stages
def _import_statements(source: bytes) -> tuple[ast.Import | ast.ImportFrom, ...]:
    return tuple(node for node in _executed(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom))


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """Every statement below, less the bodies of `if TYPE_CHECKING:`. Expressions, in which none can be, are passed."""
    for block in BLOCKS:
        for child in getattr(node, block, ()):
            if isinstance(child, ast.If) and _is_type_checking(child.test):
                for other in child.orelse:
                    yield other
                    yield from _executed(other)
            else:
                yield child
                yield from _executed(child)


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _absolute(node: ast.ImportFrom, package: str, file: Path) -> str:
    """The module that `from … import` names; dots count from the file's package."""
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    if node.level > len(parts):
        raise UserError(f"{file}, line {node.lineno}: the relative import leaves the project; write it absolutely")
    return ".".join(parts[: len(parts) - node.level + 1] + ([node.module] if node.module else []))


def _known(name: str, file: Path, line: int, root: Path) -> str:
    if _file_of(name, root) is None and not (root / _path_of(name)).is_dir():
        raise UserError(f"{file}, line {line}: imports {name}, which this project does not have")
    return name


def _with_parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]


def _path_of(module: str) -> Path:
    return Path(*module.split("."))


def _file_of(module: str, root: Path) -> Path | None:
    """A module's file relative to root; a package's is its `__init__.py`. None where there is none."""
    path = _path_of(module)
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if (root / file).is_file()), None)


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except SyntaxError as error:
        raise _not_python(path, error) from None


def _not_python(path: Path, error: SyntaxError) -> UserError:
    return UserError(f"{path}, line {error.lineno}: not valid Python: {error.msg}")


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and _docstring(node):
            node.body = node.body[1:]
    return tree


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    first = node.body[0] if node.body else None
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)


def _dump(node: object) -> str:
    """Like ast.dump, whose text changes from one Python version to the next: empty fields and contexts are left out."""
    if isinstance(node, ast.Constant):
        return f"Constant({node.value!r})"
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if name not in ("ctx", "type_comment"))
        return f"{type(node).__name__}({', '.join(f'{n}={_dump(v)}' for n, v in fields if v is not None and v != [])})"
    if isinstance(node, list):
        return f"[{', '.join(map(_dump, node))}]"
    return repr(node)


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the project files that a module's import reaches.")
    parser.add_argument("module", nargs="+", help="dotted name, such as stages.train")
    parser.add_argument("--digest", action="store_true", help="print the digest over their code instead")
    arguments = parser.parse_args()
    try:
        for module in arguments.module:
            if arguments.digest:
                print(source_digest(module), module)
            else:
                print("\n".join(f"- {file.as_posix()}" for file in import_closure(module)))
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
