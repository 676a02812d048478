"""Hold dvc.yaml's code deps to what the stages import.

python -m flows.deps            # what is missing and what is too much; exit status 1 if anything is
python -m flows.deps --write    # put it right, leaving the data deps and the comments alone
"""

import argparse
import sys
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML

from medtune.params.errors import UserError
from medtune.tracking.closure import import_closure

DVC_YAML = Path("dvc.yaml")


def wanted_deps(root: Path) -> dict[str, list[str]]:
    """Stage -> deps as they should be: its data as dvc.yaml has it, then the files its module imports."""
    stages = YAML(typ="safe").load(root / DVC_YAML)["stages"]
    return {
        name: [dep for dep in stage["deps"] if not dep.endswith(".py")]
        + [file.as_posix() for file in import_closure(f"stages.{name}", root)]
        for name, stage in stages.items()
    }


def differences(root: Path) -> list[str]:
    """One line for each file that a stage imports and dvc.yaml does not name, or the other way round."""
    stages = YAML(typ="safe").load(root / DVC_YAML)["stages"]
    lines = []
    for name, wanted in wanted_deps(root).items():
        found = stages[name]["deps"]
        lines += [f"{name}: add    - {dep}" for dep in wanted if dep not in found]
        lines += [f"{name}: remove - {dep}" for dep in found if dep not in wanted or found.count(dep) > 1]
    return lines


def write(root: Path) -> None:
    """Rewrite the `deps:` blocks of dvc.yaml; every other line stays as it is."""
    text = (root / DVC_YAML).read_text(encoding="utf-8")
    for name, deps in wanted_deps(root).items():
        lines = text.splitlines(keepends=True)
        stage = lines.index(f"  {name}:\n")
        start = lines.index("    deps:\n", stage) + 1
        end = next(n for n in range(start, len(lines)) if not lines[n].startswith("      - "))
        lines[start:end] = [f"      - {dep}\n" for dep in deps]
        text = "".join(lines)
    YAML(typ="safe").load(StringIO(text))
    temporary = root / "dvc.yaml.tmp"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(root / DVC_YAML)


def main() -> None:
    parser = argparse.ArgumentParser(description="Hold dvc.yaml's deps to what the stages import.")
    parser.add_argument("--write", action="store_true", help="rewrite the deps in dvc.yaml")
    arguments = parser.parse_args()
    try:
        if arguments.write:
            write(Path())
        problems = differences(Path())
    except UserError as error:
        sys.exit(f"error: {error}")
    print("\n".join(problems) or "dvc.yaml names what the stages import")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
