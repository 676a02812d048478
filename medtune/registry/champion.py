"""From an alias or a version to files that are as they were registered.

load_model(champion_dir(Path("."), recipe), …)      # every byte is what was registered

The ledger says who is champion, and MLflow is not asked: whoever loads by MLflow's own alias is not protected.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtune.params.errors import RegistryError
from medtune.registry import tags
from medtune.registry.ledger import Ledger, read_ledger
from medtune.registry.standing import Standing, champion, resolve, standings
from medtune.registry.verify import verify_version
from medtune.registry.versions import MERGED, version_path

if TYPE_CHECKING:
    from medtune.params.recipe import Recipe


def champion_dir(root: Path, recipe: "Recipe", alias: str = tags.CHAMPION, version: str | None = None) -> Path:
    """The folder of a merged model, ready to load; its adapter lies beside it, in ../adapter.

    `version`: a number or digest, instead of the alias. Every file of the version is held to the manifest, and the
    manifest to the ledger and its signature, first. RegistryError where there is none such, and naming the file where
    one changed, is missing, was added or is a symbolic link.
    """
    model, ledger = recipe.register_.model, read_ledger(root)
    if ledger is not None:
        ledger.verify()  # an edited row could name another champion, or another manifest
    standing = resolve(ledger, model, version) if version else named(ledger, model, alias)
    if standing is None:
        raise RegistryError(f"{model} has no {alias} yet; `make run` trains and registers one")
    return verified(root, standing) / MERGED


def named(ledger: Ledger | None, model: str, alias: str) -> Standing | None:
    """The version that is champion, or the challenger: the newest that was registered."""
    if alias not in (tags.CHAMPION, tags.CHALLENGER):
        raise RegistryError(f"--alias {alias[:64]!r}: there are champion and challenger; --version names any other")
    if ledger is None:
        return None
    known = standings(ledger, model)
    if alias == tags.CHAMPION:
        now = champion(ledger, model)
        return known.get(now.version) if now is not None and now.version else None
    return max(known.values(), key=lambda item: item.registered.seq, default=None)


def verified(root: Path, standing: Standing, quick: bool = False) -> Path:
    """The folder of a registered version, with adapter/ and merged/, after holding it to the ledger and its manifest.

    `quick` reads no weights: names, sizes, contents of configurations, manifest and signature. A version whose files
    lie in an artifact store is fetched first; `quick` leaves that to whoever loads it.
    """
    path = version_path(root, standing.version)
    if not path.exists() and (source := standing.registered.body.get("files", "local")) != "local":
        if quick:
            return path
        from medtune.registry.remote import fetch_version
        from medtune.tracking.store import connect, open_store

        fetch_version(connect(open_store(root)), source, standing.version, root, standing.registered.body["manifest"])
        quick = True  # every byte was held to the manifest on the way in; who signed it was not asked
    verify_version(path, standing.registered.body["manifest"], quick=quick)
    return path


def registered(client: Any, model: str) -> Any | None:
    """MLflow's registered model, None where there is none of that name."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(model)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
