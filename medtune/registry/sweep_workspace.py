"""The checkout that a sweep runs in: a copy of this one under .dvc/tmp/sweeps/, with a commit and DVC's own cache.

`dvc exp run --queue` stashes the working tree away and resets it for every experiment that it queues: a kill in that
moment, or a pipeline that runs beside it, would find the user's files gone. So the queue works in a copy, and the
checkout is only read. What the trials need and git does not keep is brought along:

  data/incoming, download.path   put under DVC (`dvc add`), so that every temporary folder gets exactly these rows
  mlruns                         a link to the checkout's: one tracking store, one registry (train.init, base.source)
  data/checkpoints               a link to the sweep's own: a trial that was killed goes on from its last checkpoint
  a base in a relative folder    a link to it
  DVC's cache                    the checkout's own, so that what a trial trained need never be trained again
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medtune.corpus.cache import cache_dir
from medtune.corpus.newcomers import look_at_incoming
from medtune.corpus.sources import INCOMING
from medtune.params.errors import RegistryError
from medtune.params.recipe import Recipe
from medtune.params.retrain import Retrain
from medtune.tracking.secrets import redact
from medtune.tracking.store import HOME, open_store

PLACE = Path(".dvc/tmp/sweeps")
PREPARED = "tokenize"  # made once, before the trials
TARGET = "train"  # where a trial ends
JOURNAL = Path("data/first_seen.txt")
LEFT_OUT = ("reports/",)
GATHER_SECONDS = 120.0  # how long files that are still being copied are waited for
LARGE = 64 << 20  # bytes from which a file that git does not know stays behind
# what no trial reads: the same sweep goes on after an edit of these
NO_MATTER = ("reports/", "docs/", "tests/", "benchmarks/", ".github/", "dvc.lock", "params.yaml", "data/versions.jsonl")
DVC = (sys.executable, "-m", "dvc")
QUIET = {
    "PYTHONUNBUFFERED": "1",
    "DVC_NO_ANALYTICS": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TQDM_DISABLE": "1",
}


@dataclass(frozen=True)
class Workspace:
    """root: the copy. state: digest over what the trials read, params.yaml aside."""

    root: Path
    state: str
    environment: dict[str, str]

    def dvc(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*DVC, *arguments], cwd=self.root, env=self.environment, capture_output=True, text=True, check=False
        )

    def git(self, *arguments: str) -> str:
        return _git(self.root, *arguments)


def must_be_committed(root: Path) -> None:
    """RegistryError, with the mend, where git or its first commit is missing, or DVC is: the queue needs them."""
    why = "`medtune sweep` needs git, since DVC keeps its queue of experiments there"
    if shutil.which("git") is None:
        raise RegistryError(f"{why}; install git")
    inside = _try_git(root, "rev-parse", "--show-toplevel")
    if inside is None:
        raise RegistryError(f"{why}, and this is no git checkout: git init && git add -A && git commit -m start")
    if Path(inside).resolve() != root.resolve():
        raise RegistryError(
            f"{why}, and this folder lies inside the checkout {inside}; run it in a checkout of its own"
        )
    if _try_git(root, "rev-parse", "--verify", "--quiet", "HEAD") is None:
        raise RegistryError(f"{why}, and nothing is committed yet: git add -A && git commit -m start")
    if not (root / ".dvc").is_dir():
        raise RegistryError(f"{root.resolve()} is no DVC project; run `dvc init` (or start from a fresh clone)")


def make_workspace(root: Path, name: str, recipe: Recipe, say: Callable[[str], None] = print) -> Workspace:
    """A fresh copy of the checkout as it lies there, uncommitted changes included. Nothing in the checkout changes.

    Of data/incoming it takes the files that are whole, as a run of the pipeline does. The caller holds its lock."""
    arrived = _settled(root, recipe.retrain, say, GATHER_SECONDS)
    place = (root / PLACE / name).resolve()
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    _copy(root, place)
    _git(place, "init", "--quiet", "--initial-branch=main")
    for key, value in (("user.name", "medtune sweep"), ("user.email", "sweep@localhost"), ("commit.gpgsign", "false")):
        _git(place, "config", key, value)
    made = Workspace(place, "", _environment(root))
    _share_cache(root, made)
    for folder in _rows(root, recipe):
        _bring_rows(root, made, folder, arrived if folder == INCOMING else None)
    _git(place, "add", "--all")
    _link(place, HOME.as_posix(), root / HOME)
    _link(place, "data/checkpoints", checkpoints(root, name))
    own = Path(recipe.base.id)
    if recipe.base.source == "path" and not own.is_absolute() and not (place / own).exists() and (root / own).is_dir():
        _link(place, own.as_posix(), root / own)
    _git(place, "commit", "--quiet", "--no-verify", "--message", "what the sweep tries")
    return Workspace(place, _state(place), made.environment)


def prepare(workspace: Workspace, root: Path) -> None:
    """Make what all trials share, once: rows, splits, tokens. RegistryError with the stage's own sentence."""
    before = _read(workspace.root / JOURNAL)
    done = workspace.dvc("repro", PREPARED)
    if done.returncode:
        raise RegistryError(f"the rows could not be prepared: {sentence_of(done.stdout + done.stderr)}")
    # download wrote down which rows it saw first. The checkout's own run will come from the cache and write nothing:
    # without these lines, rows that arrive later could be put before them, and change sides of the split
    after = _read(workspace.root / JOURNAL)
    if after != before and _read(root / JOURNAL) == before and after is not None:
        (root / JOURNAL).parent.mkdir(parents=True, exist_ok=True)
        temporary = (root / JOURNAL).with_name(f".{JOURNAL.name}.sweep")
        temporary.write_bytes(after)
        os.replace(temporary, root / JOURNAL)
    workspace.git("add", "--all")
    if workspace.git("status", "--porcelain"):
        workspace.git("commit", "--quiet", "--no-verify", "--message", "rows and tokens")


def checkpoints(root: Path, name: str) -> Path:
    return (root / PLACE / f"{name}.checkpoints").resolve()


def remove_workspace(root: Path, name: str, checkpoints_too: bool) -> None:
    shutil.rmtree((root / PLACE / name).resolve(), ignore_errors=True)
    if checkpoints_too:
        shutil.rmtree(checkpoints(root, name), ignore_errors=True)


def sentence_of(log: str) -> str:
    """What a stage said about its failure: its last `error:`, up to what DVC says after it; else the log's end."""
    lines = [line.rstrip() for line in log.replace("\r", "\n").splitlines() if line.strip()]
    own = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    dvc = [number for number, line in enumerate(lines) if line.startswith("ERROR: ")]
    if own:
        end = next((number for number in dvc if number > own[-1]), own[-1] + 1)
        return redact(" ".join(lines[own[-1] : end]).removeprefix("error: "))
    before = lines[: dvc[0]] if dvc else lines
    if before and not before[-1].startswith(("> ", "Running stage", "Reproducing", "Stage ")):
        return redact(before[-1])
    return redact(" ".join(lines[number].removeprefix("ERROR: ") for number in dvc) or "it ended without a word")


def _copy(root: Path, place: Path) -> None:
    """What git would keep, as it lies on the disk now."""
    known = set(_git(root, "ls-files", "-z").split("\0"))
    listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, listed):
        source, target = root / name, place / name
        if name.startswith(LEFT_OUT) or not (source.is_file() or source.is_symlink()):
            continue  # a file that was deleted is still in git's index
        if name not in known and source.stat().st_size > LARGE:
            print(f"note: {name} is large and not in git: the trials run without it")
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
    for name in ("reports/.gitignore", ".dvc/.gitignore"):
        if (root / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, place / name)


def _share_cache(root: Path, workspace: Workspace) -> None:
    """The checkout's cache, settings and remotes with their keys."""
    asked = subprocess.run([*DVC, "cache", "dir"], cwd=root, env=workspace.environment, capture_output=True, text=True)
    if asked.returncode:
        raise RegistryError(f"DVC does not tell its cache: {sentence_of(asked.stderr)}")
    local = root / ".dvc/config.local"
    if local.is_file():
        shutil.copy2(local, workspace.root / ".dvc/config.local")
    for setting in (("cache.dir", str((root / asked.stdout.strip()).resolve())), ("core.no_scm", "false")):
        done = workspace.dvc("config", "--local", *setting)
        if done.returncode:
            raise RegistryError(f"the sweep's copy cannot be set up: {sentence_of(done.stderr)}")


def _rows(root: Path, recipe: Recipe) -> list[Path]:
    """Folders and files of rows that git does not keep."""
    places = [INCOMING]
    given = Path(recipe.download.path)
    if not given.is_absolute() and (root / given).exists() and not _git(root, "ls-files", "--", given.as_posix()):
        places.append(given)
    return places


def _settled(root: Path, retrain: Retrain, say: Callable[[str], None], wait: float) -> tuple[str, ...]:
    """Names in data/incoming that may be read, after waiting up to `wait` seconds for those that may soon."""
    deadline, told = time.monotonic() + wait, ""
    while True:
        whole, waiting, broken = look_at_incoming(root, retrain)
        said = "; ".join(item.sentence for item in (*waiting, *broken))
        if said and said != told:
            say(said)
            told = said
        if not waiting or time.monotonic() >= deadline:
            if said:
                say("the trials run without that")
            return whole
        time.sleep(min(5.0, max(0.2, retrain.quiet_seconds / 4)))


def _bring_rows(root: Path, workspace: Workspace, rows: Path, names: Sequence[str] | None = None) -> None:
    """A copy, never a link: `dvc add` makes files read-only. An empty folder too, which git would lose. `names`: of the
    folder's files these alone."""
    source, target = root / rows, workspace.root / rows
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    if names is not None:
        target.mkdir()
        for name in names:
            shutil.copyfile(source / name, target / name)
    elif source.is_file():
        shutil.copyfile(source, target)
    elif source.is_dir():
        shutil.copytree(source, target, copy_function=shutil.copyfile)
    else:
        target.mkdir()
    done = workspace.dvc("add", "--quiet", "--force", rows.as_posix())
    if done.returncode:
        raise RegistryError(f"{rows} cannot be put under DVC, and the trials need it: {sentence_of(done.stderr)}")


def _link(place: Path, name: str, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    path = place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target.resolve(), target_is_directory=True)
    _git(place, "add", "--force", name)


def _state(place: Path) -> str:
    """sha256 over path and content of every file of the commit that a trial may read."""
    digest = hashlib.sha256()
    for line in _git(place, "ls-tree", "-r", "-z", "HEAD").split("\0"):
        told, _, name = line.partition("\t")
        if name and not name.startswith(NO_MATTER) and not name.endswith(".md") and name != JOURNAL.as_posix():
            digest.update(f"{name}\0{told.split()[2]}\n".encode())
    return digest.hexdigest()


def _environment(root: Path) -> dict[str, str]:
    """Ours, with this Python before any other, one store and one cache for all temporary folders."""
    here = str(Path(sys.executable).parent)
    own = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "DVC_EXP", "DVC_ROOT"))}
    own |= {
        "PATH": os.pathsep.join([here, os.environ.get("PATH", os.defpath)]),
        "MEDTUNE_PATH": f"{here}{os.pathsep}",
        "MLFLOW_TRACKING_URI": open_store(root),
    }
    if own.get("MEDTUNE_CACHE"):
        own["MEDTUNE_CACHE"] = str(cache_dir().resolve())  # a relative one would lie in a temporary folder
    return QUIET | own


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise RegistryError(f"`git {arguments[0]}` failed in {root}: {(done.stderr or done.stdout).strip()}")
    return done.stdout.removesuffix("\n")


def _try_git(root: Path, *arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None
