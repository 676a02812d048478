"""medtune history, lineage and compare: what happened, where a version comes from, how two differ."""

from pathlib import Path
from typing import Annotated

import typer

from medtune.params.errors import UserError
from medtune.params.recipe import load_recipe
from medtune.registry.plain_json import to_json

ROOT = Path(".")
Version = Annotated[str, typer.Argument(help="its number, or the first digits of its digest", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON, for programs; times in UTC")]


def history(
    at: Annotated[str | None, typer.Option(help="who was champion then: 2026-11-01, or 2026-11-01T18:30+09:00")] = None,
    version: Annotated[str | None, typer.Option(help="only what is about this version: a number or digest")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only the newest so many events")] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what happened to the model's versions, newest last; with --at, who was champion, and why, at a moment."""
    from medtune.registry import history as events
    from medtune.registry import history_at
    from medtune.registry.ledger import read_ledger

    model = load_recipe().register_.model
    ledger = read_ledger(ROOT)
    if at is not None:
        if version is not None or limit is not None:
            raise UserError("--at asks who was champion at a moment; leave --version and --limit out")
        told = history_at.champion_at(ledger, ROOT, model, history_at.parse_moment(at))
        print(to_json(told) if as_json else history_at.render(told))
        return
    found = events.history(ledger, model, version, limit)
    print(to_json(found) if as_json else events.render(model, found))


def lineage(
    version: Version,
    as_json: Annotated[bool, typer.Option("--json", help="print an in-toto statement with SLSA v1 provenance")] = False,
    rows: Annotated[bool, typer.Option("--rows", help="list the ids of the rows that it was trained on")] = False,
    row: Annotated[str | None, typer.Option(help="tell whether and where this row is in it")] = None,
) -> None:
    """Tell where a version comes from: rows, data version, tokens, adapter, merged model, decision."""
    from medtune.registry import lineage as chain
    from medtune.registry.ledger import read_ledger

    model = load_recipe().register_.model
    ledger = read_ledger(ROOT)
    if rows and row is not None:
        raise UserError("--rows lists the rows and --row ROW_ID looks one up; leave one of them out")
    if row is not None:
        found = chain.find_row(ROOT, ledger, model, version, row)
        print(to_json(found) if as_json else chain.render_row(found))
    elif rows:
        ids = chain.training_rows(ROOT, ledger, model, version)
        print(to_json(ids) if as_json else "\n".join(ids))
    else:
        from medtune.registry.provenance import statement

        told = chain.lineage(ROOT, ledger, model, version)
        print(to_json(statement(told)) if as_json else chain.render(told))


def compare(
    a: Version,
    b: Version,
    rows: Annotated[bool, typer.Option("--rows", help="list the rows that only one of them has")] = False,
    answers: Annotated[int, typer.Option(min=0, help="how many prompts to show with both answers")] = 3,
    html: Annotated[Path | None, typer.Option(help="write a page with every answer side by side")] = None,
    as_json: AsJson = False,
) -> None:
    """Lay two versions side by side: params, rows, figures, answers."""
    from medtune.registry import compare_versions
    from medtune.registry.ledger import read_ledger

    told = compare_versions.compare(ROOT, read_ledger(ROOT), load_recipe().register_.model, a, b)
    if html is not None:
        from medtune.registry.compare_page import write_page

        write_page(html, told)
    if as_json:
        print(to_json(told))
    else:
        compare_versions.show(told, rows=rows, answers=answers)
        if html is not None:
            print(f"\nevery answer side by side: {html}")
