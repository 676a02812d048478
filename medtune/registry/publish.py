"""A version goes from one registry to the next with its evidence, never by retraining: `medtune publish`.

    medtune publish 7 --to prod --by NAME --reason TEXT         # both registries can be reached from here
    medtune publish 7 --bundle DIR --by … --reason …            # here; DIR travels by hand to where no network leads
    medtune publish --from-bundle DIR                           # there

There are two halves: publish_export.py reads the source and writes a bundle, a folder that holds everything;
publish_import.py takes a bundle into the registry of its own environment. Two registries never meet in one process,
since both are found through the environment. `--to` runs each half as a process of its own, with its own target:

    python -m medtune.registry.publish export --target dev --version 7 --bundle DIR --by NAME --reason TEXT
    python -m medtune.registry.publish import --target prod --bundle DIR
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from medtune.params.errors import RegistryError, UserError
from medtune.tracking.store import HOME

BUNDLE = HOME / "publish" / "bundle"  # between the halves of one `--to`; the lock beside it is held meanwhile
LOCK = HOME / "publish" / "lock"


def publish(root: Path, version: str, to: str, by: str, reason: str, source: str | None, promote: bool) -> int:
    """Both halves, one after the other; the exit status of the one that failed, or 0.

    `source`: left out, the registry that this process's environment is of. A run after a kill begins again: what the
    target has already is not written once more. RegistryError where another publication runs in this checkout.
    """
    folder = (root / BUNDLE).absolute()
    (root / LOCK).parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(root / LOCK, timeout=0):
            shutil.rmtree(folder, ignore_errors=True)  # of a kill
            taken = ["--version", version, f"--by={by}", f"--reason={reason}"]
            status = run_half(root, "export", folder, source, taken)
            if status == 0:
                status = run_half(root, "import", folder, to, ["--promote"] if promote else [])
            shutil.rmtree(folder, ignore_errors=True)
            return status
    except Timeout:
        raise RegistryError(f"another `medtune publish` runs in this checkout ({root / LOCK}); wait for it") from None


def run_half(root: Path, half: str, bundle: Path, target: str | None, more: Sequence[str]) -> int:
    """One half as a process in `root` that finds this very code, wherever it is started; its exit status."""
    code = Path(__file__).resolve().parents[2]
    path = os.pathsep.join(filter(None, (str(code), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "medtune.registry.publish", half, "--bundle", str(bundle), *more]
    command += ["--target", target] if target else []
    return subprocess.run(command, cwd=root, env=os.environ | {"PYTHONPATH": path}).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description="One half of `medtune publish`, with its own target's environment.")
    parser.add_argument("half", choices=("export", "import"))
    parser.add_argument("--target", help="its settings alone; left out, the environment as it is")
    parser.add_argument("--version")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--by", default="")
    parser.add_argument("--reason", default="")
    parser.add_argument("--promote", action="store_true")
    arguments = parser.parse_args()

    from medtune.tracking.secrets import guard_output, redact
    from medtune.tracking.targets import clear_places, load_target

    guard_output()
    root = Path(".")
    try:
        if arguments.target:
            clear_places()
        name = load_target(root, arguments.target)
        home = home_of(root)
        if arguments.half == "export":
            from medtune.registry.publish_export import export_version

            export_version(home, name, arguments.version, arguments.bundle, arguments.by, arguments.reason)
        else:
            from medtune.registry.publish_import import import_bundle

            import_bundle(home, name, arguments.bundle, arguments.promote)
    except (UserError, OSError) as error:
        sys.exit(f"error: {redact(error)}")


def home_of(root: Path) -> Path:
    """The folder whose mlruns holds the target's files: that of its SQLite store where it names one of another
    checkout, so that whoever works there finds them."""
    from medtune.tracking.store import SQLITE

    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    database = Path(given.removeprefix(SQLITE)).resolve()
    return database.parents[1] if given.startswith(SQLITE) and database.parent.name == HOME.name else root


if __name__ == "__main__":
    main()
