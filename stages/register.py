"""register: judge the candidate, put it into the MLflow registry, promote it if the gate lets it.

    python -m stages.register

A rejection is a result: the reasons are printed, the champion stays, the exit status is 0.
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medtune.params.errors import RegistryError
from medtune.params.recipe import Recipe, load_recipe
from medtune.registry import tags
from medtune.registry.card import describe
from medtune.registry.champion import aliased, verified
from medtune.registry.evidence import Evidence, decision_key, git_tags, identity_tags, read_evidence
from medtune.registry.flavor import write_flavor
from medtune.registry.gate import Decision, decide
from medtune.registry.record import record_run
from medtune.registry.registrar import (
    ADAPTER_NOTE,
    MERGED_NOTE,
    Half,
    Registered,
    Registration,
    find,
    register,
    registry_lock,
)
from medtune.registry.scores import candidate_rows, champion_scores, compare, keep_scores, kept_scores
from medtune.registry.versions import ADAPTER, MERGED, keep_version, version_path
from medtune.tracking.runs import finish
from medtune.tracking.store import connect, open_store
from stages.stage import run_stage

REPORT = Path("reports/register.json")
SOURCES = {ADAPTER: Path("data/adapter"), MERGED: Path("data/merged")}


def main(root: Path = Path("."), client: Any = None) -> None:
    recipe = load_recipe(root / "params.yaml")
    evidence = read_evidence(root)
    uri = open_store(root)
    if uri.startswith("http"):
        raise RegistryError(
            f"MLFLOW_TRACKING_URI is {uri}: a tracking server takes no version from a local folder; unset it, or name "
            "a database"
        )
    client = client or connect(uri)
    run_id = record_run(uri, root, recipe, evidence)

    with registry_lock(root):
        registration = _registration(client, root, recipe, evidence, run_id)
        key = decision_key(recipe, evidence)
        rows = candidate_rows(root)

        def judge(champion: Any | None) -> Decision:
            return decide(recipe.gate, evidence.reports, _compared(root, recipe, champion, rows))

        done = register(client, registration, key, judge)
        keep_scores(root, evidence.version, rows)
        champion = aliased(client, recipe.register_.model, tags.CHAMPION)
    finish(uri, run_id)

    report = _report(recipe, evidence, run_id, done, champion)
    temporary = root / REPORT.with_name(f".{REPORT.name}.tmp")
    temporary.write_text(json.dumps(report, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, root / REPORT)
    _tell(report, done)
    if recipe.gate.note:
        print(f"note: {recipe.gate.note}")


def _registration(client: Any, root: Path, recipe: Recipe, evidence: Evidence, run_id: str) -> Registration:
    """The version's files in place, and what the registry is to say of them."""
    names, digest = recipe.register_, evidence.version
    known = find(client, names.model, digest) or find(client, names.adapter_model, digest)
    registered = known and {"manifest": known.tags[tags.MANIFEST], "content": known.tags[tags.CONTENT]}
    created = datetime.fromtimestamp(client.get_run(run_id).info.start_time / 1000, UTC)

    def dress(merged: Path) -> None:
        write_flavor(merged, digest, str(evidence.base.get("id")), created, run_id)

    files = keep_version(root, digest, {part: root / source for part, source in SOURCES.items()}, dress, registered)
    place = version_path(root, digest)
    identity = identity_tags(evidence) | {
        tags.CANDIDATE: evidence.candidate,
        tags.MANIFEST: files["manifest"],
        tags.CONTENT: files["content"],
        **git_tags(root),
    }
    return Registration(
        version=digest,
        run_id=run_id,
        adapter=Half(names.adapter_model, str(place / ADAPTER), ADAPTER_NOTE),
        merged=Half(names.model, str(place / MERGED), MERGED_NOTE),
        identity=identity,
        describe=lambda decision, adapter: describe(recipe, evidence, decision, run_id, adapter),
    )


def _compared(root: Path, recipe: Recipe, champion: Any | None, rows: list[dict]) -> dict[str, Any] | None:
    """Candidate and champion on the candidate's test rows; None where there is no champion, or none is asked for."""
    if champion is None or not recipe.gate.not_worse_than_champion:
        return None
    digest = champion.tags[tags.VERSION]
    who = {"number": int(champion.version), "version": digest}
    ids = [row["row_id"] for row in rows]
    theirs = kept_scores(root, digest, ids)
    if theirs is None:
        try:
            theirs = champion_scores(root, recipe, digest, verified(root, champion), ids)
        except RegistryError as error:  # a damaged champion stops no work; nobody is approved over it
            print(f"the champion cannot be scored: {error}")
            return who | {"rows": 0}
    return who | compare(rows, theirs)


def _report(recipe: Recipe, evidence: Evidence, run_id: str, done: Registered, champion: Any | None) -> dict[str, Any]:
    names = recipe.register_
    return {
        "decision": done.decision.outcome,
        "reasons": done.decision.reasons,
        "findings": [vars(finding) for finding in done.decision.findings],
        "version": evidence.version,
        "candidate": evidence.candidate,
        "run_id": run_id,
        "versions": {
            "adapter": {"model": names.adapter_model, "number": done.adapter},
            "merged": {"model": names.model, "number": done.merged},
        },
        "champion": champion and {"number": int(champion.version), "version": champion.tags.get(tags.VERSION)},
    }


def _tell(report: dict[str, Any], done: Registered) -> None:
    merged, adapter, champion = report["versions"]["merged"], report["versions"]["adapter"], report["champion"]
    for finding in done.decision.findings:
        print(f"  {'ok ' if finding.passed else ('NO ' if finding.blocks else 'no ')} {finding.sentence}")
    names = f"{merged['model']} version {merged['number']} ({adapter['model']} version {adapter['number']})"
    again = "was registered before and stands as it is" if done.known else "registered"
    print(f"{names} {again}: {report['decision']}")
    if champion is None:
        print(f"{merged['model']} has no champion; the reasons above say what a candidate must reach")
    elif champion["number"] == merged["number"]:
        print(f"it is the champion: models:/{merged['model']}@champion")
    else:
        print(f"the champion is version {champion['number']} ({str(champion['version'])[:12]}), as before")
    print('next: medtune status | medtune ask "머리가 아프고 열이 나요." | make ui')


if __name__ == "__main__":
    run_stage(main)
