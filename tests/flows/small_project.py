"""A small real DVC project with the seven stages' names: each hashes what it reads and writes one file, in no time."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import yaml

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("download", "validate", "tokenize", "train", "merge", "evaluate", "register")
READS = {"download": ["base", "download"], "train": ["lora", "train"], "register": ["gate", "register"]}

# What every stand-in does: out = sha256(what it reads), one line printed, a tally of the runs kept outside DVC.
STAND_IN = """
import hashlib, json, sys, yaml
from pathlib import Path

def run(stage):
    graph = yaml.safe_load(Path("dvc.yaml").read_text())["stages"][stage]
    params = yaml.safe_load(Path("params.yaml").read_text())
    text = json.dumps([params[name] for name in graph["params"]], sort_keys=True, default=str)
    text += "".join(Path(dep).read_text() for dep in graph["deps"] if not dep.endswith(".py"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    with open("ran.txt", "a") as tally:
        tally.write(stage + "\\n")
    print(f"{stage} read {len(text)} characters")
    Path("data").mkdir(exist_ok=True)
    Path("reports").mkdir(exist_ok=True)
    if stage == "register":
        decision = {"decision": "approved", "reasons": [], "digest": digest}
        Path("reports/register.json").write_text(json.dumps(decision))
    else:
        Path(f"data/{stage}.txt").write_text(digest)
"""


class SmallProject:
    def __init__(self, root: Path):
        self.root = root

    @classmethod
    def create(cls, root: Path, names: tuple[str, ...] = STAGES) -> "SmallProject":
        (root / "stages").mkdir(parents=True)
        (root / "stages" / "__init__.py").touch()
        (root / "stand_in.py").write_text(STAND_IN)
        (root / "source.txt").write_text("머리가 아파요.")
        shutil.copy(ROOT / "params.yaml", root)
        shutil.copy(ROOT / "prefect.toml", root)
        project = cls(root)
        stages = {}
        for before, name in zip((None, *names), names, strict=False):
            project.write_stage(name)
            stages[name] = {
                "cmd": f"python -m stages.{name}",
                "deps": [f"data/{before}.txt" if before else "source.txt", f"stages/{name}.py"],
                "params": READS.get(name, [name]),
            }
            stages[name] |= (
                {"metrics": [{"reports/register.json": {"cache": False}}]}
                if name == "register"
                else {"outs": [f"data/{name}.txt"]}
            )
        (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
        project.init()
        return project

    def init(self) -> None:
        """`dvc init --no-scm` without the seconds that another Python takes to load DVC."""
        from dvc.repo import Repo

        Repo.init(str(self.root), no_scm=True).close()

    def copy(self, to: Path) -> "SmallProject":
        shutil.copytree(self.root, to)
        return SmallProject(to)

    def write_stage(self, name: str, code: str | None = None) -> None:
        code = code or f"from stand_in import run\nrun({name!r})\n"
        (self.root / "stages" / f"{name}.py").write_text(dedent(code))

    def set_param(self, section: str, key: str, value: object) -> None:
        params = yaml.safe_load((self.root / "params.yaml").read_text())
        params[section][key] = value
        (self.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False, allow_unicode=True))

    def dvc(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments], cwd=self.root, env=self.environment(), capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def environment(self, **more: str) -> dict[str, str]:
        return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | more

    def ran(self) -> list[str]:
        """Stages that ran since this was asked last, in order."""
        tally = self.root / "ran.txt"
        names = tally.read_text().split() if tally.exists() else []
        tally.write_text("")
        return names

    def lock(self) -> dict:
        return yaml.safe_load((self.root / "dvc.lock").read_text())["stages"]

    def decide(self, decision: str, *reasons: str) -> None:
        """From now on the stage register says so."""
        report = json.dumps({"decision": decision, "reasons": reasons})
        self.write_stage(
            "register",
            f"""
            from pathlib import Path
            from stand_in import run
            run("register")
            Path("reports/register.json").write_text('''{report}''')
            """,
        )
