"""Real keys and real signatures: who signed a version, whom we trust, and the same verdicts by model-signing itself."""

import base64
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from registry.signed_versions import edit, flip, make_version, reseal

from medtune.params.errors import RegistryError
from medtune.registry import keys
from medtune.registry.signature import read_public_key
from medtune.registry.verify import verify_version

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where keys lie; not there yet."""
    for name in list(os.environ):
        if name.startswith(("MEDTUNE_KEY", "MEDTUNE_SIGNING")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config/medtune/keys"


@pytest.fixture
def version(tmp_path: Path) -> Path:
    return make_version(tmp_path / "versions")


@pytest.fixture
def signed(folder: Path, version: Path) -> Path:
    keys.init("hanna")
    keys.sign(version)
    return version


def command(*arguments: object) -> subprocess.CompletedProcess:
    """model-signing's own command."""
    return subprocess.run(
        [sys.executable, "-m", "model_signing", *map(str, arguments)], capture_output=True, text=True, timeout=120
    )


def check_by_command(version: Path, public: Path) -> subprocess.CompletedProcess:
    signature = version / "manifest.json.sig"
    return command("verify", "key", version / "manifest.json", "--signature", signature, "--public_key", public)


def test_a_key_pair(folder: Path) -> None:
    private, public = keys.init("hanna")
    assert (private, public) == (folder / "signing.key", folder / "hanna.pub")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert private.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["hanna.pub", "signing.key"]
    assert keys.trusted() == {"hanna": public}
    assert read_public_key(public).curve.name == "secp256r1"
    # what a person gets from openssl
    der = subprocess.run(["openssl", "ec", "-in", private, "-pubout"], capture_output=True, check=True).stdout
    assert keys.fingerprint(public) == hashlib.sha256(der).hexdigest()[:16]


@pytest.mark.parametrize("name", [None, "other"])
def test_no_key_is_overwritten(folder: Path, name: str | None) -> None:
    private, public = keys.init(name)
    before = private.read_bytes(), public.read_bytes()
    with pytest.raises(RegistryError, match=r"signing\.key is there already"):
        keys.init("third")
    private.unlink()
    with pytest.raises(RegistryError, match=rf"{public.name} is there already"):
        keys.init(name)
    assert public.read_bytes() == before[1]
    assert not private.exists()


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "a b", "a\n", "x" * 65, "a#b"])
def test_names_of_keys(folder: Path, name: str) -> None:
    with pytest.raises(RegistryError, match="a key's name has letters"):
        keys.init(name)
    assert not folder.exists()


def test_the_default_name_can_always_be_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "../김 박사/#")
    assert keys.init()[1].parent == folder


def test_a_signed_version_passes_and_says_by_whom(signed: Path, folder: Path) -> None:
    record = verify_version(signed)
    assert record["signer"] == "hanna"
    assert record["bytes"] == sum(item["bytes"] for item in record["files"]) > 0
    assert keys.signer(signed) == hashlib.sha256((folder / "hanna.pub").read_bytes()).hexdigest()
    assert (signed / "manifest.json.sig").stat().st_mode & 0o777 == 0o644
    assert [path.name for path in signed.parent.iterdir()] == [signed.name], "signing leaves nothing beside"


def test_without_any_key_nothing_is_asked(folder: Path, version: Path) -> None:
    assert keys.trusted() == {}
    assert keys.sign(version) is None
    assert keys.signer(version) is None
    assert verify_version(version)["signer"] is None
    (version / "manifest.json.sig").write_text("rubbish")
    assert verify_version(version)["signer"] is None


def test_a_private_key_alone_signs_and_asks_for_nothing(signed: Path, folder: Path) -> None:
    (folder / "hanna.pub").unlink()
    flip(signed / "manifest.json.sig")
    assert verify_version(signed)["signer"] is None
    assert keys.sign(signed)


def test_an_unsigned_version_is_refused_where_a_key_is_trusted(folder: Path, version: Path) -> None:
    keys.init("hanna")
    with pytest.raises(
        RegistryError, match=rf"manifest\.json\.sig is missing: .* `medtune keys sign {version.name[:12]}`"
    ):
        verify_version(version)
    keys.sign(version)
    assert verify_version(version)["signer"] == "hanna"


def test_a_key_that_is_not_trusted(signed: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDTUNE_KEYS", str(tmp_path / "mallory"))
    _, public = keys.init("mallory")
    with pytest.raises(RegistryError, match=r"manifest\.json\.sig is by key '[0-9a-f]{16}' and by none .* \(mallory\)"):
        verify_version(signed)
    assert check_by_command(signed, public).returncode == 1
    # the team's way: the public key is copied
    (tmp_path / "mallory/hanna.pub").write_bytes((folder / "hanna.pub").read_bytes())
    assert verify_version(signed)["signer"] == "hanna"
    keys.sign(signed)
    assert verify_version(signed)["signer"] == "mallory"


def test_a_hint_is_not_believed(signed: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mallory signs and writes hanna's key id beside it."""
    hint = keys.signer(signed)
    monkeypatch.setenv("MEDTUNE_KEYS", str(tmp_path / "mallory"))
    keys.init("mallory")
    keys.sign(signed)
    path = signed / "manifest.json.sig"
    bundle = json.loads(path.read_text())
    bundle["verificationMaterial"]["publicKey"]["hint"] = hint
    path.write_text(json.dumps(bundle))
    monkeypatch.delenv("MEDTUNE_KEYS")
    with pytest.raises(RegistryError, match=r"manifest\.json\.sig is by key .* and by none that is trusted"):
        verify_version(signed)


def edited_manifest(version: Path) -> None:
    """A file and its line, as somebody with access to the disk can do; the ledger is not asked here."""
    flip(version / "merged/model.safetensors")
    reseal(version)


def rewrite(version: Path, change) -> None:
    """Change the signed statement and leave the signature."""
    path = version / "manifest.json.sig"
    bundle = json.loads(path.read_text())
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    change(statement)
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    path.write_text(json.dumps(bundle))


def resigned_for_edited(version: Path) -> None:
    edited_manifest(version)
    digest = hashlib.sha256((version / "manifest.json").read_bytes()).hexdigest()
    rewrite(version, lambda s: s["predicate"]["resources"][0].update(digest=digest))


def of_another(version: Path) -> None:
    other = make_version(version.parent, "b" * 64)
    keys.sign(other)
    (version / "manifest.json.sig").write_bytes((other / "manifest.json.sig").read_bytes())


HARMS = {
    "edited manifest": (edited_manifest, r"manifest\.json is not the one that hanna signed"),
    "one space more": (lambda v: edit(v, lambda r: None), r"manifest\.json is not the one that hanna signed"),
    "statement edited": (resigned_for_edited, r"manifest\.json\.sig is by key"),
    "signature of another": (of_another, r"manifest\.json is not the one that hanna signed"),
    "cut off": (lambda v: os.truncate(v / "manifest.json.sig", 700), r"manifest\.json\.sig is no sigstore bundle"),
    "empty": (lambda v: os.truncate(v / "manifest.json.sig", 0), r"manifest\.json\.sig is no sigstore bundle"),
    "not JSON": (lambda v: (v / "manifest.json.sig").write_bytes(b"\xff"), r"manifest\.json\.sig is no sigstore"),
    "other JSON": (lambda v: (v / "manifest.json.sig").write_text("[1]"), r"manifest\.json\.sig is no sigstore"),
    "deep": (lambda v: (v / "manifest.json.sig").write_text("[" * 60_000), r"manifest\.json\.sig is no sigstore"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_harm_is_refused_by_us_and_by_model_signing(signed: Path, folder: Path, harm: str) -> None:
    from model_signing import verifying

    def check() -> None:  # what its command does, without two seconds of imports each time
        config = verifying.Config().use_elliptic_key_verifier(public_key=folder / "hanna.pub")
        config.verify(signed / "manifest.json", signed / "manifest.json.sig")

    check()
    do, named = HARMS[harm]
    do(signed)
    with pytest.raises(RegistryError, match=named):
        verify_version(signed)
    with pytest.raises(Exception):  # noqa: B017, PT011 - it has no class of its own for a refusal
        check()


def test_every_byte_of_statement_and_signature_counts(signed: Path) -> None:
    path = signed / "manifest.json.sig"
    sound = json.loads(path.read_text())
    for key, holder in (
        ("payload", lambda b: b["dsseEnvelope"]),
        ("sig", lambda b: b["dsseEnvelope"]["signatures"][0]),
    ):
        raw = base64.b64decode(holder(sound)[key])
        for place in range(0, len(raw), 7):
            changed = bytearray(raw)
            changed[place] ^= 1
            bundle = json.loads(json.dumps(sound))
            holder(bundle)[key] = base64.b64encode(changed).decode()
            path.write_text(json.dumps(bundle))
            with pytest.raises(RegistryError, match=r"manifest\.json\.sig is by key"):
                keys.verify_signature(signed)
    path.write_text(json.dumps(sound))
    assert keys.verify_signature(signed) == "hanna"


def test_a_signature_over_more_than_the_manifest_is_none(folder: Path, version: Path) -> None:
    """Signed by the right key, by model-signing, but over the folder: what it ignores there it does not cover."""
    private, _ = keys.init("hanna")
    signature = version / "manifest.json.sig"
    done = command("sign", "key", version, "--signature", signature, "--private_key", private)
    assert done.returncode == 0, done.stderr
    with pytest.raises(RegistryError, match=r"manifest\.json is not the one that hanna signed"):
        verify_version(version)


def test_what_model_signing_signs_passes_here(folder: Path, version: Path) -> None:
    private, _ = keys.init("hanna")
    signature = version / "manifest.json.sig"
    done = command("sign", "key", version / "manifest.json", "--signature", signature, "--private_key", private)
    assert done.returncode == 0, done.stderr
    assert verify_version(version)["signer"] == "hanna"


@pytest.mark.parametrize("curve", ["secp384r1", "secp521r1"])
def test_keys_of_larger_curves_that_openssl_made(folder: Path, version: Path, curve: str) -> None:
    folder.mkdir(parents=True, mode=0o700)
    private, public = folder / "signing.key", folder / "big.pub"
    run = {"capture_output": True, "check": True}
    subprocess.run(["openssl", "ecparam", "-name", curve, "-genkey", "-noout", "-out", private], **run)
    subprocess.run(["openssl", "ec", "-in", private, "-pubout", "-out", public], **run)
    private.chmod(0o600)
    assert keys.sign(version)
    assert verify_version(version)["signer"] == "big"
    assert check_by_command(version, public).returncode == 0


def test_the_documented_commands(signed: Path, folder: Path) -> None:
    """Lines of keys.py's docstring, run in the version's folder as they stand there."""
    lines = [line.strip() for line in keys.__doc__.splitlines() if line.startswith("    ") and "manifest.json" in line]
    lines = [line.replace("NAME.pub", str(folder / "hanna.pub")) for line in lines if line.startswith(("model_", "jq"))]
    assert len(lines) == 2
    lines[0] = lines[0].replace("model_signing", f"{sys.executable} -m model_signing", 1)

    def run() -> list[int]:
        return [subprocess.run(["bash", "-o", "pipefail", "-c", line], cwd=signed).returncode for line in lines]

    assert run() == [0, 0]
    flip(signed / "merged/model.safetensors")
    assert run() == [0, 1]
    edit(signed, lambda record: record.update(version="x"))
    assert run()[0] == 1


def test_a_key_with_a_password(folder: Path, version: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    secret = "비밀 words-4711"
    monkeypatch.setenv("MEDTUNE_KEY_PASSWORD", secret)
    private, _ = keys.init("hanna")
    assert b"ENCRYPTED" in private.read_bytes()
    keys.sign(version)
    assert verify_version(version)["signer"] == "hanna"
    told = []
    monkeypatch.setenv("MEDTUNE_KEY_PASSWORD", secret + "x")
    with pytest.raises(RegistryError, match="MEDTUNE_KEY_PASSWORD does not open it") as wrong:
        keys.sign(version)
    told.append(str(wrong.value))
    monkeypatch.delenv("MEDTUNE_KEY_PASSWORD")
    with pytest.raises(
        RegistryError, match=r"signing\.key is locked with a password; set MEDTUNE_KEY_PASSWORD"
    ) as none:
        keys.sign(version)
    told += [str(none.value), *capfd.readouterr()]
    assert verify_version(version)["signer"] == "hanna", "checking needs no private key"
    assert not any("4711" in text for text in told)


def test_a_password_that_is_not_needed_does_no_harm(folder: Path, version: Path, monkeypatch) -> None:
    keys.init("hanna")
    monkeypatch.setenv("MEDTUNE_KEY_PASSWORD", "x")
    assert keys.sign(version)


def test_keys_that_others_can_read_or_add(signed: Path, folder: Path) -> None:
    (folder / "signing.key").chmod(0o640)
    with pytest.raises(RegistryError, match=r"signing\.key can be read by others; `chmod 600"):
        keys.sign(signed)
    (folder / "signing.key").chmod(0o600)
    folder.chmod(0o707)
    with pytest.raises(RegistryError, match="can be written by everybody"):
        verify_version(signed)


def test_a_typing_error_in_the_folders_name_ends_no_checking(signed: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MEDTUNE_KEYS", str(tmp_path / "kyes"))
    with pytest.raises(RegistryError, match="kyes, which is no folder"):
        verify_version(signed)


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_a_public_key_that_is_none(signed: Path, folder: Path, content: bytes) -> None:
    (folder / "broken.pub").write_bytes(content)
    with pytest.raises(RegistryError, match=r"broken\.pub is no public key in PEM"):
        verify_version(signed)


def test_a_key_of_another_kind(folder: Path, version: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    folder.mkdir(parents=True, mode=0o700)
    key = ed25519.Ed25519PrivateKey.generate()
    pem, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    (folder / "ed.pub").write_bytes(key.public_key().public_bytes(pem, form))
    (folder / "signing.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / "signing.key").chmod(0o600)
    with pytest.raises(RegistryError, match=r"signing\.key is no elliptic curve key"):
        keys.sign(version)
    (folder / "signing.key").rename(folder / "old.key")
    keys.init("hanna")
    keys.sign(version)
    with pytest.raises(RegistryError, match=r"ed\.pub is no key on P-256"):
        verify_version(version)


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_signature_that_is_no_plain_file(signed: Path, kind: str, tmp_path: Path) -> None:
    path = signed / "manifest.json.sig"
    path.rename(tmp_path / "kept.sig")
    path.symlink_to(tmp_path / "kept.sig") if kind == "link" else os.mkfifo(path)
    with pytest.raises(RegistryError, match=r"manifest\.json\.sig is (a symbolic link|no plain file)"):
        verify_version(signed)


def test_an_oversized_signature_is_not_read(signed: Path) -> None:
    os.truncate(signed / "manifest.json.sig", 40 * 2**30)
    with pytest.raises(RegistryError, match=r"manifest\.json\.sig is oversized"):
        verify_version(signed)


def test_checking_does_not_import_model_signing(signed: Path) -> None:
    """It takes two seconds, and every load would pay them."""
    code = (
        f"import sys; from pathlib import Path; from medtune.registry.verify import verify_version\n"
        f"assert 'cryptography' not in sys.modules\n"
        f"assert verify_version(Path({str(signed)!r}))['signer'] == 'hanna'\n"
        "assert not {'model_signing', 'sigstore', 'mlflow'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
