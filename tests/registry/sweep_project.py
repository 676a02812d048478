"""A real git and DVC checkout whose stages take no time: train's loss is a formula of its params, its rows are real."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from medtune.registry.sweep_workspace import DVC

ROOT = Path(__file__).resolve().parents[2]
BEST = {"lora.r": 8, "train.learning_rate": 2e-4}  # where the formula has its smallest loss
FAILS = 13  # lora.r with which train fails

TOKENIZE = """
from pathlib import Path
names = sorted(path.name for path in Path("data/incoming").glob("*.jsonl"))
Path("data/tokens.txt").write_text("\\n".join([Path("source.txt").read_text(), *names]))
seen = Path("data/first_seen.txt")
seen.write_text("\\n".join(dict.fromkeys([*(seen.read_text().split() if seen.exists() else []), *names])))
"""
TRAIN = """
import hashlib, json, math, os, sys, time
from pathlib import Path
import yaml
from medtune.tracking.runs import candidate_run

params = yaml.safe_load(Path("params.yaml").read_text())
rank, rate = params["lora"]["r"], float(params["train"]["learning_rate"])
told = [params["lora"], params["train"], Path("data/tokens.txt").read_text()]
candidate = hashlib.sha256(json.dumps(told, default=str).encode()).hexdigest()
with open(os.environ["TALLY"], "a") as tally:
    tally.write(f"{rank} {rate}\\n")
print(f"candidate {candidate[:12]}")
run = candidate_run(os.environ["MLFLOW_TRACKING_URI"], params["register"]["experiment"], candidate, "candidate", {})
hold = Path(os.environ["TALLY"] + ".hold")
while hold.exists() and hold.read_text() == str(rank):
    (Path("data/checkpoints") / "half-done").touch()
    Path(os.environ["TALLY"] + ".pid").write_text(str(os.getpid()))
    time.sleep(0.05)
if rank == 8:  # the one that is killed goes on from what its first start left behind
    assert (Path("data/checkpoints") / "half-done").exists()
if rank == 13:
    sys.exit("error: lora.r: 13 does not fit this base; take another")
loss = 2 + abs(math.log2(rank / 8)) + abs(math.log10(rate / 2e-4)) + 0.001 * (params["train"]["seed"] % 3)
Path("data/adapter").mkdir(parents=True, exist_ok=True)
history = [{"step": 1, "loss": 3.0}, {"step": 2, "eval_loss": loss}]
Path("data/adapter/history.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in history))
Path("reports").mkdir(exist_ok=True)
report = {"candidate": candidate, "steps": 2, "seconds": 0.1, "train_loss": 3.0, "first_loss": 3.0,
          "validation_loss": loss, "best_validation_loss": loss, "tokens_per_second": 10.0, "peak_memory_bytes": 2**30}
Path("reports/train.json").write_text(json.dumps(report))
"""
EVALUATE = """
import os
from pathlib import Path
Path(os.environ["TALLY"] + ".evaluated").touch()
Path("reports/evaluate.json").write_text("{}")
"""
STAGES = {
    "tokenize": {"deps": ["source.txt", "data/incoming", "stages/tokenize.py"], "outs": ["data/tokens.txt"]},
    "train": {
        "deps": ["data/tokens.txt", "stages/train.py"],
        "params": ["lora", "train"],
        "outs": ["data/adapter", "reports/train.json"],
    },
    "evaluate": {"deps": ["data/adapter", "stages/evaluate.py"], "outs": ["reports/evaluate.json"]},
}


class SweepProject:
    def __init__(self, root: Path):
        self.root = root
        self.tally = root.parent / "tally.txt"

    @classmethod
    def create(cls, root: Path) -> "SweepProject":
        for name, code in (("tokenize", TOKENIZE), ("train", TRAIN), ("evaluate", EVALUATE)):
            (root / "stages").mkdir(parents=True, exist_ok=True)
            (root / f"stages/{name}.py").write_text(code)
        (root / "stages/__init__.py").touch()  # else the stages of the checkout that the tests run in come first
        graph = {name: {"cmd": f"python -m stages.{name}", **stage} for name, stage in STAGES.items()}
        (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": graph}, sort_keys=False))
        (root / "data/incoming").mkdir(parents=True)
        (root / "source.txt").write_text("머리가 아파요.")
        (root / "flows").mkdir()
        shutil.copy(ROOT / "flows/leash.py", root / "flows")
        for name in ("params.yaml", ".gitignore", ".dvcignore", "data/.gitignore"):
            shutil.copy(ROOT / name, root / name)
        params = (root / "params.yaml").read_text(encoding="utf-8")
        assert "quiet_seconds: 20" in params
        (root / "params.yaml").write_text(params.replace("quiet_seconds: 20", "quiet_seconds: 1"), encoding="utf-8")
        (root / "reports").mkdir()
        shutil.copy(ROOT / "reports/.gitignore", root / "reports")
        project = cls(root)
        project.run("git", "init", "--quiet")
        project.run(*DVC, "init", "--quiet")
        project.run("git", "add", "--all")
        project.run("git", "commit", "--quiet", "--message", "start")
        return project

    def environment(self) -> dict[str, str]:
        who = {f"GIT_{role}_{what}": "test" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        here = Path(sys.executable).parent
        path = f"{here}:{os.environ['PATH']}"
        return os.environ | who | {"PATH": path, "PYTHONPATH": str(ROOT), "TALLY": str(self.tally)}

    def run(self, *command: str) -> str:
        done = subprocess.run(command, cwd=self.root, env=self.environment(), capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def medtune(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        code = (
            "import sys, typer; from medtune.commands.sweep import sweep; from medtune.params.errors import UserError\n"
        )
        code += "app = typer.Typer()\napp.command()(sweep)\n"
        code += "try:\n    app(standalone_mode=True)\nexcept UserError as error:\n    sys.exit(f'error: {error}')\n"
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, cwd=self.root, env=self.environment(), capture_output=True, text=True)

    def trained(self) -> list[str]:
        """`rank rate` of every training that really began since this was asked last."""
        lines = self.tally.read_text().splitlines() if self.tally.exists() else []
        self.tally.unlink(missing_ok=True)
        return lines

    def tree(self) -> str:
        """What git sees, and what the changed files hold: the same before and after where nothing was touched."""
        return self.run("git", "status", "--porcelain") + self.run("git", "diff") + self.run("git", "stash", "list")
