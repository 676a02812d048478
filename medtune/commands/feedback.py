"""medtune feedback: reviewed or corrected answers become rows for data/incoming."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medtune.params.errors import UserError

if TYPE_CHECKING:
    from medtune.corpus.feedback import Entry
    from medtune.params.recipe import Recipe

ROOT = Path(".")
SHOWN = 20  # refused rows that are named one by one


def feedback(
    files: Annotated[
        list[Path] | None, typer.Argument(help="CSV or JSONL: question, answer, corrected, by (and at, model, version)")
    ] = None,
    approved: Annotated[
        bool, typer.Option("--approved", help="also answers without a correction whose column `good` says yes")
    ] = False,
    votes: Annotated[
        Path | None, typer.Option(help="votes of `medtune review`; with --preferred, answers that won there")
    ] = None,
    preferred: Annotated[
        bool, typer.Option("--preferred", help="an answer that all reviewers of a pair preferred counts as good")
    ] = False,
    by: Annotated[str | None, typer.Option(help="who answers for rows that name nobody")] = None,
    model: Annotated[str | None, typer.Option(help="whose answers these were; left out, the registered model")] = None,
    version: Annotated[str | None, typer.Option(help="its version, where a row tells none")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="tell what would be written, and write nothing")] = False,
) -> None:
    """Turn corrected answers into rows for data/incoming, each with its origin.

    Corrections alone, unless --approved or --preferred says otherwise. Questions of the test split or of a suite, rows
    with personal data, and what validate would set aside are refused, row by row.
    """
    from medtune.corpus.feedback import SortedOut, held_out, known, read_entries, sort_out, write_rows
    from medtune.params.recipe import load_recipe

    recipe = load_recipe()
    if not files and votes is None:
        raise UserError("medtune feedback needs a file, such as corrected.csv with question, answer, corrected, by")
    if (votes is None) == preferred:
        raise UserError("--votes and --preferred go together: a vote says which answer is better, not that it is good")
    entries = []
    for path in files or []:
        entries += read_entries(path, approved, by, model=model or recipe.register_.model, version=version)
    if votes is not None:
        entries += _voted(votes, recipe, by)
    judged_by = held_out(ROOT, recipe.validate_.near_duplicate)
    told: SortedOut = sort_out(entries, judged_by, known(ROOT, recipe.download), recipe.validate_, recipe.download)
    for sentence in told.refused[:SHOWN]:
        print(f"refused  {sentence}")
    if len(told.refused) > SHOWN:
        print(f"and {len(told.refused) - SHOWN} more")
    counts = [f"{len(told.rows)} row(s) to learn from", f"{len(told.refused)} refused"]
    counts += [f"{count} {reason}" for reason, count in told.passed.items()]
    print(f"{len(entries)} reviewed answer(s): {', '.join(counts)}")
    if dry_run:
        print("nothing was written (--dry-run)")
        return
    written = write_rows(ROOT, told.rows)
    if written is None:
        print("nothing to write")
        return
    print(f"written: {written}")
    print("next: make run   (with `make stack` running, enough new rows start a retrain by themselves)")


def _voted(path: Path, recipe: "Recipe", by: str | None) -> "list[Entry]":
    """Answers that every reviewer of a pair preferred and nobody called harmful."""
    from medtune.corpus.feedback import Entry
    from medtune.evaluation.review.log import latest, read_votes
    from medtune.evaluation.review.pairs import read_pairs
    from medtune.evaluation.review.votes import preferred

    pairs = read_pairs(ROOT)
    lines, _ = read_votes(path)
    by_item: dict[str, list] = {}
    for vote in latest(lines).values():
        if vote.item in pairs.items:
            by_item.setdefault(vote.item, []).append(vote)
    entries = []
    for name, votes in by_item.items():
        item = pairs.items[name]
        sides = {preferred(vote, item) for vote in votes}
        harmful = any(vote.harmful for vote in votes)
        won = sides.pop() if len(sides) == 1 else "equal"
        clear = won in ("candidate", "other") and not harmful
        which = pairs.candidate if won == "candidate" else pairs.other
        entries.append(
            Entry(
                place=f"{path.name}, {item.set} {item.prompt}",
                question=item.question,
                text=getattr(item, won) if clear else "",
                kind="preferred" if clear else None,
                by=", ".join(sorted({vote.reviewer for vote in votes})) or (by or ""),
                at=max(vote.at for vote in votes),
                model=f"{recipe.register_.model}: {which['name']}",
                version=which["digest"],
            )
        )
    return entries
