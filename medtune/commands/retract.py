"""medtune retract: take rows back."""

from pathlib import Path
from typing import Annotated

import typer

from medtune.params.errors import UserError
from medtune.params.recipe import load_recipe
from medtune.registry.plain_json import to_json

_WANTED = "--file takes a text file with one row id a line"


def retract(
    rows: Annotated[list[str] | None, typer.Argument(help="row ids of data/valid/rows.jsonl, 8 digits or more")] = None,
    reason: Annotated[str, typer.Option(help="why; say nothing of the row's text or the person")] = "",
    by: Annotated[str | None, typer.Option(help="who decided; left out, the login name")] = None,
    file: Annotated[Path | None, typer.Option("--file", help="ids, one a line; # begins a comment")] = None,
    even_unknown: Annotated[
        bool, typer.Option("--even-unknown", help="record a row that is nowhere, lest it comes in later")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="tell what is retracted, and what that blocks")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, for programs")] = False,
) -> None:
    """Take rows back: block every version that they touched, and train the next one without them."""
    from medtune.registry import retract as retraction
    from medtune.registry.ledger import open_ledger, read_ledger, whoami
    from medtune.registry.retract_text import render_list
    from medtune.registry.retracted_rows import list_retracted

    root, recipe = Path("."), load_recipe()
    if list_:
        if rows or file:
            raise UserError("medtune retract --list takes no row ids: it names all that are retracted")
        found = list_retracted(root, read_ledger(root), recipe.register_.model)
        print(to_json(found) if as_json else render_list(found))
        return
    ids = [*(rows or []), *(read_ids(file) if file else [])]
    if not ids:
        raise UserError(
            "medtune retract needs row ids, or --file ids.txt; `medtune retract --list` names the retracted"
        )
    if not reason.strip():
        raise UserError("medtune retract needs --reason, such as --reason 'consent withdrawn'; it stands in the ledger")
    done = retraction.retract(root, recipe, open_ledger(root), ids, reason, by or whoami(), even_unknown=even_unknown)
    print(to_json(done.record()) if as_json else done.text())


def read_ids(path: Path) -> list[str]:
    """The ids of a file, one a line; UserError names the line that holds more than one word."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path} is not there; {_WANTED}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason}); {_WANTED}") from None
    ids = []
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if len(words) > 1:
            raise UserError(f"{path}, line {number}: one row id a line; what follows it is a comment after #")
        ids += words
    return ids
