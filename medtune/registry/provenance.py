"""A version's lineage as one JSON: an in-toto Statement v1 that carries SLSA provenance v1.

    statement(lineage(root, ledger, model, "3"))

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md (_type, subject with digests, predicateType,
predicate) and https://slsa.dev/spec/v1.0/provenance (REQUIRED: buildDefinition.buildType and externalParameters,
runDetails.builder.id). It has the shape of a provenance statement and claims no SLSA level: nobody but this project's
own stages wrote it, and it is not wrapped in a signed envelope. What is unknown is left out, as the specification asks:
unset, null and empty mean the same.

buildType urn:medtune:pipeline:v1: the stages download to register of this project's dvc.yaml, run with a recipe.
externalParameters.recipe holds the sections of it that decide the bytes of a version (base, tokenize, lora, train,
merge), as the version's own medtune.json files have them. Digests that are no plain sha256 of a file have names of
their own, each 64 lower-case hexadecimal digits:

    medtuneBase     fingerprint of a base: weight files, tokenizer, quantiser settings (engine/fingerprint.py)
    medtuneTokens   over every split's row ids, token ids and labels in order (corpus/tokens.py)
    medtuneVersion  candidate and merge params (stages/merge.py): names a version
    medtuneReport   sha256 of a report as JSON with sorted keys (registry/evidence.py)
    medtuneEvent    a ledger row, chained to the one before (registry/ledger.py)
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from medtune.params.errors import RegistryError

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:medtune:pipeline:v1"
BUILDER = "urn:medtune:builder:local"


def statement(told: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data. RegistryError where the manifest is away or was changed: then nothing can be said of the files."""
    if not told["files"]:
        why = told["unknown"][0] if told["unknown"] else "its manifest lists none"
        raise RegistryError(f"the files of {told['name']} cannot be named, so there is no statement about them: {why}")
    parts = ("adapter/", "merged/")
    subject = [
        {"name": item["path"], "digest": {"sha256": item["sha256"]}}
        for item in told["files"]
        if item["path"].startswith(parts)
    ]
    return {
        "_type": STATEMENT,
        "subject": subject,
        "predicateType": PREDICATE,
        "predicate": {"buildDefinition": _definition(told), "runDetails": _details(told)},
    }


def _definition(told: Mapping[str, Any]) -> dict[str, Any]:
    base = {key: value for key, value in told["base"].items() if key not in ("fingerprint", "license", "parents")}
    return {
        "buildType": BUILD_TYPE,
        "externalParameters": {"recipe": _set({"base": base, **told["recipe"]})},
        "internalParameters": _set({"trainCode": told["code"], "candidate": told["adapter"]["candidate"]}),
        "resolvedDependencies": [found for found in _dependencies(told) if "uri" in found or "digest" in found],
    }


def _dependencies(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    base, dataset, data, git = told["base"], told["dataset"], told["data"], told["git"]
    return [
        _resource(
            "base",
            _base_uri(base),
            {"medtuneBase": base.get("fingerprint"), "gitCommit": _commit(base.get("revision"))},
            {key: base.get(key) for key in ("id", "revision", "license", "source", "quantization")},
        ),
        _resource(
            "dataset",
            f"urn:medtune:dataset:{quote(str(dataset['id']), safe='')}" if dataset.get("id") else None,
            {"gitCommit": _commit(dataset.get("revision"))},
            {key: dataset.get(key) for key in ("id", "revision", "license")},
        ),
        _resource("data/valid/rows.jsonl", None, {"sha256": data["digest"]}, {"rows": data["counts"]}),
        _resource("data/tokens", None, {"medtuneTokens": told["tokens"]["digest"]}, {}),
        _resource("parent", None, {"medtuneVersion": (told["parent"] or {}).get("version")}, {}),
        _resource("source", None, {"gitCommit": _commit(git.get("commit"))}, {"dirty": git.get("dirty")}),
    ]


def _details(told: Mapping[str, Any]) -> dict[str, Any]:
    run = told["run"]
    byproducts = [
        _resource("manifest.json", None, {"sha256": told["manifest"]}, {"signedBy": told["signed_by"]}),
        _resource("rows.json", None, {"sha256": told["data"]["rows"]}, {"retracted": told["data"]["retracted"]}),
        _resource("reports/evaluate.json", None, {"medtuneReport": told["evaluation"]}, {}),
    ]
    for event in (*told["decisions"], *told["people"], *told["promotions"]):
        kept = {key: event.get(key) for key in ("event", "at", "who", "reason", "key", "against", "test")}
        kept |= {"seq": event["seq"], "override": event["override"] or None, "findings": event.get("findings")}
        name = "decision" if "outcome" in event else event["event"]
        byproducts.append(_resource(name, None, {"medtuneEvent": event["digest"]}, kept))
    return {
        "builder": _set({"id": BUILDER, "version": _set({"trainCode": told["code"]})}),
        "metadata": _set(
            {
                "invocationId": run["run_id"],
                "startedOn": run.get("started"),
                "finishedOn": run.get("finished"),
            }
        ),
        "byproducts": [found for found in byproducts if "digest" in found],
    }


def _resource(
    name: str, uri: str | None, digest: Mapping[str, Any], annotations: Mapping[str, Any]
) -> dict[str, Any]:  # fmt: skip
    return _set({"name": name, "uri": uri, "digest": _set(digest), "annotations": _set(annotations)})


def _base_uri(base: Mapping[str, Any]) -> str | None:
    """Package URLs (https://github.com/package-url/purl-spec) where a base has one; a local folder has no address."""
    name, revision = quote(str(base.get("id") or ""), safe="/"), quote(str(base.get("revision") or ""), safe="")
    if base.get("source") == "hub":
        return f"pkg:huggingface/{name}@{revision}"
    if base.get("source") == "package":
        return f"pkg:pypi/{name}@{revision}"
    return f"models:/{name}/{revision}" if base.get("source") == "mlflow" else None


def _commit(text: Any) -> str | None:
    return text if isinstance(text, str) and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", text) else None


def _set(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is unknown: a field that is null says no more than one that is not there."""
    return {key: value for key, value in fields.items() if value not in (None, "", {}, [])}
