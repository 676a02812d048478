"""README.md and docs/ tell the truth: commands exist and run, links lead somewhere, quoted words are the program's."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from docs_commands import PAGES, ROOT, Command, check, commands
from registry_checkout import Checkout, fresh_store, made, tiny_adapter
from typer.testing import CliRunner

__all__ = ["fresh_store", "tiny_adapter"]

CORRECTED = """question,answer,corrected,by
손목을 삐끗했는데 부어요.,괜찮습니다.,얼음찜질을 하고 쉬게 하세요. 이틀이 지나도 부으면 병원에 가세요.,hanna
"""

# What is run, on a checkout with three versions, each command on the checkout as it was before.
RUN = (
    *("medtune status", "medtune history", "medtune lineage", "medtune compare", "medtune verify", "medtune targets"),
    *("medtune doctor", "medtune promote", "medtune reject", "medtune retire", "medtune rollback", "medtune retract"),
    *("medtune recipe list", "medtune recipe show", "medtune recipe check", "medtune recipe use sample"),
    *(
        "medtune plan",
        "medtune feedback",
        "medtune sweep lora.r=4,8 --dry-run",
        "python -c import sqlite3",
        "cp mlflow.backup.db",
    ),
)
# What is only looked up, and why it is not run here. tests/flows, tests/e2e and tests/servers run most of these.
HUB = "asks the hub for today's commit (tests/test_cli.py has one of its own)"
MODEL = "loads a model's weights"
SERVER = "a server or a loop that runs until Ctrl-C"
PREFECT = "needs a Prefect server, or starts one (tests/flows)"
GRAPH = "runs stages or changes DVC's cache (tests/e2e)"
OTHERS = "another program's"
NOT_RUN = {
    "medtune recipe use kullm3": HUB,
    "medtune recipe use llama": HUB,
    "medtune ask": MODEL,
    "medtune predict": MODEL,
    "medtune export": MODEL,
    "medtune eval --suite": MODEL,
    "medtune serve": SERVER,
    "medtune review serve": SERVER,
    "medtune review import": "needs votes of people (tests/evaluation)",
    "medtune sweep": "trains (tests/e2e/test_whole.py)",
    "medtune publish": "needs a second registry (tests/registry/test_publish.py)",
    "medtune --target": "needs that target's servers (tests/servers)",
    "python -m flows.": PREFECT,
    "prefect ": PREFECT,
    "make ": "sets up, runs or tests everything",
    "dvc ": GRAPH,
    "docker": "no Docker engine in a test (tests/test_compose.py)",
    **dict.fromkeys(("git ", "kubectl ", "nvidia-smi", "torchrun ", "accelerate ", "export ", "source "), OTHERS),
    **dict.fromkeys(("cd ", "cp ", "ls ", "tail ", "du ", "sort ", "rm ", "cat "), OTHERS),
}


def _run_here(text: str) -> bool:
    """The longest prefix speaks."""
    known = [name for name in (*RUN, *NOT_RUN) if f"{text} ".startswith(name)]
    assert known, "it is in neither list of tests/test_docs.py: is it run, and if not, why?"
    return max(known, key=len) in RUN


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_adapter: Path, fresh_store: Path) -> Path:
    """A folder with a checkout whose champions were versions 1, 2 and 3, in this order; nobody writes to it."""
    import stages.register

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        folder = tmp_path_factory.mktemp("docs")
        checkout: Checkout = made(folder / "checkout", tiny_base, tiny_adapter, fresh_store)
        patch.chdir(checkout.root)
        for name, nll in (("a", 2.0), ("b", 1.8), ("c", 1.6)):
            checkout.candidate(name, nll=nll)
            stages.register.main(checkout.root)
        medtune("doctor")  # the store was made elsewhere
    for name in ("targets", "recipes"):
        shutil.copytree(ROOT / name, checkout.root / name)
    (checkout.root / ".dvc").mkdir()
    for name in ("dvc.yaml", ".dvc/config", "data/first_seen.txt", "data/retracted.jsonl"):
        shutil.copy(ROOT / name, checkout.root / name)
    (checkout.root / "corrected.csv").write_text(CORRECTED, encoding="utf-8")
    git = ["git", "-c", "user.name=docs", "-c", "user.email=docs@example.org"]
    for words in (["init", "--quiet"], ["add", "params.yaml", "dvc.yaml"], ["commit", "--quiet", "-m", "start"]):
        subprocess.run([*git, *words], cwd=checkout.root, check=True)
    (checkout.root / "mlflow.backup.db").write_bytes((checkout.root / "mlruns/mlflow.db").read_bytes())
    shutil.move(checkout.root, folder / "kept")
    return folder


@pytest.fixture
def again(kept: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Puts the checkout back as it was, where it was: MLflow's paths are absolute; the working directory is there."""
    monkeypatch.setenv("MEDTUNE_ACTOR", "docs")

    def again() -> Path:
        monkeypatch.chdir(kept)
        shutil.rmtree(kept / "checkout", ignore_errors=True)
        shutil.copytree(kept / "kept", kept / "checkout")
        monkeypatch.chdir(kept / "checkout")
        return kept / "checkout"

    return again


def medtune(*arguments: str, status: int = 0) -> str:
    from medtune.cli import app

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", os.environ.copy())  # of a target's settings none stays
        done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == status, f"{' '.join(arguments)}: {done.exception!r}\n{done.output}"
    return done.output


def test_every_command_is_known():
    told = []
    for command in commands():
        try:
            check(command)
        except (Exception, SystemExit) as error:
            told.append(f"{command}: {type(error).__name__}: {error}")
    assert not told, "\n".join(told)


@pytest.mark.parametrize(
    "line",
    [
        *("medtune statsu", "medtune doctor --chek", "medtune recipe", "medtune compare 1", "medtune promote 1"),
        *(
            "dvc reprod",
            "dvc repro trane",
            "make stck",
            "python -m flows.retrain --force-drfit",
            "python -m flows.retrai",
        ),
        *("prefect automation lst", "prefect deployment run medtune-retrain/daily", "docker/secret.sh"),
        *(
            "frobnicate",
            "python -m flows.retrai",
            "prefect deployment run --wach medtune-retrain/weekly",
            "docker compose --profile tpu up -d",
        ),
    ],
)
def test_a_command_that_does_not_exist_is_found(line):
    with pytest.raises((Exception, SystemExit)):
        check(Command("page", 1, tuple(line.split())))


def test_every_command_is_run_or_has_a_reason():
    told = []
    for command in commands():
        try:
            _run_here(command.text)
        except AssertionError as error:
            told.append(f"{command}: {error}")
    assert not told, "\n".join(told)
    stale = [name for name in (*RUN, *NOT_RUN) if not any(f"{c.text} ".startswith(name) for c in commands())]
    assert not stale, f"no page has these any more: {stale}"


def test_commands_do_what_the_pages_say(again):
    row = json.loads((again() / "data/valid/rows.jsonl").read_text().splitlines()[0])["row_id"]
    told = []
    for words in dict.fromkeys(command.words for command in commands() if _run_here(command.text)):
        if words[0] != "medtune":
            continue
        again()
        arguments = [row[: len(word)] if word == "3f2a9c01b7d4" else word for word in words[1:]]
        arguments = [row if word == "ROW_ID" else word for word in arguments]
        unknown = words[1:] == ("targets", "prod")  # nobody answers at prod's *.example, and its status says so
        try:
            medtune(*arguments, status=1 if unknown else 0)
        except AssertionError as error:
            told.append(str(error))
    assert not told, "\n\n".join(told)


def test_the_backup_comes_back(again):
    """The runbook's own lines: back up, something happens, restore; the doctor says what is missing since."""
    root = again()
    (root / "mlflow.backup.db").unlink()
    backup, restore = (
        next(c.words for c in commands() if c.text.startswith(start))
        for start in ("python -c import", "cp mlflow.back")
    )
    subprocess.run([sys.executable, *backup[1:]], cwd=root, check=True)
    before = medtune("history")
    medtune("retire", "1", "--reason", "room")
    assert medtune("history") != before
    subprocess.run(restore, cwd=root, check=True)
    assert "an older database was put back" in medtune("doctor", "--check", status=1)
    (root / "mlruns/ledger.head").unlink()
    assert "the registry is sound" in medtune("doctor", "--check")
    assert medtune("history") == before


def _slug(heading: str) -> str:
    """As GitHub names a heading's anchor."""
    plain = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower())
    return plain.replace(" ", "-")


@cache
def _anchors(page: Path) -> frozenset[str]:
    text = re.sub(r"(?ms)^( *)```.*?^\1```", "", page.read_text(encoding="utf-8"))
    return frozenset(_slug(line.lstrip("#")) for line in text.splitlines() if re.match(r"#+ ", line))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    text = re.sub(r"(?ms)^( *)```.*?^\1```", "", page.read_text(encoding="utf-8"))
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        if not there.exists() or (anchor and anchor not in _anchors(there)):
            lost.append(target)
    assert not lost, f"{page.name}: {lost}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_and_keys_in_backticks_exist(page):
    from medtune.params.recipe import load_recipe

    recipe = load_recipe(ROOT / "recipes/sample.yaml").model_dump(by_alias=True)
    text = re.sub(r"(?ms)^( *)```.*?^\1```", "", page.read_text(encoding="utf-8"))
    spoken = re.findall(r"`([^`\n]+)`", text)
    paths = {word for word in spoken if re.fullmatch(r"[\w.-]+(/[\w.-]+)*/[\w.-]+\.\w+", word)}
    paths |= set(re.findall(r"(?<![\w/.`-])(?:medtune|flows|stages|tests|docker|targets|k8s)(?:/[\w-]+)+\.\w+", text))
    made = ("data/", "reports/", "mlruns/", ".dvc/", "docker/secrets/", ".prefect/")
    lost = [path for path in paths if not path.startswith(made) and not _is_there(page, path)]
    for word in spoken:
        found = re.match(rf"({'|'.join(recipe)})((?:\.[a-z_0-9]+)+)(?![\w./-])", word)
        keys = found[2][1:].split(".") if found else []
        if keys and keys[-1] not in ("py", "id") and not _has(recipe[found[1]], keys):
            lost.append(word)
    assert not lost, f"{page.name}: {lost}"


def _is_there(page: Path, path: str) -> bool:
    return "NAME" in path or (ROOT / path).exists() or (page.parent / path).exists()


def _has(section: object, keys: list[str]) -> bool:
    for key in keys:
        if not isinstance(section, dict) or key not in section:
            return False
        section = section[key]
    return True


@cache
def _sources() -> tuple[str, frozenset[str]]:
    """All literal text of the program, joined by line ends, and the names of its functions."""
    said, names = [], set()
    for folder in ("medtune", "flows", "stages"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    said.append(" ".join(node.value.split()))
                elif isinstance(node, ast.FunctionDef):
                    names.add(node.name)
    return "\n".join(said), frozenset(names)


def test_the_runbook_quotes_the_program():
    said, _ = _sources()
    quoted = re.findall(r"(?m)^> (.+)$", (ROOT / "docs/runbook.md").read_text(encoding="utf-8"))
    assert len(quoted) > 30
    lost = [
        f"{piece!r} of {line!r}"
        for line in quoted
        for piece in line.split("…")
        if len(piece.strip(" ;:,.()")) > 3 and piece.strip(" ;:,.()") not in said
    ]
    assert not lost, "\n".join(lost)


def test_the_architecture_page_names_functions_that_exist():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    lives = text[text.index("## The life of a row") :]
    _, names = _sources()
    spoken = set(re.findall(r"`([a-z]+(?:_[a-z]+)*)`", lives))
    assert len(spoken) > 15
    assert not spoken - names
