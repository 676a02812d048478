"""The one check before anything of a version is loaded: signature, manifest, every byte, and what may be there at all.

verify_version(version_path(root, digest), manifest_sha256)     # RegistryError names the file
"""

import re
from pathlib import Path
from typing import Any

from medtune.params.errors import RegistryError
from medtune.registry.keys import verify_signature
from medtune.registry.manifest import MANIFEST, MEND, verify_manifest


def verify_version(
    directory: Path, manifest_sha256: str | None = None, quick: bool = False, threads: int | None = None
) -> dict[str, Any]:
    """Hold a version's folder to what was registered and signed.

    Returns the manifest ({"version", "content", "files": [{"path", "sha256", "bytes"}]}) with "signer", the name of
    the trusted key or None where no key is trusted, and "bytes", of all files together. `manifest_sha256` is what the
    ledger keeps of manifest.json. `quick` reads no weights: their names, sizes and headers only.

    RegistryError names the first file that was changed, added, removed, is a link or no plain file, could run code,
    or is not signed by a trusted key.
    """
    if directory.is_symlink():
        raise RegistryError(f"{directory} is a symbolic link; a version holds plain files only, replace or remove it")
    if not (directory / MANIFEST).exists():
        raise RegistryError(f"{directory / MANIFEST} is missing; {MEND}")
    signer = verify_signature(directory)  # before the bytes: an unsigned version is refused at once
    record = verify_manifest(directory, manifest_sha256, threads, quick)
    if re.fullmatch(r"[0-9a-f]{64}", directory.name) and record["version"] != directory.name:
        raise RegistryError(
            f"{directory / MANIFEST} is of version {record['version'][:12]}, which lies in another's place; {MEND}"
        )
    return record | {"signer": signer, "bytes": sum(item["bytes"] for item in record["files"])}
