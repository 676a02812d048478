"""medtune publish: a version goes to the next registry, with its evidence."""

from pathlib import Path
from typing import Annotated

import typer

from medtune.params.errors import UserError

ROOT = Path(".")


def publish(
    version: Annotated[
        str | None, typer.Argument(metavar="VERSION", help="number in the registry it comes from, or its digest")
    ] = None,
    to: Annotated[str | None, typer.Option("--to", help="the target that it goes to, such as prod")] = None,
    source: Annotated[
        str | None, typer.Option("--from", help="the target that it comes from; left out, the one that is used here")
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", help="who answers for it; left out, MEDTUNE_ACTOR or the login name")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="why; it stands in both histories for ever")] = "",
    promote: Annotated[
        bool, typer.Option("--promote", help="champion there, where it was judged against the champion there")
    ] = False,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="write it to this new folder, which travels by hand")
    ] = None,
    from_bundle: Annotated[
        Path | None, typer.Option("--from-bundle", help="bring in a folder that --bundle wrote")
    ] = None,
) -> None:
    """Bring a version into another registry: the same bytes, its run, card, figures and decision. Trains nothing.

    There it is a challenger until a person promotes it. Where no network leads, --bundle and --from-bundle.
    """
    from medtune.registry import publish as halves
    from medtune.registry.ledger import whoami

    if from_bundle is not None:
        if version or bundle or source:
            raise UserError("medtune publish --from-bundle DIR takes no version, --from or --bundle: the folder has it")
        _end(halves.run_half(ROOT, "import", from_bundle.absolute(), to, ["--promote"] if promote else []))
        return
    if version is None:
        raise UserError("medtune publish needs a VERSION: `medtune publish 7 --to prod --by NAME --reason TEXT`")
    if (to is None) == (bundle is None):
        raise UserError("medtune publish needs --to TARGET, or --bundle DIR for a folder that travels by hand")
    if not reason.strip():
        raise UserError("medtune publish needs --reason, such as --reason 'passed the rehearsal'; the ledger keeps it")
    who = by if by is not None else whoami()
    if bundle is not None:
        if promote:
            raise UserError("--promote is said where the bundle is brought in: `medtune publish --from-bundle DIR`")
        told = ["--version", version, f"--by={who}", f"--reason={reason}"]
        _end(halves.run_half(ROOT, "export", bundle.absolute(), source, told))
        print(f"next, where it goes: medtune publish --from-bundle {bundle.name} [--to TARGET]")
        return
    _end(halves.publish(ROOT, version, str(to), who, reason, source, promote))


def _end(status: int) -> None:
    """The half has said on stderr what is wrong."""
    if status:
        raise typer.Exit(status)
