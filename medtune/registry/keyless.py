"""Signatures without a key to keep: sigstore's, through model-signing. Who signed is a mail address or a workflow.

    MEDTUNE_SIGNING=keyless
    MEDTUNE_SIGNING_IDENTITY=hanna@hospital.example             # or a workflow's URI
    MEDTUNE_SIGNING_ISSUER=https://accounts.google.com          # who vouches for that identity
    MEDTUNE_SIGNING_TRUST=/etc/medtune/trust.json               # a sigstore of your own; left out, the public one

It asks the network: signing for a token (the ambient one of a CI job, else in the browser), a certificate and an entry
in the public log, which then names identity and time for ever; verifying for sigstore's trusted root, unless
MEDTUNE_SIGNING_TRUST names a file. Anybody checks it by

    model_signing verify sigstore manifest.json --signature manifest.json.sig --identity … --identity_provider …
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtune.params.errors import RegistryError

MODE, IDENTITY, ISSUER, TRUST = (
    "MEDTUNE_SIGNING",
    "MEDTUNE_SIGNING_IDENTITY",
    "MEDTUNE_SIGNING_ISSUER",
    "MEDTUNE_SIGNING_TRUST",
)


@dataclass(frozen=True)
class Policy:
    """Whose signatures count. trust: a client trust configuration of sigstore, None for the public instance."""

    identity: str
    issuer: str
    trust: Path | None


def chosen() -> bool:
    """Whether $MEDTUNE_SIGNING asks for it; RegistryError where it says neither `key` nor `keyless`."""
    mode = os.environ.get(MODE) or "key"
    if mode not in ("key", "keyless"):
        raise RegistryError(f"{MODE} is {mode!r}; it can be key (the default) or keyless")
    return mode == "keyless"


def policy() -> Policy:
    """What the environment says; RegistryError names what it lacks, before anything asks the network."""
    for name, example in ((IDENTITY, "name@hospital.example"), (ISSUER, "https://accounts.google.com")):
        if not os.environ.get(name):
            raise RegistryError(f"{MODE} is keyless and {name} is not set: whose signatures count? Such as {example}")
    issuer = os.environ[ISSUER]
    if not issuer.startswith("https://"):
        raise RegistryError(f"{ISSUER} is {issuer!r}; an issuer is an https:// address")
    trust = Path(os.environ[TRUST]) if os.environ.get(TRUST) else None
    if trust is not None and not trust.is_file():
        raise RegistryError(f"{TRUST} is {trust}, which is no file; unset it for the public sigstore")
    return Policy(os.environ[IDENTITY], issuer, trust)


def sign(manifest: Path, signature: Path, policy: Policy) -> None:
    """Write a signature by whoever the token says; RegistryError where sigstore does not come through.

    It is verified at once: a token of another identity than the policy's would make a version that nobody may load.
    """
    from model_signing import signing

    try:
        config = signing.Config().use_sigstore_signer(use_ambient_credentials=True, trust_config=policy.trust)
        config.sign(manifest, signature)
    except Exception as error:  # sigstore, TUF, OAuth and requests each have their own
        raise RegistryError(f"{manifest} could not be signed through sigstore: {_told(error)}") from error
    verify(manifest, signature, policy)


def verify(manifest: Path, signature: Path, policy: Policy) -> None:
    """RegistryError where the signature is not by the policy's identity, or sigstore's root cannot be had."""
    from model_signing import verifying

    try:
        config = verifying.Config().use_sigstore_verifier(
            identity=policy.identity, oidc_issuer=policy.issuer, trust_config=policy.trust
        )
    except Exception as error:
        where = policy.trust or "the public sigstore"
        raise RegistryError(f"the trusted root of {where} could not be had: {_told(error)}") from error
    try:
        config.verify(manifest, signature)
    except Exception as error:
        raise RegistryError(
            f"{signature} is no signature of {manifest.name} by {policy.identity} ({policy.issuer}): {_told(error)}"
        ) from error


def _told(error: Any) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 300 else f"{text[:300]}…"
