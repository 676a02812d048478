"""medtune sweep: compare many trainings on the validation split, and send the best one to the gate."""

from pathlib import Path
from typing import Annotated

import typer

from medtune.params.errors import UserError

FINALIST = "finalist"
ROOT = Path(".")


def sweep(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=A,B,C … | finalist [NAME]", help="what to vary; or: the best into params.yaml"),
    ] = None,
    name: Annotated[str | None, typer.Option(help="of the sweep; left out, made from its combinations")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="trainings at once; more than one only where memory allows")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="tell the combinations, and train nothing")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="more than 64 combinations are meant")] = False,
    list_: Annotated[bool, typer.Option("--list", help="tell the sweeps that were made")] = False,
    trial: Annotated[str | None, typer.Option(help="finalist: this trial instead of the best")] = None,
) -> None:
    """Train every combination of the values given, and compare them on the validation split.

    medtune sweep 'lora.r=4,8,16' 'train.learning_rate=1e-4,2e-4', then medtune sweep finalist, then make run.
    The test split is not read and no look at it is spent: only the finalist goes to the gate.
    """
    if list_:
        _list()
    elif words and words[0] == FINALIST:
        _finalist(words[1:], trial)
    elif trial is not None:
        raise UserError("--trial belongs to `medtune sweep finalist NAME --trial ID`")
    elif dry_run:
        _dry(words or [], name, yes)
    else:
        _sweep(words or [], name, jobs, yes)


def _sweep(words: list[str], name: str | None, jobs: int, yes: bool) -> None:
    from medtune.registry.sweep import sweep as run
    from medtune.registry.sweep_record import path_of
    from medtune.registry.sweep_table import render

    record = run(ROOT, words, name, jobs, yes, say=lambda line: print(line, flush=True))
    print(f"\n{render(record)}")
    there = path_of(Path(), record.name, "")
    print(f"{there}.json, .csv, .png; in MLflow: filter tags.medtune.sweep = '{record.name}', select all, Compare")
    if not record.done():
        raise UserError(f"no trial of {record.name} ended well; their logs are in mlruns/sweeps/{record.name}/")
    print(f"next: medtune sweep finalist {record.name}")


def _dry(words: list[str], name: str | None, yes: bool) -> None:
    from medtune.registry.sweep import plan

    wanted = plan(ROOT, words, name, yes)
    for trial in wanted.grid.trials:
        done = wanted.record.trials.get(trial.id)
        print(f"{trial.id}  {trial}" + (f"  ({done.status})" if done else ""))
    twice = f", {wanted.grid.repeated} said twice" if wanted.grid.repeated else ""
    print(f"sweep {wanted.name}: {len(wanted.grid.trials)} combination(s){twice}; nothing was queued")


def _finalist(words: list[str], trial: str | None) -> None:
    from medtune.registry.sweep import finalist
    from medtune.registry.sweep_grid import show

    if len(words) > 1:
        raise UserError("medtune sweep finalist takes one name of `medtune sweep --list`, or none for the newest")
    chosen, kept = finalist(ROOT, words[0] if words else None, trial)
    told = " ".join(f"{key}={show(value)}" for key, value in chosen.params.items())
    print(f"params.yaml has {told} now (trial {chosen.id}, validation loss {chosen.validation_loss:.4f})")
    if kept:
        print(f"the recipe that stood there is kept in {kept}")
    print("next: make run   (its training comes from DVC's cache; the gate looks at the test split, once)")


def _list() -> None:
    from medtune.registry.sweep import describe
    from medtune.registry.sweep_grid import show

    told = describe(ROOT)
    for item in told:
        best = "none ended well"
        if item["params"] is not None:
            values = " ".join(f"{key}={show(value)}" for key, value in item["params"].items())
            best = f"best {item['best']:.4f} with {values or 'every setting alike'}"
        failed = f", {item['failed']} failed" if item["failed"] else ""
        print(f"{item['name']}  {' '.join(item['keys'])}  {item['done']} trial(s){failed}  {best}")
    if not told:
        print("no sweep yet: medtune sweep 'lora.r=4,8,16'")
