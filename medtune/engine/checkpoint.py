"""Checkpoints of a candidate: data/checkpoints/<candidate>/checkpoint-<step>/, kept outside DVC's outs.

DVC deletes outs before a stage runs; what must survive a kill lives here. A checkpoint counts only once its marker is
written, the last thing of all, so that a kill in the middle of saving leaves one that is never resumed from.
"""

import json
import shutil
from pathlib import Path

MARKER = "complete.json"
DONE = "done.json"


def mark_complete(checkpoint: Path) -> None:
    """Write the marker: the sizes of the files as they were when saving ended."""
    sizes = {str(f.relative_to(checkpoint)): f.stat().st_size for f in sorted(checkpoint.rglob("*")) if f.is_file()}
    temporary = checkpoint / (MARKER + ".tmp")
    temporary.write_text(json.dumps(sizes, indent=1))
    temporary.replace(checkpoint / MARKER)


def is_complete(checkpoint: Path) -> bool:
    """Whether saving ended and every file still has the size that it had then."""
    try:
        sizes = json.loads((checkpoint / MARKER).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return all((checkpoint / name).is_file() and (checkpoint / name).stat().st_size == n for name, n in sizes.items())


def last_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint of the highest step. Incomplete ones are removed, so that they never count again."""
    found = []
    for checkpoint in folder.glob("checkpoint-*"):
        if is_complete(checkpoint):
            found.append((int(checkpoint.name.rsplit("-", 1)[1]), checkpoint))
        else:
            shutil.rmtree(checkpoint, ignore_errors=True)
    return max(found)[1] if found else None


def is_finished(checkpoint: Path) -> bool:
    """Whether training had nothing left to do when this checkpoint was written.

    The trainer must not be started from it: it would take one step more before it looks at the step count.
    """
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    control = state.get("stateful_callbacks", {}).get("TrainerControl", {}).get("args", {})
    return state["global_step"] >= state["max_steps"] or bool(control.get("should_training_stop"))


def mark_done(folder: Path, figures: dict) -> None:
    """This candidate's adapter is saved; its checkpoints may go when another candidate is done."""
    temporary = folder / (DONE + ".tmp")
    temporary.write_text(json.dumps(figures, indent=1))
    temporary.replace(folder / DONE)


def done_figures(folder: Path) -> dict | None:
    """The figures of the run that finished this candidate; None where it is not finished."""
    try:
        return json.loads((folder / DONE).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def prune_done(root: Path, keep: str) -> list[str]:
    """Remove the checkpoints of finished candidates but `keep`; interrupted ones stay, to be gone on with."""
    removed = []
    for folder in root.glob("*"):
        if folder.name != keep and (folder / DONE).exists():
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder.name)
    return removed
