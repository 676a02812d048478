"""base.source: mlflow: a base that is a registered version of ours is held to the ledger before it is tuned further.

The engine resolves a base wherever MLflow says that it lies, and its fingerprint holds from then on. This is asked
once, by download, before that first fingerprint is believed.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from medtune.params.errors import RegistryError
from medtune.registry.champion import verified
from medtune.registry.ledger import read_ledger
from medtune.registry.manifest import hash_files, read_manifest
from medtune.registry.standing import standings
from medtune.registry.versions import MERGED

if TYPE_CHECKING:
    from medtune.params.base import Base


def check_registered_base(root: Path, section: "Base", path: Path) -> str | None:
    """Hold the files at `path`, which MLflow named for this base, to the version that the ledger knows.

    Returns a note where the ledger knows no version of that model: its files are taken as they are. RegistryError where
    it knows the model and not this version, and naming the file that is not the one that was registered.
    """
    if section.source != "mlflow":
        return None
    ledger = read_ledger(root)
    known = standings(ledger, section.id) if ledger is not None else {}
    if ledger is None or not known:
        return f"{section.id} was not registered by medtune: nothing vouches for its files but the fingerprint of today"
    standing = next((item for item in known.values() if str(item.number) == str(section.revision)), None)
    if standing is None:
        numbers = ", ".join(str(item.number) for item in known.values())
        raise RegistryError(
            f"base.revision: the ledger has no version {section.revision} of {section.id}; it has {numbers}"
        )
    folder = verified(root, standing)
    if path.resolve() == (folder / MERGED).resolve():
        return None
    prefix = f"{MERGED}/"
    listed = {item["path"]: item["sha256"] for item in read_manifest(folder)["files"]}
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    for item in hash_files(path, names):
        if listed.get(prefix + item["path"]) != item["sha256"]:
            raise RegistryError(
                f"{path / item['path']}, where MLflow says that {section.id} version {section.revision} lies, is not a "
                "file of that version; run `medtune doctor`"
            )
    return None
