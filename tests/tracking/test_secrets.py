"""What holds a password comes out without it, wherever the password stands."""

import base64
import os
import subprocess
import sys

import pytest

from medtune.tracking.secrets import redact, take_password

SECRET = "hunter2/&correct horse"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql+psycopg://medtune:s3cret@db.example:5432/mlflow",
        "could not connect to 'https://me:s3cret@mlflow.example/api' (timed out)",
        "postgresql://me:p@s3cret@host/db",
        "postgresql://:s3cret@host/db",
        "https://s3cret@mlflow.example/",
        "postgresql://host/db?user=me&password=s3cret&connect_timeout=10",
        "connection to host=h user=me password=s3cret failed",
        "host=h password='s3cret x' dbname=d",
        "https://store/bucket/key?X-Amz-Credential=s3cret%2F2026&X-Amz-Signature=s3cret",
        "https://store/key?AWSAccessKeyId=s3cret&Signature=s3cret&Expires=1",
        "{'Authorization': 'Basic s3cret='}",
        "Authorization: Bearer s3cret",
    ],
)
def test_secrets_by_their_place(text: str) -> None:
    said = redact(text)
    assert "s3cret" not in said
    assert "***" in said


@pytest.mark.parametrize(
    "text",
    [
        "postgresql+psycopg://medtune@db.example:5432/mlflow",
        "http://127.0.0.1:5000/#/experiments/1 of models:/medgpt-ko@champion",
        "sqlite:////srv/mlruns/mlflow.db",
        "tokens=512 learning_rate=1e-3, mail me@example.org; s3://bucket/a@b",
        "basic authentication is on; the password is missing",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_secrets_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abc")  # too short to be masked inside words
    monkeypatch.setenv("MEDTUNE_LEDGER_URI", "postgresql+psycopg://me:led%2Fger@host/db")
    monkeypatch.setenv("MEDTUNE_KEY_PASSWORD", "of the key")
    basic = base64.b64encode(f"me:{SECRET}".encode()).decode()
    said = redact(
        f"{SECRET} | hunter2%2F%26correct%20horse | {basic} | abc | abcdef | led/ger | led%2Fger | of the key"
    )
    assert said == "*** | *** | *** | *** | abcdef | *** | *** | ***"


def test_a_password_in_the_address_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", "")
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}")
    assert take_password("https://me:a%40b@mlflow.example:8443/prefix") == "https://mlflow.example:8443/prefix"
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "me"
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "a@b"
    assert take_password("postgresql://me:pw@host/db") == "postgresql://me:pw@host/db"
    assert take_password("http://127.0.0.1:5000") == "http://127.0.0.1:5000"


@pytest.mark.parametrize(
    "code",
    [
        "raise ValueError('no answer from ' + uri)",
        "import logging; logging.getLogger('x').warning('no answer from %s', uri)",
        "import logging\ntry: raise ValueError(uri)\nexcept ValueError: logging.getLogger('x').exception('bad')",
        "import threading\ndef f(): raise ValueError(uri)\nt = threading.Thread(target=f); t.start(); t.join()",
        "try: raise KeyError(uri)\nexcept KeyError as e: raise RuntimeError('more') from e",
    ],
)
def test_nothing_of_a_process_shows_it(code: str) -> None:
    start = "import os\nfrom medtune.tracking.secrets import guard_output\nguard_output()\nuri = os.environ['URI']\n"
    environment = {**os.environ, "URI": "postgresql://me:s3cret@host/db"}
    done = subprocess.run([sys.executable, "-c", start + code], env=environment, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert "postgresql://me:***@host/db" in said
    assert "s3cret" not in said
