"""What `medtune status` prints of registry.status.read_status's data."""

from typing import Any

from medtune.registry.gate import Finding
from medtune.registry.looks import Looks
from medtune.registry.plain import plain

ANEW = "dvc repro -f -s register"
LISTED = 3  # versions that wait for a word, before they are only counted
HOW = {"promoted": "promoted", "rolled_back": "rolled back to", "restored": "restored"}


def render(status: dict[str, Any]) -> str:
    """The status as text for a terminal."""
    model, champion, challenger = status["model"], status["champion"], status["challenger"]
    lines = []
    if champion:
        lines += _lines("champion", model, champion)
    elif challenger:
        why = "no candidate has passed the gate" if not status["waiting"] else "an approved one waits"
        lines.append(f"{model}: no champion yet; {why}")
    elif status["unadopted"]:
        lines.append(status["unadopted"])
    else:
        lines.append(f"{model}: no champion yet: run `make run`")
    if challenger and champion and challenger["version"] == champion["version"]:
        lines.append("challenger: the champion itself is the newest candidate")
    elif challenger:
        lines += _lines("challenger", model, challenger)
    lines += _waiting(status)
    lines += [f"{plain(item['sentence'])}: `medtune doctor` puts it back" for item in status["drift"]]
    if status["mlflow"]:
        lines.append(
            f"MLflow was not reached ({plain(status['mlflow'])}): all this is the ledger's, aliases were not compared"
        )
    lines.append(_incoming(status["incoming"]))
    if status["looks"]:
        lines.append(Looks(**status["looks"]).sentence)
    if pending := status["retrain"]:
        by, why = plain(pending["by"]), plain(pending["reason"])
        lines.append(
            f"a retrain was asked for {_time(pending['at'])} by {by} ({why}; without {len(pending['without'])} row(s)) "
            "and has not come: `make run`"
        )
    lines += status["damaged"]
    if status["lost"]:
        lines.append(status["lost"])
    if status["versions"]:
        lines.append(f"next: {status['next']}")
    return "\n".join(lines)


def _lines(role: str, model: str, version: dict[str, Any]) -> list[str]:
    names = f"{model} version {version['number']}, adapter {version['adapter']}"
    decision = f"{version['decision']} {_time(version['decided_at'])}" if version["decision"] else None
    lines = [
        f"{role}: {names}: {decision or 'not decided yet: `' + ANEW + '`'}",
        f"  version {version['version'][:12]}  candidate {str(version['candidate'])[:12]}",
    ]
    if crowned := version["crowned"]:
        reason = f": {plain(crowned['reason'])}" if crowned["reason"] else ""
        lines.append(f"  {HOW[crowned['event']]} {_time(crowned['at'])} by {plain(crowned['by'])}{reason}")
        if crowned["overridden"]:
            lines.append(f"  OVERRIDE: {plain(crowned['overridden'])}")
    if version["override"] and not (crowned and crowned["overridden"]):
        lines.append("  OVERRIDE: it was promoted against the gate's word; `medtune history` tells by whom")
    if version["retired"]:
        by, why = plain(version["retired"]["by"]), plain(version["retired"]["reason"])
        lines.append(f"  RETIRED {_time(version['retired']['at'])} by {by}: {why}")
    if rows := version["retracted"]:
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        lines.append(f"  RETRACTED: made from row {rows[0][:12]}{more}, retracted since")
    if version["findings"]:
        lines += [f"  {Finding.read(finding).mark:2}  {plain(finding['sentence'])}" for finding in version["findings"]]
    else:  # a person's word
        lines += [f"  NO  {plain(reason)}" for reason in version["reasons"]]
    return lines


def _waiting(status: dict[str, Any]) -> list[str]:
    if not status["waiting"]:
        return []
    if status["promotion"] == "auto":  # another champion came first, or a kill came between
        numbers = ", ".join(str(version["number"]) for version in status["waiting"][:LISTED])
        return [f"approved, but not promoted: version {numbers}: `{ANEW}` judges the newest again"]
    lines = [
        f"waits for a person (register.promotion: manual): version {version['number']} ({version['version'][:12]}), "
        f'approved {_time(version["decided_at"])}: `medtune promote {version["number"]} --by NAME --reason "…"`'
        for version in status["waiting"][:LISTED]
    ]
    if (more := len(status["waiting"]) - LISTED) > 0:
        lines.append(f"  and {more} approved before it")
    return lines


def _incoming(incoming: dict[str, Any]) -> str:
    if incoming["hidden"]:
        return f"data/incoming: {plain(incoming['hidden'])}: `medtune doctor` takes it away"
    if not incoming["rows"]:
        return "data/incoming: nothing new"
    waiting = f"data/incoming: {incoming['rows']} new rows in {len(incoming['files'])} file(s)"
    verdict = "enough to train anew: `make run`" if incoming["enough"] else "not yet enough to train anew"
    return f"{waiting} of {incoming['min_new_rows']} (retrain.min_new_rows): {verdict}"


def _time(at: str) -> str:
    """To the second: 2026-11-01T09:30:00Z."""
    return f"{at[:19]}Z"
