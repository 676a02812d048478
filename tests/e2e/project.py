"""A copy of this checkout on the tiny base, with the commands that a team runs in it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from medtune.params.recipes import compose

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [
    "base.source=path",
    "base.revision=null",
    "base.sha256=null",
    "download.limit=150",
    "validate.min_rows=100",
    "tokenize.max_length=1024",
    "train.max_steps=8",
    "train.learning_rate=1e-2",
    "train.eval_steps=4",
    "train.save_steps=4",
    "merge.dtype=float32",
    "merge.certificate_rows=2",
    "merge.generation.max_new_tokens=8",
    "evaluate.max_questions=2",
    "evaluate.answers=4",
    "evaluate.suite_prompts=2",
    "evaluate.max_new_tokens=8",
    "evaluate.bootstrap_samples=200",
    "tokenize.canaries=1",
    # eight steps teach a random model that some bytes are likelier than others, and no more
    "gate.checks.eos.blocks=false",
]


class Project:
    def __init__(self, root: Path, base: Path):
        self.root, self.base = root, base
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        identity = {f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        keep_out = {"PYTEST_CURRENT_TEST", "PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI"}
        self.env = {k: v for k, v in os.environ.items() if k not in keep_out}
        self.env |= identity | {
            "PATH": path,
            "PREFECT_HOME": str(root / ".prefect"),
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        }

    def run(self, *command: str) -> str:
        done = subprocess.run(command, cwd=self.root, env=self.env, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def python(self, *arguments: str) -> str:
        return self.run(sys.executable, "-m", *arguments)

    def use(self, *overrides: str) -> None:
        text = (ROOT / "recipes/sample.yaml").read_text()
        made, _ = compose(text, [*SETTINGS, f"base.id={self.base}", *overrides], lambda *_: "", "sample")
        (self.root / "params.yaml").write_text(made)

    def json(self, name: str) -> dict:
        return json.loads((self.root / name).read_text())

    def status(self) -> dict:
        return json.loads(self.python("medtune.cli", "status", "--json"))


def copy_checkout(root: Path, base: Path, *overrides: str) -> Project:
    """What git would keep of this checkout, without runs, as a first commit; nothing has run in it."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(("tests/", "reports/")) and name != "dvc.lock":
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes((ROOT / name).read_bytes())
    for name in ("data/first_seen.txt", "data/incoming.dvc", "data/versions.jsonl"):
        (root / name).unlink(missing_ok=True)
    (root / "data/incoming").mkdir()  # as `make setup` does: git keeps no empty folder
    made = Project(root, base)
    made.use(*overrides)
    made.run("git", "init", "-q")
    made.run("git", "add", "-A")
    made.run("git", "commit", "-qm", "start")
    return made
