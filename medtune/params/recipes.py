"""The recipes that ship (recipes/*.yaml), and how one becomes the active params.yaml."""

import os
from collections.abc import Callable
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from medtune.params.errors import RecipeError
from medtune.params.names import nearest
from medtune.params.recipe import Recipe, parse_recipe, read_yaml

FOLDER = Path("recipes")


def names(folder: Path = FOLDER) -> list[str]:
    """The recipes by name, `sample` first."""
    return sorted((path.stem for path in folder.glob("*.yaml")), key=lambda name: (name != "sample", name))


def find(name: str, folder: Path = FOLDER) -> Path:
    """The file of a recipe; RecipeError with the nearest name where there is none."""
    path = folder / f"{name}.yaml"
    if name not in names(folder):
        raise RecipeError(f"there is no recipe '{name}' in {folder}/; {nearest(name, names(folder))}")
    return path


def summary(path: Path) -> str:
    """The first sentence of the comment at a recipe's head."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines).split(". ")[0].rstrip(".")


def compose(text: str, overrides: list[str], pin: Callable[[str, str], str], where: str) -> tuple[str, Recipe]:
    """A recipe's text with `key=value` overrides set and pins resolved, its comments kept, and the same typed.

    pin(kind, id) gives the 40-hex commit of a hub repository (kind "model" or "dataset"). Raises RecipeError.
    """
    yaml = YAML()  # round trip: keeps comments and order
    yaml.preserve_quotes = True
    yaml.width = 4096
    data = yaml.load(text)
    for override in overrides:
        _set(data, override)
    parse_recipe(_plain(data, yaml), where)  # every wrong key is told before the hub is asked
    for section, kind in (("base", "model"), ("download", "dataset")):
        if data[section].get("revision") == "pin":
            data[section]["revision"] = pin(kind, data[section]["id"])
    written = StringIO()
    yaml.dump(data, written)
    return written.getvalue(), parse_recipe(_plain(data, yaml), where)


def _set(data: dict, override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise RecipeError(f"'{override}' is no key=value; write for example train.max_steps=100")
    *parents, last = key.split(".")
    place = data
    for depth, name in enumerate(parents):
        if not isinstance(place.get(name), dict):
            known = [k for k in place if isinstance(place[k], dict)]
            raise RecipeError(
                f"'{'.'.join(parents[: depth + 1])}' in '{override}' is no section; {nearest(name, known)}"
            )
        place = place[name]
    try:
        place[last] = YAML(typ="safe", pure=True).load(value)
    except YAMLError:
        if value.lstrip().startswith(("[", "{", "'", '"')):
            raise RecipeError(f"the value in '{override}' is not valid YAML; mend it or quote it") from None
        place[last] = value  # such as *.jsonl, which YAML takes for an alias


def _plain(data: dict, yaml: YAML) -> object:
    text = StringIO()
    yaml.dump(data, text)
    return YAML(typ="safe", pure=True).load(text.getvalue())


def write(text: str, path: Path) -> Path | None:
    """Put a recipe into place. An active recipe that is no shipped one is kept beside it; its path is returned."""
    kept = None
    if path.exists():
        old = path.read_text(encoding="utf-8")
        if old != text and all(old != p.read_text(encoding="utf-8") for p in FOLDER.glob("*.yaml")):
            kept = path.with_name(path.name + ".bak")
            kept.write_text(old, encoding="utf-8")
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
    return kept


def check(path: Path) -> Recipe:
    """A recipe file parsed as one that ships: pins may still be open."""
    return parse_recipe(read_yaml(path), str(path))
