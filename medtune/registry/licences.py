"""What the licences of rows, base and the base's parents ask of a model made from them. Plain data in and out.

    verdict = check("commercial", parts_of(base, dataset), waivers)
    verdict["outcome"]      # "passed" | "failed" | "undecided"

Strict where the law is open (whether a model is made "from" its rows is), and no legal advice: it stops the plain
cases, and a waiver that somebody signs in the recipe (register.waivers) says that a person looked.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from medtune.params.names import nearest
from medtune.registry.gate import Finding
from medtune.registry.licence_table import KNOWN, NO, UNKNOWN, Licence, named, normalise

PASSED, FAILED, UNDECIDED = "passed", "failed", "undecided"
NOTICE = "this check reads licences strictly and is no legal advice"


def parts_of(base: Mapping[str, Any], dataset: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a model is made from, of data/base.json and data/raw/dataset.json: {"what", "id", "licence"} each."""
    parts = [
        {"what": "dataset", "id": dataset.get("id"), "licence": dataset.get("license")},
        {"what": "base", "id": base.get("id"), "licence": base.get("license")},
    ]
    return parts + [
        {"what": "parent", "id": parent.get("id"), "licence": parent.get("license")}
        for parent in base.get("parents") or []
    ]


def check(
    intended_use: str, parts: Iterable[Mapping[str, Any]], waivers: Iterable[Mapping[str, str]]
) -> dict[str, Any]:
    """Whether a model made from these parts may be meant for this use.

    intended_use: "research" or "commercial"; parts: {"what": dataset | base | parent, "id", "licence": name, list or
    None}; waivers: {"licence", "of", "by", "date", "reason"}, each for one licence of one part.

    Returns {"outcome", "reasons", "inherited": ids that adapter and merged model carry, "conditions": sentences,
    "waived": the waivers that counted, with "what" and "id"}. Research passes, and says what the model carries; for
    commercial use a licence that forbids it or a strong copyleft fails, an unknown one is undecided.
    """
    waivers = [dict(waiver) for waiver in waivers]
    reasons: dict[str, list[str]] = {FAILED: [], UNDECIDED: [], PASSED: []}
    inherited: dict[str, Licence] = {}
    conditions, waived, used = [], [], set()
    for part in parts:
        who = f"{part['what']} {part.get('id') or ''}".strip()
        for licence in normalise(part.get("licence")):
            inherited[licence.id] = licence
            if licence.asks or licence.commercial == NO:
                conditions.append(_condition(who, licence))
            outcome, sentence = _judge(intended_use, who, licence, part.get("licence"))
            granted = next((n for n, waiver in enumerate(waivers) if _covers(waiver, part, licence)), None)
            if granted is not None:
                used.add(granted)
            if outcome != PASSED and granted is not None:
                waiver = waivers[granted]
                waived.append({**waiver, "what": part["what"], "id": part.get("id")})
                sentence = f"{sentence}; waived by {waiver['by']} on {waiver['date']}: {waiver['reason']}"
                outcome = PASSED
            if sentence:
                reasons[outcome].append(sentence)
    clash = _clash(inherited.values())
    if clash:
        conditions.append(clash)
    for n, waiver in enumerate(waivers):
        if n not in used:
            reasons[PASSED].append(
                f"the waiver of {waiver['licence']} on {waiver['of']} by {waiver['by']} meets no licence there and "
                "counts for nothing"
            )
    outcome = FAILED if reasons[FAILED] else UNDECIDED if reasons[UNDECIDED] else PASSED
    carried = [licence.id for licence in inherited.values() if licence.attribution]
    first = [] if outcome != PASSED else [f"no licence of dataset, base or parents stands against {intended_use} use"]
    if waived and first:
        first = [f"{intended_use} use rests on {len(waived)} waiver{'s' * (len(waived) > 1)}"]
    return {
        "outcome": outcome,
        "reasons": first + reasons[FAILED] + reasons[UNDECIDED] + reasons[PASSED],
        "inherited": carried or list(inherited),
        "conditions": list(dict.fromkeys(conditions)),
        "waived": waived,
    }


def _judge(use: str, who: str, licence: Licence, said: object) -> tuple[str, str]:
    """What one licence of one part does to a use, and the sentence that says so ("" where there is nothing to say)."""
    if licence.commercial == UNKNOWN:
        if licence.id == "unknown":
            sentence = f"{who} names no licence that is known ({said!r})" if said else f"{who} names no licence"
        else:
            sentence = f"{who} names the licence {said!r}, which the table lacks; {nearest(licence.id, KNOWN)}"
        return (UNDECIDED if use == "commercial" else PASSED), sentence
    if use != "commercial":
        if licence.commercial == NO:
            return PASSED, f"{who} is {licence.id}: the model may be used for research, and not commercially"
        return PASSED, ""
    if licence.copyleft == "strong":
        return FAILED, (
            f"{who} is {licence.id}, and register.intended_use is commercial: whether a model made from it falls under "
            f"{licence.id} as a whole is not settled, so that it is taken to; {NOTICE}"
        )
    if licence.commercial == NO:
        return FAILED, f"{who} is {licence.id}, which forbids what register.intended_use: commercial means; {NOTICE}"
    if not licence.adapted:
        return FAILED, f"{who} is {licence.id}, under which nothing that is adapted from it may be shared; {NOTICE}"
    if licence.medical:
        return UNDECIDED, f"{who} is {licence.id}, most versions of which forbid medical advice; read yours"
    return PASSED, ""


def _condition(who: str, licence: Licence) -> str:
    asks = ["no commercial use"] * (licence.commercial == NO) + [licence.asks] * bool(licence.asks)
    return f"{licence.id} ({who}): {'; '.join(asks)}"


def _clash(licences: Iterable[Licence]) -> str:
    """A strong copyleft beside a licence that restricts: whoever passes the model on breaks one of the two."""
    licences = list(licences)
    strong = sorted(licence.id for licence in licences if licence.copyleft == "strong")
    strict = sorted(licence.id for licence in licences if licence.restricts)
    if not strong or not strict:
        return ""
    return (
        f"{', '.join(strong)} lets nobody add a restriction, and {', '.join(strict)} has one: taken strictly, a model "
        "under both can be used in one's own house and passed on to nobody"
    )


def _covers(waiver: Mapping[str, str], part: Mapping[str, Any], licence: Licence) -> bool:
    """Whether a waiver is of this licence and of this part: by kind (dataset, base) or by id; a parent by id alone."""
    of_part = waiver["of"] == part.get("id") or (waiver["of"] == part["what"] and part["what"] != "parent")
    return of_part and licence.id in {one.id for one in normalise(waiver["licence"])}


def licence_finding(intended_use: str, verdict: Mapping[str, Any]) -> Finding:
    """The verdict as a finding of the gate, which blocks: a conflict rejects, what is not known is inconclusive."""
    return Finding(
        name="licence",
        figure="register.intended_use",
        value=None,
        bound=f"no licence against {intended_use} use",
        passed=verdict["outcome"] == PASSED,
        blocks=True,
        sentence=f"licence: {'; '.join(verdict['reasons'])}",
        outcome=verdict["outcome"],
    )


def licence_tags(
    intended_use: str, parts: Iterable[Mapping[str, Any]], verdict: Mapping[str, Any], waivers: Iterable[Mapping]
) -> dict[str, str]:
    """Tags of a version, for adapter and merged model alike: both are made from all parts and carry all they ask."""
    parts = list(parts)
    spoken = {part["what"]: " AND ".join(one.id for one in normalise(part.get("licence"))) for part in parts}
    carried = " AND ".join(verdict["inherited"])
    parents = {
        str(part.get("id")): " AND ".join(one.id for one in normalise(part.get("licence")))
        for part in parts
        if part["what"] == "parent"
    }
    return {
        "medtune.intended_use": intended_use,
        "medtune.licence": verdict["outcome"],
        "medtune.licence.dataset": spoken.get("dataset", "unknown"),
        "medtune.licence.base": spoken.get("base", "unknown"),
        "medtune.licence.parents": json.dumps(parents, ensure_ascii=False, sort_keys=True),
        "medtune.licence.adapter": carried,
        "medtune.licence.merged": carried,
        "medtune.licence.conditions": json.dumps(list(verdict["conditions"]), ensure_ascii=False),
        "medtune.licence.waivers": json.dumps([dict(waiver) for waiver in waivers], ensure_ascii=False),
    }


def hub_id(inherited: list[str]) -> str:
    """What `license:` of a model card takes: the one licence that is carried, or "other" where there are several."""
    return inherited[0] if len(inherited) == 1 and named(inherited[0]).commercial != UNKNOWN else "other"
