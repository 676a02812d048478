"""Keyless signing as far as it goes without a network: settings, and sigstore's own verifier with its real roots."""

import base64
import json
import os
from pathlib import Path

import pytest
from registry.signed_versions import make_version

from medtune.params.errors import RegistryError
from medtune.registry import keyless, keys
from medtune.registry.verify import verify_version


@pytest.fixture(autouse=True)
def no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("MEDTUNE_KEY", "MEDTUNE_SIGNING")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def version(tmp_path: Path) -> Path:
    return make_version(tmp_path / "versions")


@pytest.fixture
def keyless_environment(no_keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """sigstore's own public roots, as its package carries them, in the form of a trust configuration."""
    import sigstore

    store = Path(sigstore.__file__).parent / "_store/https%3A%2F%2Ftuf-repo-cdn.sigstore.dev"
    trust = tmp_path / "trust.json"
    record = {
        "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
        "trustedRoot": json.loads((store / "trusted_root.json").read_text()),
        "signingConfig": json.loads((store / "signing_config.v0.2.json").read_text()),
    }
    trust.write_text(json.dumps(record))
    monkeypatch.setenv("MEDTUNE_SIGNING", "keyless")
    monkeypatch.setenv("MEDTUNE_SIGNING_IDENTITY", "hanna@hospital.example")
    monkeypatch.setenv("MEDTUNE_SIGNING_ISSUER", "https://accounts.google.com")
    monkeypatch.setenv("MEDTUNE_SIGNING_TRUST", str(trust))
    return trust


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("MEDTUNE_SIGNING", "keyles", "MEDTUNE_SIGNING is 'keyles'; it can be key"),
        ("MEDTUNE_SIGNING_IDENTITY", "", "MEDTUNE_SIGNING_IDENTITY is not set"),
        ("MEDTUNE_SIGNING_ISSUER", "", "MEDTUNE_SIGNING_ISSUER is not set"),
        ("MEDTUNE_SIGNING_ISSUER", "accounts.google.com", "an issuer is an https:// address"),
        ("MEDTUNE_SIGNING_TRUST", "/nowhere/trust.json", "which is no file"),
    ],
)
def test_keyless_settings(keyless_environment, version: Path, monkeypatch, name: str, value: str, told: str) -> None:
    monkeypatch.setenv(name, value)
    (version / "manifest.json.sig").write_text('{"verificationMaterial": {}, "dsseEnvelope": {}}')
    with pytest.raises(RegistryError, match=told):
        keys.sign(version)


def test_keyless_refuses_unsigned_whatever_keys_there_are(keyless_environment, version: Path) -> None:
    with pytest.raises(RegistryError, match=r"manifest\.json\.sig is missing: .*MEDTUNE_SIGNING=keyless asks for one"):
        verify_version(version)


def test_keyless_refuses_a_signature_by_key(keyless_environment, version: Path, monkeypatch) -> None:
    """sigstore's verifier itself, with its real roots, says no; the network is not asked."""
    monkeypatch.setenv("MEDTUNE_SIGNING", "key")
    keys.init("hanna")
    keys.sign(version)
    monkeypatch.setenv("MEDTUNE_SIGNING", "keyless")
    with pytest.raises(RegistryError, match=r"sig is no signature of manifest\.json by hanna@hospital\.example"):
        verify_version(version)


def test_keyless_with_a_trust_file_that_is_none(keyless_environment: Path, version: Path) -> None:
    (version / "manifest.json.sig").write_text("{}")
    with pytest.raises(RegistryError, match=r"manifest\.json\.sig is no sigstore bundle"):
        verify_version(version)
    keyless_environment.write_text("{}")
    policy = keyless.policy()
    with pytest.raises(RegistryError, match=r"the trusted root of .*trust\.json could not be had"):
        keyless.verify(version / "manifest.json", version / "manifest.json.sig", policy)


def test_keyless_signing_goes_to_the_issuer_and_leaves_nothing(keyless_environment, version: Path, monkeypatch) -> None:
    """Up to the first request: the trust configuration's OIDC issuer is asked, here at a port nobody listens on."""
    record = json.loads(keyless_environment.read_text())
    for service in record["signingConfig"]["oidcUrls"]:
        service["url"] = "http://127.0.0.1:9/auth"
    keyless_environment.write_text(json.dumps(record))
    with pytest.raises(RegistryError, match=r"manifest\.json could not be signed through sigstore") as caught:
        keys.sign(version)
    assert caught.value.__cause__ is not None
    assert not (version / "manifest.json.sig").exists()
    assert [path.name for path in version.parent.iterdir()] == [version.name]


def test_who_a_keyless_certificate_names(version: Path) -> None:
    """A certificate as sigstore's authority issues them, here signed by itself: read, and believed by nobody."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    keys.init("hanna")
    keys.sign(version)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.RFC822Name("hanna@hospital.example")])
    certificate = (
        x509.CertificateBuilder(x509.Name([]), x509.Name([]), key.public_key(), 1, now, now + datetime.timedelta(1))
        .add_extension(names, critical=True)
        .sign(key, hashes.SHA256())
    )
    path = version / "manifest.json.sig"
    bundle = json.loads(path.read_text())
    raw = certificate.public_bytes(serialization.Encoding.DER)
    bundle["verificationMaterial"] = {"certificate": {"rawBytes": base64.b64encode(raw).decode()}, "tlogEntries": []}
    path.write_text(json.dumps(bundle))
    assert keys.signer(version) == "keyless:hanna@hospital.example"
