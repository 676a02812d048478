"""`medtune targets` and `--target`: where each points, whether it answers, and never a password."""

import base64
import json
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from medtune.commands.targets import choose_target, targets
from medtune.registry.target_places import look_at
from medtune.tracking.target_file import KEYS, read_target
from medtune.tracking.targets import APPLIED, CHOSEN

PASSWORD = "a-secret-of-mlflow"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*KEYS, *(key.removesuffix("_FILE") for key in KEYS), CHOSEN, APPLIED):
        monkeypatch.setenv(name, "")  # so that whatever a command sets is taken back
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "targets").mkdir()
    (tmp_path / "password").write_text(PASSWORD)
    (tmp_path / "password").chmod(0o600)


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    """MLflow's and Prefect's addresses behind one password; /slow never answers, /moved leads elsewhere."""
    expected = "Basic " + base64.b64encode(f"hanna:{PASSWORD}".encode()).decode()
    release = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/slow"):
                release.wait(60)
            status = 200 if self.headers.get("Authorization") == expected else 401
            self.send_response(302 if self.path.startswith("/moved") else status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()
            self.server.asked.append(self.path)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.asked, http.daemon_threads = [], True
    threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
    yield http
    release.set()
    http.shutdown()
    http.server_close()


def target(name: str, *lines: str) -> None:
    Path(f"targets/{name}.env").write_text("\n".join(lines) + "\n")


def answers(name: str, seconds: float = 5) -> dict[str, tuple[str, bool | None]]:
    return {line.what: (line.answer, line.well) for line in look_at(Path("."), read_target(Path("."), name), seconds)}


def test_each_place_answers_for_itself(server) -> None:
    url = f"http://127.0.0.1:{server.server_port}"
    lines = (f"MLFLOW_TRACKING_URI={url}", "MLFLOW_TRACKING_PASSWORD_FILE=password", f"PREFECT_API_URL={url}/api")
    target("prod", *lines, "MLFLOW_TRACKING_USERNAME=hanna")
    found = answers("prod")
    assert found["tracking"] == ("answers", True)
    assert found["prefect"] == ("answers, and does not let us in (401)", False)
    assert found["ledger"][0].startswith("tracking over HTTP takes no ledger")
    assert found["remote"] == ("not configured", None)
    Path("auth").write_text(f"hanna:{PASSWORD}\n")
    Path("folder").mkdir()
    Path(".dvc").mkdir()
    Path(".dvc/config").write_text("['remote \"ward\"']\n    url = ../folder\n")
    sqlite3.connect("ledger.db").execute("CREATE TABLE t (a)").connection.close()
    target(
        "prod",
        *lines,
        "MLFLOW_TRACKING_USERNAME=mina",
        "PREFECT_API_AUTH_STRING_FILE=auth",
        f"MEDTUNE_LEDGER_URI=sqlite:///{Path('ledger.db').absolute()}",
        "MEDTUNE_DVC_REMOTE=ward",
    )
    found = answers("prod")
    assert found["tracking"] == ("answers, and does not let mina in (401)", False)
    assert found["prefect"] == found["ledger"] == ("answers", True)
    assert found["remote"] == ("is there", True)
    assert "/elsewhere" not in server.asked


def test_what_does_not_answer_is_told_and_holds_nobody_up(server) -> None:
    url = f"http://127.0.0.1:{server.server_port}"
    Path(".dvc").mkdir()
    Path(".dvc/config").write_text("['remote \"other\"']\n    url = s3://bucket\n")
    target(
        "prod",
        f"MLFLOW_TRACKING_URI={url}/slow",
        "MEDTUNE_LEDGER_URI=postgresql://hanna@127.0.0.1:9/ledger",
        f"PREFECT_API_URL={url}/moved",
        "MEDTUNE_DVC_REMOTE=ward",
    )
    found = answers("prod", seconds=2)
    assert found["tracking"] == ("no answer within 2 s", False)
    assert found["ledger"] == ("does not answer (OperationalError)", False)
    assert found["prefect"] == ("answers 302: is the address right?", False)
    assert "/elsewhere" not in server.asked  # a password does not travel to where a redirect leads
    assert found["remote"][0].startswith("DVC knows no remote ward: .dvc/config has other")


def test_to_look_makes_nothing() -> None:
    target("dev", "")
    assert answers("dev")["tracking"] == ("not made yet: the first run makes it", True)
    assert not Path("mlruns").exists()


def medtune(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.callback()(choose_target)
    app.command()(targets)

    @app.command()
    def show() -> None:
        import os

        print(os.environ.get(CHOSEN), os.environ.get("MEDTUNE_DVC_REMOTE"), os.environ.get("PGPASSWORD"))

    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    return done.exit_code, done.output


def test_the_command_lists_them_all(server) -> None:
    url = f"http://127.0.0.1:{server.server_port}"
    target("dev", "")
    target("prod", f"MLFLOW_TRACKING_URI={url}", "MLFLOW_TRACKING_USERNAME=hanna", "PGPASSWORD=x")
    target("staging", "MLFLOW_TRACKING_URI=https://mlflow.example")
    status, said = medtune("--target", "staging", "targets")
    assert status == 0
    lines = said.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == ["dev", "staging  (used here)", "prod"]
    assert "  targets/prod.env, line 3: PGPASSWORD is a secret, and git keeps this file" in said
    assert "to be filled in" in said
    assert medtune("targets", "dev")[0] == 0
    assert medtune("targets", "staging")[0] == 1
    told = json.loads(medtune("targets", "--json")[1])
    assert told["targets"]["dev"]["tracking"]["well"] is True
    assert PASSWORD not in said


def test_an_option_before_the_command_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    target("prod", "MEDTUNE_DVC_REMOTE=ward", "PGPASSWORD_FILE=password")
    assert medtune("--target", "prod", "show") == (0, f"prod ward {PASSWORD}\n")
    for name in (CHOSEN, APPLIED, "MEDTUNE_DVC_REMOTE", "PGPASSWORD", "PGPASSWORD_FILE"):
        monkeypatch.delenv(name)
    assert medtune("show") == (0, "dev None None\n")
    monkeypatch.setenv(CHOSEN, "prod")
    assert medtune("show") == (0, f"prod ward {PASSWORD}\n")
