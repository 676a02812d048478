"""register: judge the candidate, put it into the MLflow registry, promote it if the gate lets it.

    python -m stages.register

Rejected and inconclusive are results: the reasons are printed, the champion stays, the exit status is 0.
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medtune.params.errors import RecipeError, UserError
from medtune.params.lines import place
from medtune.params.recipe import Recipe, load_recipe
from medtune.registry import tags
from medtune.registry.adopt import adopt
from medtune.registry.card import describe
from medtune.registry.champion import named, verified
from medtune.registry.comparison import Rivals, align
from medtune.registry.drift_report import drift_or_why
from medtune.registry.evidence import (
    Evidence,
    decision_key,
    git_tags,
    identity_tags,
    ledger_evaluation,
    ledger_record,
    look_key,
    read_evidence,
    scored_rows,
    split_rows,
)
from medtune.registry.flavor import write_flavor
from medtune.registry.gate import APPROVED, Decision, Finding, asks_for_a_look, decide, unknown_figure
from medtune.registry.keys import signer
from medtune.registry.ledger import Ledger, open_ledger
from medtune.registry.licences import check, licence_finding, licence_tags, parts_of
from medtune.registry.looks import Looks, read_looks, take_look
from medtune.registry.record import record_run
from medtune.registry.registrar import (
    ADAPTER_NOTE,
    MERGED_NOTE,
    Half,
    Registered,
    Registration,
    register,
    registry_lock,
)
from medtune.registry.release import write_release_card
from medtune.registry.scores import KEPT, champion_scores, keep_scores, kept_scores
from medtune.registry.standing import Standing, standings
from medtune.registry.versions import ADAPTER, MERGED, keep_version, rows_digest_of, version_path
from medtune.tracking.beat import beating
from medtune.tracking.runs import finish
from medtune.tracking.store import connect, open_store, store_errors
from stages.stage import run_stage

REPORT = Path("reports/register.json")
SOURCES = {ADAPTER: Path("data/adapter"), MERGED: Path("data/merged")}


def main(root: Path = Path("."), client: Any = None) -> None:
    recipe = load_recipe(root / "params.yaml")
    uri = open_store(root)
    with store_errors(uri):
        _register(root, recipe, uri, client)


def _register(root: Path, recipe: Recipe, uri: str, client: Any) -> None:
    evidence = read_evidence(root)
    rows = scored_rows(root, evidence)
    if unknown := unknown_figure(recipe.gate, evidence.reports):
        name, sentence = unknown
        where = place(root / "params.yaml", "gate", "checks", name, "figure")
        raise RecipeError(f"{where}: gate.checks.{name}.figure: {sentence}")
    client, ledger = client or connect(uri), open_ledger(root)
    run_id = record_run(uri, root, recipe, evidence)

    with registry_lock(root), beating(uri, run_id):
        names = recipe.register_
        ledger.verify()  # an edited row could name another champion, and nobody is judged against that
        with ledger.lock(names.model):
            adopt(client, ledger, names.model, names.adapter_model)
        use, waivers = recipe.register_.intended_use, [dict(waiver) for waiver in recipe.register_.waivers]
        parts = _parts(client, recipe, evidence)
        licences = check(use, parts, waivers)
        tagged = licence_tags(use, parts, licences, waivers)
        registration = _registration(uri, client, ledger, root, recipe, evidence, run_id, tagged, waivers)
        first = _rival(ledger, root, recipe, evidence, rows["merged"])
        key = decision_key(recipe, evidence, parts, first.problem if first else "")
        more = [licence_finding(use, licences)]

        def judge(against: Standing | None) -> Decision:
            # asked anew where another champion came first: the rival is then another
            rival = _rival(ledger, root, recipe, evidence, rows["merged"], against)
            return _judge(root, ledger, recipe, evidence, rows, against, rival, more)

        done = register(root, client, ledger, registration, key, judge, names.promotion)
        keep_scores(root, evidence.version, _kept(rows["merged"]))
        looks = read_looks(root, ledger, evidence.holdout, recipe.gate.alpha, recipe.gate.looks)
        champion = named(ledger, names.model, tags.CHAMPION)
        drift, drift_why = _drift(client, root, recipe, ledger, evidence, done)

    report = _report(recipe, evidence, run_id, done, champion, looks)
    temporary = root / REPORT.with_name(f".{REPORT.name}.tmp")
    temporary.write_text(json.dumps(report, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, root / REPORT)
    card = write_release_card(
        client, root, recipe, evidence, done, run_id, report["versions"], licences, report["looks"], drift, drift_why
    )
    finish(uri, run_id)
    _tell(report, done, looks, card)
    if recipe.gate.note:
        print(f"note: {recipe.gate.note}")


def _parts(client: Any, recipe: Recipe, evidence: Evidence) -> list[dict[str, Any]]:
    """What the model is made from; a candidate that goes on from a version inherits what that one carries."""
    parts = parts_of(evidence.base, evidence.dataset)
    if recipe.train.init != "base":
        name, number = recipe.register_.adapter_model, str(recipe.train.init)
        parts.append({"what": "parent", "id": f"{name}/{number}", "licence": _carried(client, name, number, "adapter")})
    if evidence.base.get("source") == "mlflow":
        name, number = evidence.base["id"], str(evidence.base["revision"])
        parts.append({"what": "parent", "id": f"{name}/{number}", "licence": _carried(client, name, number, "merged")})
    return parts


def _carried(client: Any, name: str, number: str, half: str) -> str | None:
    """The licences that a registered version carries; None, which is unknown, where it is gone or never told."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version(name, number).tags.get(f"medtune.licence.{half}")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        print(f"{name} version {number} is gone from the registry: what licences it carried is unknown")
        return None


def _registration(
    uri: str,
    client: Any,
    ledger: Ledger,
    root: Path,
    recipe: Recipe,
    evidence: Evidence,
    run_id: str,
    licences: dict[str, str],
    waivers: list[dict[str, Any]],
) -> Registration:
    """The version's files in place, and what the registry is to say of them."""
    names, digest = recipe.register_, evidence.version
    known = standings(ledger, names.model).get(digest)
    body = known.registered.body if known else {}
    created = datetime.fromtimestamp(client.get_run(run_id).info.start_time / 1000, UTC)

    def dress(merged: Path) -> None:
        write_flavor(merged, digest, str(evidence.base.get("id")), created, run_id)

    kept = body.get("files", "local")
    if known and kept != "local":  # what the store holds is what was registered; the workspace may hold other bytes
        verified(root, known)
    rows = split_rows(root, evidence)
    files = keep_version(
        root, digest, {part: root / source for part, source in SOURCES.items()}, dress,
        {"manifest": body["manifest"], "content": body["content"]} if known else None, rows,
    )  # fmt: skip
    place = version_path(root, digest)
    sources = {ADAPTER: str(place / ADAPTER), MERGED: str(place / MERGED)}
    if uri.startswith("http"):  # a server takes no version from a local folder
        from medtune.registry.remote import upload_version

        sources = upload_version(client, run_id, place, digest)
        kept = sources[MERGED].rpartition("/")[0]
    identity = identity_tags(evidence) | {
        tags.CANDIDATE: evidence.candidate,
        tags.MANIFEST: files["manifest"],
        tags.CONTENT: files["content"],
        **git_tags(root),
    }
    return Registration(
        version=digest,
        run_id=run_id,
        adapter=Half(names.adapter_model, sources[ADAPTER], ADAPTER_NOTE),
        merged=Half(names.model, sources[MERGED], MERGED_NOTE),
        identity=identity,
        describe=lambda decision, adapter: describe(recipe, evidence, decision, run_id, adapter),
        licences=licences,
        record=ledger_record(root, evidence)
        | files
        | {
            "rows": rows_digest_of(place),
            "parent": _parent(ledger, recipe),
            "signed_by": signer(place),
            "files": kept,
        },
        evaluation=ledger_evaluation(evidence),
        waivers=waivers,
    )


def _parent(ledger: Ledger, recipe: Recipe) -> str | None:
    """The version that training went on from: a row that touched it touched this one too."""
    if recipe.train.init == "base":
        return None
    found = standings(ledger, recipe.register_.model).values()
    return next((item.version for item in found if item.adapter_number == recipe.train.init), None)


def _judge(
    root: Path,
    ledger: Ledger,
    recipe: Recipe,
    evidence: Evidence,
    rows: dict[str, list[dict]],
    champion: Standing | None,
    rival: Rivals | None,
    more: list[Finding],
) -> Decision:
    """The decision. Its look at the test rows is written down first, so that a kill from here on gives no free one.

    A champion that cannot be compared with costs none: nothing is seen of the rows, and it is asked again once mended.
    """
    gate = recipe.gate
    # the evaluated model is the trained one; two versions are compared as they are used, merged
    rivals = {
        "base": Rivals("the base", rows["adapter"], rows["base"], len(rows["adapter"])),
        "champion": champion and rival,
    }
    closed = ""
    if champion is not None and rival is not None and rival.problem:
        closed = f"the champion cannot be compared with: {rival.problem}"
    elif asks_for_a_look(gate, champion is not None):
        against, model = champion and champion.version, recipe.register_.model
        key = look_key(recipe, evidence, against)
        if not take_look(root, ledger, model, evidence.holdout, key, evidence.version, against, gate.alpha, gate.looks):
            closed = read_looks(root, ledger, evidence.holdout, gate.alpha, gate.looks).sentence
    return decide(gate, evidence.reports, rivals, closed, more)


def _drift(
    client: Any, root: Path, recipe: Recipe, ledger: Ledger, evidence: Evidence, done: Registered
) -> tuple[dict[str, Any] | None, str]:
    """The drift report, or None and why; its sentence as a tag of both halves.

    Measured against the champion that the standing decision was made against: by now this very version may be champion,
    and a rerun must say the same.
    """
    names = recipe.register_
    decided = standings(ledger, names.model)[evidence.version].decision
    against = decided.body.get("against") if decided else None
    if against is None:
        return None, "there was no champion when it was judged, so that every row was new"
    try:
        drift, why = drift_or_why(root, recipe, against)
    except UserError as error:  # it judges nothing, so it stops nothing
        drift, why = None, f"it is unknown ({error})"
    if drift is None:
        return None, why
    print(drift["sentence"])
    for model, number in ((names.adapter_model, done.adapter), (names.model, done.merged)):
        if client.get_model_version(model, str(number)).tags.get(tags.DRIFT) != drift["sentence"]:
            client.set_model_version_tag(model, str(number), tags.DRIFT, drift["sentence"])
    return drift, ""


def _rival(
    ledger: Ledger, root: Path, recipe: Recipe, evidence: Evidence, rows: list[dict], against: Standing | None = None
) -> Rivals | None:
    """The champion's scores beside the candidate's; None where no check asks for them or it has no rival."""
    champion = against or named(ledger, recipe.register_.model, tags.CHAMPION)
    if champion is None or champion.version == evidence.version:
        return None
    if not any(check.against == "champion" for check in recipe.gate.comparisons.values()):
        return None
    who, ids = f"champion version {champion.number}", [row["row_id"] for row in rows]
    try:
        theirs = kept_scores(root, champion.version, ids)
        if theirs is None:
            theirs = champion_scores(root, recipe, champion.version, verified(root, champion), ids)
    except UserError as error:  # a damaged champion stops no work; nobody is approved over it
        return Rivals(who, [], [], len(rows), f"its rows cannot be scored ({error})")
    return Rivals(who, *align(rows, theirs), len(rows))


def _kept(rows: list[dict]) -> list[dict]:
    return [{key: row[key] for key in KEPT} for row in rows]


def _report(
    recipe: Recipe, evidence: Evidence, run_id: str, done: Registered, champion: Standing | None, looks: Looks
) -> dict[str, Any]:
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
        "champion": champion and {"number": champion.number, "version": champion.version},
        "promotion": names.promotion,
        "looks": looks.record(),
    }


def _tell(report: dict[str, Any], done: Registered, looks: Looks, card: Path) -> None:
    merged, adapter, champion = report["versions"]["merged"], report["versions"]["adapter"], report["champion"]
    for finding in done.decision.findings:
        print(f"  {finding.mark:2}  {finding.sentence}")
    names = f"{merged['model']} version {merged['number']} ({adapter['model']} version {adapter['number']})"
    again = "was registered before and stands as it is" if done.known else "registered"
    print(f"{names} {again}: {report['decision']}")
    print(looks.sentence)
    for sentence in done.told:
        print(sentence)
    if done.decision.outcome == APPROVED and report["promotion"] == "manual" and not _is_it(champion, merged):
        print(f"promotion is manual: medtune promote {merged['number']} --by NAME --reason TEXT")
    elif champion is None:
        print(f"{merged['model']} has no champion; the reasons above say what a candidate must reach")
    elif _is_it(champion, merged):
        print(f"it is the champion: models:/{merged['model']}@champion")
    else:
        print(f"the champion is version {champion['number']} ({str(champion['version'])[:12]}), as before")
    print(f"release card: {card}")
    print('next: medtune status | medtune ask "머리가 아프고 열이 나요." | make ui')


def _is_it(champion: dict[str, Any] | None, merged: dict[str, Any]) -> bool:
    return champion is not None and champion["number"] == merged["number"]


if __name__ == "__main__":
    run_stage(main)
