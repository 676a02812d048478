"""train.init: the adapter that training goes on from, by its number in the registry.

A number, since an alias would move under the recipe. Kept apart from the rest of the registry: what the train stage
imports makes a candidate, and an edited gate must not retrain.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from medtune.params.errors import RegistryError
from medtune.registry import tags
from medtune.registry.verify import verify_version
from medtune.registry.versions import ADAPTER, version_path
from medtune.tracking.store import connect

if TYPE_CHECKING:
    from medtune.params.recipe import Recipe


def starting_adapter(uri: str, root: Path, recipe: "Recipe") -> tuple[Path, str] | None:
    """(folder, version digest) of version train.init of <register.model>-adapter, every file held to its manifest.

    None where train.init is base. RegistryError where there is no such version (those that are there are named), or
    its files are not those that were registered.
    """
    from mlflow.exceptions import MlflowException

    number = recipe.train.init
    if number == "base":
        return None
    model, client = recipe.register_.adapter_model, connect(uri)
    try:
        version = client.get_model_version(model, str(number))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        there = sorted(int(found.version) for found in client.search_model_versions(f"name='{model}'"))
        known = f"it has {', '.join(map(str, there))}" if there else "it has none yet; write train.init: base"
        raise RegistryError(f"train.init: {number}, and {model} has no version {number}; {known}") from None
    digest = version.tags.get(tags.VERSION)
    for tag in (tags.VERSION, tags.MANIFEST):
        if not version.tags.get(tag):
            raise RegistryError(f"{model} version {number} was not registered by medtune (it has no tag {tag})")
    path = version_path(root, digest)
    verify_version(path, version.tags.get(tags.MANIFEST))
    return path / ADAPTER, digest
