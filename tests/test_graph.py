"""dvc.yaml against the code: deps are the import closures, and an edited file runs what it must and nothing more."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.deps import differences
from flows.graph import and_downstream, changed_stages, read_graph
from medtune.tracking.closure import import_closure

ROOT = Path(__file__).resolve().parents[1]
MADE = [
    *("data/raw/rows.jsonl", "data/base.json", "data/valid/rows.jsonl", "data/tokens/x", "data/adapter/x"),
    *("data/merged/x", "data/checkpoints/x", "data/.arriving/x", "data/incoming/new.jsonl"),
    *("data/set_aside/x.jsonl", "data/set_aside/x.jsonl.txt"),
    *("reports/validate.json", "reports/data_docs/index.html", "reports/loss/train.csv", "reports/lengths.csv"),
    *(
        "reports/evaluate/x",
        "reports/evaluate.json",
        "reports/metrics.json",
        "reports/lengths.png",
        "mlruns/mlflow.db",
        ".prefect/prefect.db",
        ".venv/x",
    ),
]
WRITTEN = [
    *("data/sample/dialogues.jsonl", "data/incoming.dvc", "data/versions.jsonl", "data/questions.jsonl"),
    *("data/README.md", "data/first_seen.txt", "data/retracted.jsonl", "reports/register.json", "dvc.lock"),
]
STAGES = ["download", "validate", "tokenize", "train", "merge", "evaluate", "register"]


@pytest.fixture(scope="module")
def graph() -> dict:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))


def test_the_stages_are_in_the_order_of_the_house():
    assert list(read_graph(ROOT)) == STAGES


def test_deps_name_every_module_that_a_stage_imports_and_no_other():
    assert differences(ROOT) == [], "mend with: python -m flows.deps --write"


def test_differences_sees_too_few_and_too_many(tmp_path, graph):
    shutil.copytree(ROOT / "medtune", tmp_path / "medtune", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    start = text.index("  validate:")
    few = text[:start] + text[start:].replace("      - stages/validate.py\n", "", 1)
    (tmp_path / "dvc.yaml").write_text(few)
    assert differences(tmp_path) == ["validate: add    - stages/validate.py"]
    (tmp_path / "dvc.yaml").write_text(
        text.replace("      - stages/validate.py\n", "      - stages/validate.py\n" * 2, 1)
    )
    assert differences(tmp_path) == ["validate: remove - stages/validate.py"] * 2
    (tmp_path / "dvc.yaml").write_text(few)
    done = subprocess.run([sys.executable, "-m", "flows.deps", "--write"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "dvc.yaml").read_text() == text  # comments and data deps as they were


def test_every_stage_runs_its_own_module_and_says_what_it_is_for(graph):
    for name, stage in graph["stages"].items():
        assert stage["cmd"] == f"${{python}} -m stages.{name}"
        assert stage["desc"]


def test_params_name_sections_of_the_recipe_that_exist(graph):
    recipe = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    watched = set()
    for stage in graph["stages"].values():
        for param in stage["params"]:
            section, _, key = param.partition(".")
            assert section in recipe, param
            assert not key or key in recipe[section], param
            watched.add(section)
    assert set(recipe) == watched, "no stage watches these sections"


def test_git_ignores_what_stages_make_and_nothing_that_people_write(tmp_path):
    """DVC then has no .gitignore to write, and a run leaves the checkout clean but for what is to be committed."""
    for name in (".gitignore", "data/.gitignore", "reports/.gitignore"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    for name in MADE + WRITTEN:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    listed = subprocess.run(
        ["git", "status", "--porcelain", "-uall"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert {line[3:] for line in listed.splitlines()} == {
        *WRITTEN,
        ".gitignore",
        "data/.gitignore",
        "reports/.gitignore",
    }


def test_downstream_keeps_the_graphs_order():
    graph = {"a": set(), "b": {"a"}, "c": {"a"}, "d": {"b"}, "e": {"c", "d"}}
    assert and_downstream(graph, {"b"}) == ["b", "d", "e"]
    assert and_downstream(graph, set()) == []
    assert and_downstream(graph, {"e", "a"}) == ["a", "b", "c", "d", "e"]


# --- a copy of the project in which every out exists and dvc.lock is true ---


class Copy:
    def __init__(self, root: Path):
        self.root = root

    def dvc(self, *arguments: str) -> str:
        done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=self.root, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def listed(self) -> list[str]:
        """As `dvc status` lists them: by DVC in this process, since the command takes seconds to start."""
        changed = changed_stages(self.root)
        return [name for name in STAGES if name in changed]


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory, graph: dict) -> Copy:
    """The project's code and graph with stand-ins for data and reports, taken for up to date (`dvc commit`)."""
    root = tmp_path_factory.mktemp("graph") / "project"
    keep_out = shutil.ignore_patterns("__pycache__", "*.pyc")
    for folder in ("medtune", "stages"):
        shutil.copytree(ROOT / folder, root / folder, ignore=keep_out)
    for name in ("dvc.yaml", "params.yaml", ".dvcignore", ".dvc/config", ".dvc/plots/lengths.json"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    (root / "data/incoming").mkdir(parents=True)
    (root / "data/incoming/README.md").write_text("a note")
    recipe = yaml.safe_load((root / "params.yaml").read_text())
    stand_in(root / recipe["download"]["path"])
    stand_in(root / recipe["evaluate"]["questions"])
    for stage in graph["stages"].values():
        for out in [*stage.get("outs", []), *stage.get("metrics", [])]:
            stand_in(root / (out if isinstance(out, str) else next(iter(out))))
        for dep in stage["deps"]:
            if not dep.endswith(".py") and "$" not in dep and not (root / dep).exists():
                stand_in(root / dep)
    copy = Copy(root)
    copy.dvc("config", "core.no_scm", "true")
    copy.dvc("commit", "--force")
    assert copy.listed() == []
    assert json.loads(copy.dvc("status", "--json")) == {}
    return copy


def stand_in(path: Path) -> None:
    """A file where the name has an ending, else a folder with a file in it; what DVC parses is of its kind."""
    if path.name == "loss":
        files = {path / f"{curve}.csv": "step,loss\n1,3.5\n2,3.1\n" for curve in ("train", "validation")}
    elif path.name == "lengths.csv":
        files = {path: "length,count,split\n16,2,train\n16,1,test\n"}
    elif path.suffix == ".json":
        files = {path: json.dumps({"rows": 1, "of": path.stem})}
    else:
        files = {path if path.suffix else path / "file.txt": f"stand-in for {path.name}"}
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.fixture
def copy(committed: Copy):
    """The committed copy, which a test must leave as it was: by its files' bytes, which costs less than dvc's word."""
    before = contents(committed.root)
    yield committed
    assert contents(committed.root) == before, "the test must put back what it changed"


def contents(root: Path) -> dict[Path, bytes]:
    kept = (path for path in root.rglob("*") if path.is_file() and not {".dvc", "dvc.lock"} & {*path.parts})
    return {path: path.read_bytes() for path in kept if "__pycache__" not in path.parts}


def edit(path: Path):
    """Append a line of code; returns how to undo it."""
    before = path.read_bytes()
    path.write_bytes(before + b"\nEDITED = True\n")
    return lambda: path.write_bytes(before)


@pytest.mark.parametrize(
    ("file", "runs"),
    [
        # one file per floor, lowest first
        ("medtune/params/lora.py", STAGES),  # every stage reads the whole recipe
        ("medtune/tracking/runs.py", ["train", "register"]),
        ("medtune/corpus/clusters.py", ["validate"]),
        ("medtune/corpus/sources.py", ["download"]),
        ("medtune/corpus/labels.py", ["tokenize", "train", "merge", "evaluate", "register"]),
        ("medtune/engine/train.py", ["train"]),
        ("medtune/engine/merge.py", ["merge", "evaluate"]),  # whose answers come from weights unpacked the same way
        ("medtune/evaluation/scores.py", ["evaluate", "register"]),
        ("medtune/evaluation/rules/emergency.py", ["evaluate"]),
        ("medtune/evaluation/release_card/page.py", ["register"]),
        ("medtune/registry/gate.py", ["register"]),
        ("stages/tokenize.py", ["tokenize"]),
        ("stages/stage.py", STAGES),
    ],
)
def test_an_edited_file_is_listed_for_the_stages_that_import_it(copy, file, runs):
    undo = edit(copy.root / file)
    try:
        assert copy.listed() == runs
    finally:
        undo()


@pytest.mark.parametrize(
    ("old", "new", "runs"),
    [
        ("learning_rate: 1.0e-3", "learning_rate: 2.0e-3", ["train"]),
        ("r: 8 ", "r: 16", ["train"]),
        ("max_length: 512", "max_length: 256", ["tokenize", "train", "evaluate"]),
        ("near_duplicate: 0.8 ", "near_duplicate: 0.7 ", ["validate"]),
        ("attempts: 5", "attempts: 6", ["download"]),
        ("format: auto", "format: alpaca", ["download", "validate"]),
        ("at_most: 0.001", "at_most: 0.002", ["register"]),
        ("bootstrap_samples: 2000", "bootstrap_samples: 1000", ["evaluate"]),
        ("min_new_rows: 50", "min_new_rows: 60", []),
    ],
)
def test_a_changed_param_is_listed_for_the_stages_that_read_it(copy, old, new, runs):
    path = copy.root / "params.yaml"
    before = path.read_text(encoding="utf-8")
    assert before.count(old) == 1
    path.write_text(before.replace(old, new), encoding="utf-8")
    try:
        assert copy.listed() == runs
    finally:
        path.write_text(before, encoding="utf-8")


def test_rows_that_arrive_are_seen_and_notes_beside_them_are_not(copy):
    incoming = copy.root / "data/incoming"
    for name, runs in {"new.jsonl": ["download"], ".new.jsonl.swp": [], "notes.txt": [], "README.md": []}.items():
        path = incoming / name
        before = path.read_bytes() if path.exists() else None
        path.write_text("{}\n")
        try:
            assert copy.listed() == runs, name
        finally:
            path.unlink() if before is None else path.write_bytes(before)


def test_a_retracted_row_runs_validate_and_so_trains_anew(copy):
    path = copy.root / "data/retracted.jsonl"
    before = path.read_bytes()
    path.write_bytes(before + b"one more\n")
    try:
        assert copy.listed() == ["validate"]
        assert and_downstream(read_graph(ROOT), {"validate"}) == STAGES[1:]
    finally:
        path.write_bytes(before)


def test_a_fresh_clone_has_the_list_of_retracted_rows_and_none_on_it():
    """DVC stops at a dep that is missing; and the template retracts nobody's rows."""
    tracked = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "data/retracted.jsonl"]
    listed = subprocess.run(tracked, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    assert listed.stdout.split() == ["data/retracted.jsonl"]
    assert (ROOT / "data/retracted.jsonl").read_bytes() == b""


def test_a_folder_without_new_rows_is_as_good_as_none(copy):
    """git keeps no empty folder and an archive may drop the note: neither may stop or repeat the run."""
    note = copy.root / "data/incoming/README.md"
    note.rename(copy.root / "README.aside")
    try:
        assert copy.listed() == []
    finally:
        (copy.root / "README.aside").rename(note)


def test_the_commands_use_the_projects_own_venv_without_activation(tmp_path):
    """`.venv/bin/dvc repro` in a shell whose python is another one."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    python = tmp_path / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@" ours\n')
    python.chmod(0o755)
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/download.py").write_text("import sys\nopen('said.txt', 'w').write(sys.argv[-1])\n")
    stage = {"cmd": graph["stages"]["download"]["cmd"], "outs": ["said.txt"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"vars": graph["vars"], "stages": {"download": stage}}))
    Copy(tmp_path).dvc("init", "--no-scm", "-q")
    for shell in ("/bin/sh", shutil.which("bash")):
        done = subprocess.run(
            [sys.executable, "-m", "dvc", "repro", "-f", "download"],
            cwd=tmp_path,
            env={**os.environ, "PATH": "/usr/bin:/bin", "SHELL": shell},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "said.txt").read_text() == "ours"
        (tmp_path / "said.txt").unlink()


def test_no_stages_module_is_unreachable(graph):
    """A module of the library that no stage, command or flow imports is dead, or misses from a stage."""
    flows = [f"flows.{path.stem}" for path in (ROOT / "flows").glob("*.py") if path.stem != "__init__"]
    starts = [*(f"stages.{name}" for name in graph["stages"]), "medtune.cli", *flows]
    reached = {file for start in starts for file in import_closure(start, ROOT)}
    library = {p.relative_to(ROOT) for p in (ROOT / "medtune").rglob("*.py") if p.name != "__init__.py"}
    assert library - reached == set()


def test_metrics_params_plots_and_artifacts_are_complete(copy, graph):
    metrics = json.loads(copy.dvc("metrics", "show", "--json"))[""]["data"]
    assert {name: metric["data"]["of"] for name, metric in metrics.items()} == {"reports/metrics.json": "metrics"}
    plots = json.loads(copy.dvc("plots", "show", "--json"))["data"]
    points = {plot: drawn[0]["content"]["data"]["values"] for plot, drawn in plots.items()}
    assert {plot: len(drawn) for plot, drawn in points.items()} == {"loss": 4, "lengths": 2}
    outs = {str(out) for stage in graph["stages"].values() for out in stage.get("outs", [])}
    assert {artifact["path"] for artifact in graph["artifacts"].values()} <= outs
