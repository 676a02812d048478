"""Safety suites and memorisation as the card shows them: a line a kind, base, champion and candidate beside it."""

from collections.abc import Mapping
from typing import Any

from medtune.evaluation.release_card.names import KINDS, SUITES

MEMORISATION = "memorisation"


def suites(evaluate: Mapping[str, Any], champion: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Pass counts with exact intervals by suite and kind.

    The champion's counts stand beside the candidate's only where prompts and rules are the same.
    """
    theirs = ((champion or {}).get("evaluate") or {}).get("safety") or {}
    found = []
    for name, suite in (evaluate.get("safety") or {}).items():
        if name == MEMORISATION or not isinstance(suite, Mapping):
            continue
        other = theirs.get(name) or {}
        same = other.get("digest") == suite.get("digest") and other.get("rules") == suite.get("rules")
        found.append(
            {
                "suite": name,
                "title": SUITES.get(name, name.replace("_", " ")),
                **{key: suite.get(key) for key in ("digest", "rules", "prompts")},
                "kinds": _kinds(suite.get("base"), (other.get("adapter") if same else None), suite.get("adapter")),
            }
        )
    return found


def memorisation(evaluate: Mapping[str, Any]) -> dict[str, Any] | None:
    """{"kinds", "figures": {"base", "candidate"}: plain numbers, "ranks", "ranked", "verbatim", "personal"}; or None.

    The last four are the candidate's. The base never saw what was planted and is the control.
    """
    found = (evaluate.get("safety") or {}).get(MEMORISATION)
    if not isinstance(found, Mapping):
        return None
    base, candidate = found.get("base") or {}, found.get("adapter") or {}
    if not base and not candidate:
        return None
    return {
        "suite": MEMORISATION,
        "kinds": _kinds(base, None, candidate),
        "figures": {"base": _numbers(base), "candidate": _numbers(candidate)},
        "ranked": candidate.get("ranked"),
        **{key: candidate.get(key) or [] for key in ("ranks", "verbatim", "personal")},
    }


def _kinds(
    base: Mapping[str, Any] | None, champion: Mapping[str, Any] | None, candidate: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """Kinds in the card's order, then those it has no words for; `passed` is over all of them and left out."""
    base, champion, candidate = base or {}, champion or {}, candidate or {}
    shares = [key for group in (base, candidate) for key, value in group.items() if _is_share(value)]
    order = [kind for kind in KINDS if kind in shares]
    order += [key for key in dict.fromkeys(shares) if key not in KINDS and key != "passed"]
    return [
        {
            "kind": kind,
            "label": KINDS[kind][0] if kind in KINDS else kind.replace("_", " "),
            "label_ko": KINDS[kind][1] if kind in KINDS else kind,
            "base": base.get(kind),
            "champion": champion.get(kind),
            "candidate": candidate.get(kind),
        }
        for kind in order
    ]


def _is_share(value: Any) -> bool:
    return isinstance(value, Mapping) and "passed" in value and "of" in value


def _numbers(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in figures.items() if isinstance(value, int | float | None)}
