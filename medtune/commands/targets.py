"""medtune targets: dev, staging, prod, where each points and whether it answers."""

import os
from pathlib import Path
from typing import Annotated

import typer

from medtune.params.errors import UserError
from medtune.registry.plain_json import to_json

TargetOption = Annotated[
    str | None,
    typer.Option("--target", help="targets/NAME.env to work with; left out, MEDTUNE_TARGET or dev", metavar="NAME"),
]


def choose_target(context: typer.Context, target: TargetOption = None) -> None:
    """Before any command: a target's settings into the environment. `recipe` and `targets` work without one."""
    from medtune.tracking.targets import CHOSEN, load_target

    if context.invoked_subcommand in ("recipe", "targets") or context.resilient_parsing:
        if target is not None:
            os.environ[CHOSEN] = target
        return
    load_target(Path("."), target)


def targets(
    name: Annotated[str | None, typer.Argument(help="one of them; left out, all")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, for programs")] = False,
) -> None:
    """List the targets: where tracking, ledger, DVC remote and Prefect are, and whether each answers."""
    from medtune.registry.target_places import look_at
    from medtune.tracking.target_file import read_target, target_names
    from medtune.tracking.targets import CHOSEN, DEFAULT

    root = Path(".")
    names = [name] if name else target_names(root)
    if not names:
        raise UserError("there is no targets/*.env here; run this in the project's folder")
    chosen, told, lines = os.environ.get(CHOSEN) or DEFAULT, {}, []
    for one in names:
        lines.append(f"{one}{'  (used here)' if one == chosen else ''}")
        try:
            found = look_at(root, read_target(root, one))
        except UserError as error:
            if name:
                raise
            told[one] = {"problem": str(error)}
            lines.append(f"  {error}")
            continue
        told[one] = {line.what: line.record() for line in found}
        width = max(len(line.where) for line in found)
        lines += [f"  {line.what:9} {line.where:{width}}  {line.answer}".rstrip() for line in found]
    print(to_json({"used": chosen, "targets": told}) if as_json else "\n".join(lines))
    if name and any(line.well is False for line in found):
        raise typer.Exit(1)
