"""What a signature file says, and whether a key made it: DSSE v1 in a sigstore bundle, as OpenSSF model-signing writes.

The bundle's payload is an in-toto statement over one file. model-signing writes it (registry/keys.py) and its command
checks it; here it is checked with `cryptography` alone, since importing model-signing takes two seconds, and with one
demand more: that the statement is over manifest.json and nothing else. tests/registry/test_keys.py holds the two to the
same verdicts. Formats: https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md and
https://docs.sigstore.dev/about/bundle/.
"""

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtune.params.errors import RegistryError
from medtune.registry.manifest import SIGNATURE, SIGNATURE_BYTES, read_small

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT, PREDICATE = "https://in-toto.io/Statement/v1", "https://model_signing/signature/v1.0"


@dataclass(frozen=True)
class Bundle:
    """A signature as it was read; nothing in it is true before it is verified. key_id: None in a keyless one."""

    payload: bytes
    signature: bytes
    key_id: str | None
    certificate: bytes | None


def read_bundle(directory: Path) -> Bundle | None:
    """The signature of a version's folder; None where there is none, RegistryError where it is no bundle."""
    path = directory / SIGNATURE
    try:
        raw = read_small(path, SIGNATURE_BYTES)
    except FileNotFoundError:
        return None
    try:
        record = json.loads(raw.decode("utf-8"))
        material, envelope = record["verificationMaterial"], record["dsseEnvelope"]
        if envelope["payloadType"] != PAYLOAD_TYPE or len(envelope["signatures"]) != 1:
            raise ValueError(f"it holds {envelope['payloadType']} and {len(envelope['signatures'])} signatures")
        hint = material.get("publicKey", {}).get("hint")
        certificate = material.get("certificate", {}).get("rawBytes")
        return Bundle(
            base64.b64decode(envelope["payload"], validate=True),
            base64.b64decode(envelope["signatures"][0]["sig"], validate=True),
            str(hint) if hint is not None else None,
            base64.b64decode(certificate, validate=True) if certificate else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RegistryError(f"{path} is no sigstore bundle ({error!r}); check the version, then sign it anew") from None


def signs(bundle: Bundle, manifest_sha256: str) -> bool:
    """Whether the statement is over one file with this sha256 and over nothing else."""
    try:
        statement: dict[str, Any] = json.loads(bundle.payload)
        predicate = statement["predicate"]
        return (
            statement["_type"] == STATEMENT
            and statement["predicateType"] == PREDICATE
            and predicate["serialization"]["method"] == "files"
            and predicate["resources"] == [{"name": ".", "algorithm": "sha256", "digest": manifest_sha256}]
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def made_by(bundle: Bundle, public_key: "EllipticCurvePublicKey") -> bool:
    """Whether this key made the signature: ECDSA over DSSE's pre-authentication encoding of the payload."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    algorithm = {256: hashes.SHA256, 384: hashes.SHA384, 521: hashes.SHA512}[public_key.curve.key_size]
    message = f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(bundle.payload)} ".encode() + bundle.payload
    try:
        public_key.verify(bundle.signature, message, ec.ECDSA(algorithm()))
    except InvalidSignature:
        return False
    return True


def read_public_key(path: Path) -> "EllipticCurvePublicKey":
    """A PEM public key on a curve that model-signing takes; RegistryError names the file otherwise."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RegistryError(f"{path} is no public key in PEM ({error}); copy it anew or remove it") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in ("secp256r1", "secp384r1", "secp521r1"):
        raise RegistryError(f"{path} is no key on P-256, P-384 or P-521, which model-signing asks for; remove it")
    return key


def key_id(public_key: "EllipticCurvePublicKey") -> str:
    """sha256 of the key as PEM, 64 hex digits: what model-signing writes into a bundle as the key's hint."""
    return hashlib.sha256(public_pem(public_key)).hexdigest()


def public_pem(public_key: "EllipticCurvePublicKey") -> bytes:
    from cryptography.hazmat.primitives import serialization

    return public_key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def identities(certificate: bytes) -> list[str]:
    """The names that a keyless certificate (DER) was issued to: mail addresses and URIs."""
    from cryptography import x509

    try:
        names = x509.load_der_x509_certificate(certificate).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
        return [
            str(name.value)
            for name in names.value
            if isinstance(name, x509.RFC822Name | x509.UniformResourceIdentifier)
        ]
    except (ValueError, x509.ExtensionNotFound):
        return []
