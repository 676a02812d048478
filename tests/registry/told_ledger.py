"""A ledger with a life in it, appended for real: for the tests of history, lineage and compare."""

import hashlib
from pathlib import Path
from typing import Any

from medtune.registry.ledger import Event, Ledger, open_ledger

MODEL = "medgpt-ko"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def version_of(name: str) -> str:
    return digest(f"version {name}")


def registered(ledger: Ledger, name: str, number: int, **more: Any) -> Event:
    body = {
        "numbers": {"merged": number, "adapter": number + 10},
        "adapter_model": f"{MODEL}-adapter",
        "run_id": f"{number:032x}",
        "candidate": digest(name),
        "manifest": digest(f"manifest {name}"),
        "content": digest(f"content {name}"),
        "data": digest("data"),
        "tokens": digest("tokens"),
        "test": digest("test"),
        "evaluation": digest(f"evaluation {name}"),
        "base": {"id": "tiny", "revision": "1", "license": "Apache-2.0", "fingerprint": digest("base")},
        "dataset": {"id": "medtune-sample", "revision": "v1", "license": "CC0-1.0"},
        "rows": None,
        "git": {"commit": "5" * 40, "dirty": "false"},
        "parent": None,
        "signed_by": None,
        "files": "local",
        **more,
    }
    return ledger.append("registered", MODEL, version_of(name), body)


def finding(name: str = "not_worse", passed: bool = True, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "figure": "nll_per_char.against_champion",
        "value": -0.0123,
        "bound": "worse by less than 0.02",
        "passed": passed,
        "blocks": True,
        "sentence": f"{name}: nll_per_char {'holds' if passed else 'is worse'}",
        "outcome": "passed" if passed else "failed",
        "low": -0.02,
        "high": -0.004,
        "details": {},
        **more,
    }


def judged(ledger: Ledger, name: str, outcome: str, against: str | None = None) -> Event:
    body = {
        "key": digest(f"key {name}"),
        "against": against and version_of(against),
        "reasons": [f"{name} was weighed"],
        "findings": [finding(passed=outcome == "approved"), finding("speed", blocks=False)],
        "evaluation": digest(f"evaluation {name}"),
        "test": digest("test"),
        "run_id": digest(name)[:32],
    }
    return ledger.append(outcome, MODEL, version_of(name), body)


def promoted(ledger: Ledger, name: str, number: int, after: str | None, approval: Event | None, **more: Any) -> Event:
    body = {
        "expects": after and version_of(after),
        "number": number,
        "policy": "auto",
        "by": "",
        "reason": "",
        "override": False,
        "approval": approval and approval.seq,
        **more,
    }
    return ledger.append("promoted", MODEL, version_of(name), body)


def life(root: Path) -> tuple[Ledger, dict[str, Event]]:
    """a is promoted, b rejected and promoted over it, rolled back to a; c waits for a person and gets her word."""
    ledger = open_ledger(root)
    made = {"registered a": registered(ledger, "a", 1)}
    made["approved a"] = judged(ledger, "a", "approved")
    made["promoted a"] = promoted(ledger, "a", 1, None, made["approved a"])
    made["registered b"] = registered(ledger, "b", 2)
    made["rejected b"] = judged(ledger, "b", "rejected", "a")
    hand = {"policy": "manual", "by": "Kim", "override": True, "reason": "the demo\nneeds it \x1b[31mnow\u202e"}
    word = ledger.append("approved_by", MODEL, version_of("b"), {"by": "Kim", "reason": "demo"}, "Kim")
    made["promoted b"] = promoted(ledger, "b", 2, "a", word, overridden="it was judged rejected", **hand)
    back = {"expects": version_of("b"), "number": 1, "by": "Lee", "reason": "it rambles", "from": version_of("b")}
    made["rolled back"] = ledger.append("rolled_back", MODEL, version_of("a"), back, "Lee")
    made["registered c"] = registered(ledger, "c", 3)
    made["approved c"] = judged(ledger, "c", "approved", "a")
    word = ledger.append("approved_by", MODEL, version_of("c"), {"by": "Park", "reason": "read 50 answers"}, "Park")
    hand = {"policy": "manual", "by": "Park", "reason": "read 50 answers"}
    made["promoted c"] = promoted(ledger, "c", 3, "a", word, **hand)
    taken = {"row_id": digest("row"), "reason": "a name", "by": "Lee", "versions": [version_of("a")], "data": []}
    made["retracted"] = ledger.append("retracted", MODEL, None, taken, "Lee")
    return ledger, made
