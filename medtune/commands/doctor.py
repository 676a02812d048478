"""`medtune doctor`: find what is wrong with the registry, mend what is safe, exit 1 where a person must act."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from medtune.params.recipe import load_recipe
from medtune.registry.plain_json import to_json


def doctor(
    repair: Annotated[bool, typer.Option("--repair/--check", help="--check changes nothing")] = True,
    deep: Annotated[bool, typer.Option("--deep/--quick", help="--deep reads every byte of every version")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, for programs; progress goes to stderr")] = False,
) -> None:
    """Find what is wrong with the registry and mend what is safe. Exit status 1: something is left for a person."""
    from medtune.registry.doctor import doctor as run

    progress = sys.stderr if as_json else None
    report = run(Path("."), load_recipe(), repair, deep, lambda line: print(line, file=progress, flush=True))
    print(to_json(report.record()) if as_json else report.text())
    if not report.sound:
        raise typer.Exit(1)
