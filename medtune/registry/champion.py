"""From an alias to files that are as they were registered.

load_model(champion_dir(Path("."), recipe), …)      # every byte is what was registered
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtune.params.errors import RegistryError
from medtune.params.recipe import Recipe
from medtune.registry import tags
from medtune.registry.manifest import verify_manifest
from medtune.registry.versions import MERGED, version_path
from medtune.tracking.store import connect, open_store

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


def champion_dir(root: Path, recipe: Recipe, alias: str = tags.CHAMPION) -> Path:
    """The folder of the merged model that an alias names, ready to load; its adapter lies beside it, in ../adapter.

    Every file of the version is held to the manifest first. RegistryError where nothing has the alias, and naming the
    file where one changed, is missing, was added or is a symbolic link.
    """
    model = recipe.register_.model
    found = aliased(connect(open_store(root)), model, alias)
    if found is None:
        raise RegistryError(f"{model} has no {alias} yet; `make run` trains and registers one")
    return verified(root, found) / MERGED


def verified(root: Path, version: "ModelVersion") -> Path:
    """The folder of a registered version, with adapter/ and merged/, after holding it to what the registry keeps."""
    digest = version.tags.get(tags.VERSION)
    if not digest:
        raise RegistryError(
            f"{version.name} version {version.version} was not registered by medtune (it has no tag {tags.VERSION}); "
            "move the alias back in the MLflow UI"
        )
    path = version_path(root, digest)
    verify_manifest(path, version.tags.get(tags.MANIFEST))
    return path


def aliased(client: Any, model: str, alias: str) -> "ModelVersion | None":
    """The version of a registered model that has an alias; None where the model or the alias is not there."""
    found = registered(client, model)
    number = found.aliases.get(alias) if found else None
    return client.get_model_version(model, str(number)) if number else None


def registered(client: Any, model: str) -> Any | None:
    """A registered model, None where there is none of that name."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(model)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
