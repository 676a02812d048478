"""`medtune doctor`: look at the registry of a checkout, mend what is safe to mend, say what only a person can.

    report = doctor(Path("."), load_recipe())          # repairs
    report = doctor(Path("."), load_recipe(), repair=False, deep=True)

Safe is what the ledger or the disk decides alone: aliases and tags put back, the champion before a deleted one
restored, a half registration removed, paths of a moved checkout rebased, half-made folders cleared. Never: the ledger
itself, files of a version, folders that nobody registered. Each repair is done under the registry's lock, on what is
found once it is held, and each that changes who is used is an event in the ledger.

Another check: a function from Examination to list[Trouble], in CHECKS where what it relies on has been looked at.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medtune.params.errors import UserError
from medtune.params.recipe import Recipe
from medtune.registry.aliases import registry_uri
from medtune.registry.doctor_dvc import check_cache, check_claim, check_lock
from medtune.registry.doctor_files import check_files, check_leftovers, check_space, check_strangers
from medtune.registry.doctor_incoming import check_incoming
from medtune.registry.doctor_ledger import check_aliases, check_ledger, check_mlflow, check_tags
from medtune.registry.doctor_paths import check_paths
from medtune.registry.doctor_runs import check_runs, check_unsent
from medtune.registry.doctor_trouble import Examination, Trouble
from medtune.registry.doctor_versions import check_champion, check_gone, check_halves
from medtune.registry.ledger import read_ledger
from medtune.tracking.secrets import redact
from medtune.tracking.store import SQLITE, connect, open_store

Check = Callable[[Examination], list[Trouble]]

# in this order: paths before anything reads by them; the champion before the aliases that follow it
CHECKS: tuple[Check, ...] = (
    check_paths,
    check_ledger,
    check_mlflow,
    check_champion,
    check_aliases,
    check_tags,
    check_gone,
    check_halves,
    check_files,
    check_leftovers,
    check_strangers,
    check_space,
    check_lock,
    check_cache,
    check_claim,
    check_runs,
    check_unsent,
    check_incoming,
)
# these write what the ledger says: not while its chain is broken
BY_THE_LEDGER: frozenset[Check] = frozenset({check_champion, check_aliases, check_tags, check_halves})


@dataclass
class Report:
    """repaired: (trouble, what was done); left: what a person must do; warnings: what asks for nothing today."""

    deep: bool
    repaired: list[tuple[Trouble, str]] = field(default_factory=list)
    left: list[Trouble] = field(default_factory=list)
    warnings: list[Trouble] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Nothing is left to do; the exit status of `medtune doctor` is 0."""
        return not self.left

    def record(self) -> dict[str, Any]:
        """Plain data for --json: {"sound", "deep", "repaired": [{"code", "sentence", "done"}], "left": [{"code",
        "sentence", "mend", "repairable"}], "warnings": as left}."""
        return {
            "sound": self.sound,
            "deep": self.deep,
            "repaired": [{"code": item.code, "sentence": item.sentence, "done": done} for item, done in self.repaired],
            "left": [_record(item) for item in self.left],
            "warnings": [_record(item) for item in self.warnings],
        }

    def text(self) -> str:
        lines = []
        for item, done in self.repaired:
            lines += [f"repaired  {item.sentence}", f"          {done}"]
        for item in self.left:
            lines += [f"left      {item.sentence}", f"          {item.mend}"]
        for item in self.warnings:
            lines += [f"note      {item.sentence}", f"          {item.mend}"]
        depth = "every byte was read" if self.deep else "names and sizes only; --deep reads every byte"
        if not self.repaired and not self.left:
            lines.append(f"the registry is sound ({depth})")
        else:
            lines.append(f"{len(self.repaired)} repaired, {len(self.left)} left ({depth})")
        return "\n".join(lines)


def _record(item: Trouble) -> dict[str, Any]:
    return {
        "code": item.code,
        "sentence": item.sentence,
        "mend": item.mend,
        "repairable": item.repair is not None,
    }


def doctor(
    root: Path, recipe: Recipe, repair: bool = True, deep: bool = False, tell: Callable[[str], None] = print
) -> Report:
    """Run every check in order and, with `repair`, mend what can be mended before the next one looks.

    `tell` takes progress lines. A check that itself fails is a trouble that is left; what is found raises nothing.
    RegistryError where the ledger cannot be found at all (tracking over HTTP without MEDTUNE_LEDGER_URI).
    """
    seen = look(root, recipe, deep, tell)
    report = Report(deep)
    for check in CHECKS:
        found = _run(check, seen)
        allowed = repair and (seen.trusted or check not in BY_THE_LEDGER)
        if allowed and any(item.repair for item in found):
            found = _mend(check, seen, report)
        for item in found:
            (report.warnings if item.warning else report.left).append(item)
    return report


def examine(root: Path, recipe: Recipe, deep: bool = False, tell: Callable[[str], None] = print) -> list[Trouble]:
    """Everything that is found, warnings included; changes nothing."""
    seen = look(root, recipe, deep, tell)
    return [item for check in CHECKS for item in _run(check, seen)]


def look(root: Path, recipe: Recipe, deep: bool, tell: Callable[[str], None]) -> Examination:
    """Ledger and MLflow as they are; makes neither where there is none."""
    uri = registry_uri(root)
    database = Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None
    if database is not None and (not database.exists() or database.stat().st_size == 0):
        return Examination(root, recipe, uri, read_ledger(root), None, deep, tell)
    uri = open_store(root)  # as registration spells it
    return Examination(root, recipe, uri, read_ledger(root), connect(uri), deep, tell)


def _mend(check: Check, seen: Examination, report: Report) -> list[Trouble]:
    """Look again with the registry locked, repair, and return what is still there."""
    left = []
    with seen.locked():
        seen.refresh()
        for item in _run(check, seen):
            if item.repair is None:
                left.append(item)
                continue
            try:
                report.repaired.append((item, item.repair()))
            except Exception as error:
                left.append(replace(item, sentence=f"{item.sentence}; the repair failed: {_told(error)}"))
    seen.refresh()
    return left


def _run(check: Check, seen: Examination) -> list[Trouble]:
    """A check that breaks must not keep the others from looking: this is the nightly run's only way to tell."""
    try:
        return check(seen)
    except Exception as error:
        name = check.__name__.removeprefix("check_")
        return [Trouble("not_checked", f"{name} could not be looked at: {_told(error)}", "mend that, then look again")]


def _told(error: Exception) -> str:
    """A sentence; of a stranger's error its first line only: SQL and whole rows may follow."""
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}".splitlines()[0]
    return redact(text)[:500]
