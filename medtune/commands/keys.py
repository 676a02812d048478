"""`medtune verify` and `medtune keys`: hold versions to what was registered, and say who signed them."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medtune.params.errors import RegistryError, UserError
from medtune.params.recipe import load_recipe

if TYPE_CHECKING:
    from medtune.registry.standing import Standing

keys_app = typer.Typer(help="Keys that sign versions, and keys to trust.", no_args_is_help=True, rich_markup_mode=None)
Versions = Annotated[list[str] | None, typer.Argument(help="numbers or digests; left out, the champion")]
All = Annotated[bool, typer.Option("--all", help="every registered version")]


def verify(versions: Versions = None, all_: All = False) -> None:
    """Read every file of a version and hold it to its manifest, the ledger and its signature."""
    from medtune.registry.verify import verify_version

    root = Path(".")
    damaged = []
    for standing in _chosen(root, versions, all_):
        folder = _folder(root, standing, skip=all_)
        if folder is None:
            print(f"{standing.name}: its files lie in {standing.registered.body['files']} and not here")
            continue
        began = time.perf_counter()
        try:
            record = verify_version(folder, standing.registered.body["manifest"])
        except RegistryError as error:
            damaged.append(f"{standing.name}: {error}")
            print(f"{standing.name}: REFUSED")
            continue
        signed = f"signed by {record['signer']}" if record["signer"] else "no key is trusted, so no signature was asked"
        print(
            f"{standing.name}: {len(record['files'])} files, {record['bytes'] / 2**30:.2f} GiB, "
            f"{time.perf_counter() - began:.1f} s, {signed}"
        )
    if damaged:
        raise UserError("\n".join(damaged))


@keys_app.command("init")
def keys_init(
    name: Annotated[str | None, typer.Option(help="of the public key; left out, login@host")] = None,
) -> None:
    """Make a key pair. From then on only signed versions are loaded here; new ones are signed as they register."""
    from medtune.registry import keys

    private, public = keys.init(name)
    print(f"private key: {private} (keep it, and back it up where nobody else reads it)")
    print(f"public key:  {public} ({keys.fingerprint(public)}; copy it to the keys folder of whoever is to trust it)")
    print("versions that are registered already are refused until they are signed: `medtune keys sign --all`")


@keys_app.command("list")
def keys_list() -> None:
    """Name the keys whose signatures count here, with the first digits of their sha256."""
    from medtune.registry import keyless, keys

    if keyless.chosen():
        policy = keyless.policy()
        print(f"keyless: {policy.identity}, vouched for by {policy.issuer}; keys in {keys.keys_folder()} do not count")
        return
    for name, path in keys.trusted().items():
        print(f"{keys.fingerprint(path)}  {name}")
    if not keys.trusted():
        print(
            f"no key is trusted, so versions need no signature; `medtune keys init` makes one in {keys.keys_folder()}"
        )
    if not (keys.keys_folder() / keys.PRIVATE).is_file():
        print("there is no private key here: versions that register here are not signed")


@keys_app.command("sign")
def keys_sign(versions: Versions = None, all_: All = False) -> None:
    """Sign versions that were registered before. Every file is held to the ledger first; the signature is yours."""
    from medtune.registry import keyless, keys
    from medtune.registry.ledger import open_ledger
    from medtune.registry.manifest import verify_manifest

    if not versions and not all_:
        raise UserError("`medtune keys sign` needs a version's number or digest, or --all")
    if not keyless.chosen() and not (keys.keys_folder() / keys.PRIVATE).is_file():
        raise RegistryError(f"{keys.keys_folder() / keys.PRIVATE} is missing; `medtune keys init` makes a key pair")
    root = Path(".")
    model, ledger = load_recipe().register_.model, open_ledger(root)
    for standing in _chosen(root, versions, all_):
        folder = _folder(root, standing, skip=all_)
        if folder is None:
            print(f"{standing.name}: its files lie in {standing.registered.body['files']} and not here")
            continue
        manifest = standing.registered.body["manifest"]
        verify_manifest(folder, manifest)
        signed_by = str(keys.sign(folder))
        ledger.append("signed", model, standing.version, {"signed_by": signed_by, "manifest": manifest})
        print(f"{standing.name}: signed by {signed_by if ':' in signed_by else signed_by[: keys.SHORT]}")


def _chosen(root: Path, versions: list[str] | None, all_: bool) -> "list[Standing]":
    from medtune.registry.ledger import read_ledger
    from medtune.registry.standing import champion, resolve, standings

    model, ledger = load_recipe().register_.model, read_ledger(root)
    known = standings(ledger, model) if ledger else {}
    if all_:
        return list(known.values())
    if versions:
        return [resolve(ledger, model, text, known) for text in versions]
    now = champion(ledger, model) if ledger else None
    if now is None or now.version is None:
        raise RegistryError(f"{model} has no champion yet; name a version, or --all")
    return [resolve(ledger, model, now.version, known)]


def _folder(root: Path, standing: "Standing", skip: bool) -> Path | None:
    """Where a version's files lie; with `skip` None where the ledger says that they are only in an artifact store."""
    from medtune.registry.versions import version_path

    folder = version_path(root, standing.version)
    elsewhere = standing.registered.body.get("files", "local") != "local"
    if elsewhere and not folder.exists():
        if skip:
            return None
        raise RegistryError(
            f"{standing.name} lies in {standing.registered.body['files']}; what loads it, such as `medtune ask`, "
            "fetches it and verifies it then"
        )
    return folder
