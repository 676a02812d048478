"""Who signed a version: OpenSSF model-signing over manifest.json, which in turn covers every file of the version.

    init("hanna")                   # a key pair, once per person or machine
    sign(directory)                 # writes manifest.json.sig, a sigstore bundle
    verify_signature(directory)     # who signed it; RegistryError where that is nobody we trust

Signing one small file means that 21 GB are hashed once and not twice. Keys lie in $MEDTUNE_KEYS, by default
~/.config/medtune/keys: the private one as signing.key, and NAME.pub for everybody whose signature counts; a team copies
these to each other. Where any NAME.pub lies there, a version without a good signature by one of them is refused; where
none lies there, nobody said whom to trust, and signatures are not looked at.

Anybody can check a version without this project, in its folder, by model-signing's own command:

    model_signing verify key manifest.json --signature manifest.json.sig --public_key NAME.pub
    jq -r '.files[] | .sha256 + "  " + .path' manifest.json | sha256sum --check --strict --quiet

$MEDTUNE_KEY_PASSWORD locks and unlocks the private key. MEDTUNE_SIGNING=keyless signs and verifies through sigstore
instead (registry/keyless.py), and then local keys count for nothing.
"""

import contextlib
import getpass
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from medtune.params.errors import RegistryError
from medtune.registry import keyless
from medtune.registry.manifest import MANIFEST, SIGNATURE, manifest_digest
from medtune.registry.signature import (
    Bundle,
    identities,
    key_id,
    made_by,
    public_pem,
    read_bundle,
    read_public_key,
    signs,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

PRIVATE = "signing.key"
PASSWORD = "MEDTUNE_KEY_PASSWORD"
SHORT = 16  # digits of a key's id that people compare


def keys_folder() -> Path:
    """$MEDTUNE_KEYS, else medtune/keys under $XDG_CONFIG_HOME or ~/.config. It need not be there."""
    if named := os.environ.get("MEDTUNE_KEYS"):
        return Path(named).expanduser()
    config = os.environ.get("XDG_CONFIG_HOME", "")
    try:
        return (Path(config) if Path(config).is_absolute() else Path.home() / ".config") / "medtune" / "keys"
    except RuntimeError:
        raise RegistryError(
            "there is no home directory to look for keys in; set MEDTUNE_KEYS to their folder"
        ) from None


def init(name: str | None = None) -> tuple[Path, Path]:
    """Make a key pair (ECDSA P-256): (signing.key, NAME.pub). RegistryError where one of them is there already."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    name = name or default_name()
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}", name):
        raise RegistryError(f"--name {name!r}: a key's name has letters, digits and _ . @ - only, at most 64")
    folder = keys_folder()
    private, public = folder / PRIVATE, folder / f"{name}.pub"
    for path in (private, public):
        if os.path.lexists(path):
            raise RegistryError(f"{path} is there already and is not overwritten; move it away for a new key pair")
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    _check_folder(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    password = os.environ.get(PASSWORD)
    lock = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
    _write_new(private, pem, 0o600)
    _write_new(public, public_pem(key.public_key()), 0o644)
    return private, public


def default_name() -> str:
    """login@host, with what is no letter or digit made a dash."""
    return re.sub(r"[^A-Za-z0-9_.@-]", "-", f"{getpass.getuser()}@{socket.gethostname()}").lstrip("-.@")[:64] or "key"


def trusted() -> dict[str, Path]:
    """{name: public key's file} of everybody whose signature counts, sorted by name.

    RegistryError where $MEDTUNE_KEYS names no folder, since a typing error must not end all checking, and where
    everybody on this machine may add a key.
    """
    folder = keys_folder()
    if not folder.is_dir():
        if os.environ.get("MEDTUNE_KEYS"):
            raise RegistryError(
                f"MEDTUNE_KEYS is {folder}, which is no folder; `medtune keys init` makes it, or unset it"
            )
        return {}
    found = {path.stem: path for path in sorted(folder.glob("*.pub"))}
    if found:
        _check_folder(folder)
    return found


def sign(directory: Path) -> str | None:
    """Sign a version's manifest.json: the key's id (keyless: `keyless:<who>`); None where there is no private key.

    It does not ask whether the files are as the manifest says: sign what was just written, or verify first.
    RegistryError where the key cannot be used or the key of this machine is one that others can read.
    """
    if keyless.chosen():
        policy = keyless.policy()
        with _replacing(directory) as temporary:
            keyless.sign(directory / MANIFEST, temporary, policy)
        return f"keyless:{policy.identity}"
    path = keys_folder() / PRIVATE
    if not path.is_file():
        return None
    key, password = _private_key(path)
    try:
        from model_signing import signing
    except ImportError as error:
        raise RegistryError(
            f"signing needs model-signing ({error}); run `pip install model-signing pyopenssl`"
        ) from None
    # its annotation says str and it hands the password on to cryptography, which takes bytes
    config = signing.Config().use_elliptic_key_signer(private_key=path, password=password)  # type: ignore[arg-type]
    with _replacing(directory) as temporary:
        config.sign(directory / MANIFEST, temporary)
    return key_id(key.public_key())


def verify_signature(directory: Path) -> str | None:
    """The name of who signed this version's manifest.json; None where no key is trusted and nothing is asked.

    RegistryError names the file where the signature is missing, is by somebody else or is over another manifest.
    """
    if keyless.chosen():
        bundle = _bundle(directory, "MEDTUNE_SIGNING=keyless asks for one", "set MEDTUNE_SIGNING=key")
        policy = keyless.policy()
        keyless.verify(directory / MANIFEST, directory / SIGNATURE, policy)
        _check_subject(directory, bundle, policy.identity)
        return policy.identity
    known = trusted()
    if not known:
        return None
    folder = keys_folder()
    bundle = _bundle(directory, f"{folder} names keys to trust", f"remove the .pub files in {folder}")
    for name, path in known.items():
        if made_by(bundle, read_public_key(path)):
            _check_subject(directory, bundle, name)
            return name
    whose = f"key {bundle.key_id[:SHORT]!r}" if bundle.key_id else "no key that it names"
    raise RegistryError(
        f"{directory / SIGNATURE} is by {whose} and by none that is trusted ({', '.join(known)}): copy the signer's "
        f".pub into {folder} if you know them, or check the version, then `medtune keys sign {directory.name[:12]}`"
    )


def signer(directory: Path) -> str | None:
    """Whom the signature file names: a key's id or `keyless:<who>`, not verified; None where there is no signature."""
    bundle = read_bundle(directory)
    if bundle is None:
        return None
    if bundle.certificate is not None:
        return "keyless:" + ",".join(identities(bundle.certificate))
    return bundle.key_id


def fingerprint(path: Path) -> str:
    """A public key's id, in short, for people to compare."""
    return key_id(read_public_key(path))[:SHORT]


def _bundle(directory: Path, why: str, instead: str) -> Bundle:
    bundle = read_bundle(directory)
    if bundle is None:
        raise RegistryError(
            f"{directory / SIGNATURE} is missing: this version is not signed, and {why}; check the version, then "
            f"`medtune keys sign {directory.name[:12]}`, or {instead}"
        )
    return bundle


def _check_subject(directory: Path, bundle: Bundle, name: str) -> None:
    try:
        digest = manifest_digest(directory)
    except FileNotFoundError:
        raise RegistryError(f"{directory / MANIFEST} is missing, and {name} signed it; `medtune doctor`") from None
    if not signs(bundle, digest):
        raise RegistryError(
            f"{directory / MANIFEST} is not the one that {name} signed: it was edited, or the signature is of another "
            "version; `medtune doctor` tells what is damaged, `medtune rollback` goes back to the champion before"
        )


def _private_key(path: Path) -> tuple["EllipticCurvePrivateKey", bytes | None]:
    """The private key and the password that opens it, None where it has none."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if path.stat().st_mode & 0o077:
        raise RegistryError(f"{path} can be read by others; `chmod 600 {path}`, or make a new pair if they did")
    password = os.environ.get(PASSWORD, "").encode() or None
    pem = path.read_bytes()
    if b"ENCRYPTED" not in pem:
        password = None  # a key without one refuses any
    elif password is None:
        raise RegistryError(f"{path} is locked with a password; set {PASSWORD}")
    try:
        key = serialization.load_pem_private_key(pem, password)
    except (ValueError, TypeError):
        why = f"{PASSWORD} does not open it" if password else "it is no private key in PEM"
        raise RegistryError(f"{path} cannot be used to sign: {why}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise RegistryError(
            f"{path} is no elliptic curve key, which model-signing asks for; `medtune keys init` makes one"
        )
    return key, password


def _check_folder(folder: Path) -> None:
    if folder.stat().st_mode & 0o002:
        raise RegistryError(f"{folder} can be written by everybody, who could add a key to trust; `chmod o-w {folder}`")


def _write_new(path: Path, content: bytes, mode: int) -> None:
    """Whole or not at all, and never over a file that is there."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        raise RegistryError(
            f"{path} is there already and is not overwritten; move it away for a new key pair"
        ) from None
    finally:
        os.unlink(temporary)


@contextlib.contextmanager
def _replacing(directory: Path) -> Iterator[Path]:
    """A place for the signature beside the version's folder, where a kill leaves nothing that verification meets."""
    handle, name = tempfile.mkstemp(dir=directory.parent, prefix=".sig-")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, directory / SIGNATURE)
    finally:
        temporary.unlink(missing_ok=True)
