"""Messages that really arrive: in Slack's form at Slack's address, by mail, as JSON; and channels that do not work."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect import flow
from prefect.blocks.system import Secret

from flows import notify
from flows.notify import send, setup
from medtune.params.errors import UserError
from tests.flows.receivers import certificate, closed_port, mail, web

ROOT = Path(__file__).resolve().parents[2]
SUBJECT = "medgpt-ko version 7: promoted to champion"
BODY = "버전 7이 챔피언이 되었습니다.\n  ok  nll_per_char 1.8312 < 1.9020\nRelease card: http://127.0.0.1:5000/card"
TOKENS = "T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
LOG = logging.getLogger("test.notify")


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MEDTUNE_NOTIFY", *notify.NOTIFY_FILES):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def put(key: str, content: str) -> None:
        path = tmp_path / key.lower()
        path.write_text(content + "\n")
        path.chmod(0o600)
        monkeypatch.setenv(key, str(path))

    return put


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch):
    def name(*channels: str) -> None:
        monkeypatch.setenv("MEDTUNE_NOTIFY", ",".join(channels))

    return name


def test_slack_in_slacks_own_form(prefect_server, secret, told, tmp_path, monkeypatch, caplog) -> None:
    tls, authority = certificate(tmp_path)
    secret("MEDTUNE_SLACK_WEBHOOK_FILE", f"https://hooks.slack.com/services/{TOKENS}")
    assert setup() == ["slack-webhook/medtune"]
    told("slack-webhook/medtune")
    with web(tls) as slack:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{slack.port}")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
        with caplog.at_level(logging.DEBUG):
            assert send(SUBJECT, BODY, LOG) == ["slack-webhook/medtune"]
    ((address, message),) = slack.got
    assert address == f"hooks.slack.com/services/{TOKENS}"
    text = json.dumps(message, ensure_ascii=False)
    assert SUBJECT in text
    for line in BODY.splitlines():
        assert line.strip() in text.replace("&lt;", "<")
    assert TOKENS not in caplog.text


def test_mail_and_webhook_at_once(prefect_server, secret, told) -> None:
    with mail() as server, web() as hook:
        addresses = "from=medtune@ward.example&to=doctor@ward.example,nurse@ward.example"
        secret("MEDTUNE_SMTP_FILE", f"mailto://127.0.0.1:{server.port}?{addresses}")
        secret("MEDTUNE_WEBHOOK_FILE", f"http://127.0.0.1:{hook.port}/hook/secret-part")
        names = setup()
        assert names == ["medtune-mail/medtune", "custom-webhook/medtune"]
        told(*names)
        assert send(SUBJECT, BODY, LOG, url="http://127.0.0.1:5000/more") == names
    assert sorted(to for receivers, _ in server.got for to in receivers) == [
        "doctor@ward.example",
        "nurse@ward.example",
    ]
    for _, message in server.got:
        assert message["Subject"] == SUBJECT
        assert message["From"].addresses[0].addr_spec == "medtune@ward.example"
        content = message.get_body(("plain",)).get_content().replace("\r\n", "\n")
        assert content.strip() == f"{BODY}\nhttp://127.0.0.1:5000/more"
    assert hook.got == [
        (
            f"127.0.0.1:{hook.port}/hook/secret-part",
            {"subject": SUBJECT, "body": f"{BODY}\nhttp://127.0.0.1:5000/more"},
        )
    ]


def test_the_address_is_not_on_prefects_page(prefect_server, secret) -> None:
    import httpx

    secret("MEDTUNE_WEBHOOK_FILE", "https://hooks.ward.example/secret-part")
    setup()
    answer = httpx.post(f"{prefect_server}/block_documents/filter", json={"limit": 50}, timeout=30)
    assert '"custom-webhook"' in answer.text
    assert "secret-part" not in answer.text


def test_one_that_fails_and_one_that_hangs_stop_nobody(prefect_server, secret, told, caplog) -> None:
    with web() as hook, web() as stuck:
        secret("MEDTUNE_WEBHOOK_FILE", f"http://127.0.0.1:{stuck.port}/secret-part")
        setup()
        notify.CustomWebhookNotificationBlock.load("medtune", _sync=True).save("stuck", overwrite=True, _sync=True)
        secret("MEDTUNE_WEBHOOK_FILE", f"http://127.0.0.1:{closed_port()}/secret-part")
        setup()
        notify.CustomWebhookNotificationBlock.load("medtune", _sync=True).save("away", overwrite=True, _sync=True)
        secret("MEDTUNE_WEBHOOK_FILE", f"http://127.0.0.1:{hook.port}/secret-part")
        setup()
        Secret(value="s").save("medtune-test", overwrite=True, _sync=True)
        stuck.hangs = True
        names = ("stuck", "away", "never-made", "medtune")
        told(*(f"custom-webhook/{name}" for name in names), "secret/medtune-test", "no-such-type/medtune", "nonsense")
        with caplog.at_level(logging.DEBUG):
            assert send(SUBJECT, BODY, LOG, seconds=2) == ["custom-webhook/medtune"]
    said = caplog.text
    assert "custom-webhook/stuck was not told: no answer within 2 s" in said
    assert "custom-webhook/away was not told: ConnectError" in said
    assert "custom-webhook/never-made was not told: Prefect has no such block" in said
    assert "secret/medtune-test was not told: a Secret is no block that notifies" in said
    assert "no-such-type/medtune was not told" in said
    assert "nonsense was not told" in said
    ours = [record.getMessage() for record in caplog.records if record.name == LOG.name]
    assert not [line for line in ours if "secret-part" in line]


def test_an_answer_that_is_no_yes(prefect_server, secret, told, caplog) -> None:
    with web() as hook:
        hook.status = 500
        secret("MEDTUNE_WEBHOOK_FILE", f"http://127.0.0.1:{hook.port}/secret-part")
        told(*setup())
        assert send(SUBJECT, BODY, LOG) == []
    assert "HTTPStatusError" in caplog.text
    assert "secret-part" not in caplog.text
    assert BODY in caplog.text  # what nobody was told stands in the log at least


def test_nobody_configured_says_how(caplog) -> None:
    with caplog.at_level(logging.INFO):
        assert send(SUBJECT, BODY, LOG) == []
    assert SUBJECT in caplog.text
    assert "set MEDTUNE_NOTIFY, such as slack-webhook/medtune" in caplog.text


def test_from_a_flow(prefect_server, secret, told) -> None:
    from prefect import get_run_logger

    @flow
    def telling() -> list[str]:
        return send(SUBJECT, BODY, get_run_logger())

    with web() as hook:
        secret("MEDTUNE_WEBHOOK_FILE", f"http://127.0.0.1:{hook.port}/x")
        told(*setup())
        assert telling() == ["custom-webhook/medtune"]
    assert hook.got[0][1] == {"subject": SUBJECT, "body": BODY}


@pytest.mark.parametrize(
    ("key", "content", "said"),
    [
        ("MEDTUNE_SLACK_WEBHOOK_FILE", "https://ward.example/x-secret", "address of a Slack webhook"),
        ("MEDTUNE_SLACK_WEBHOOK_FILE", "x-secret", "an https:// address"),
        ("MEDTUNE_TEAMS_WEBHOOK_FILE", "https://ward.example/x-secret", "address of a Teams webhook"),
        ("MEDTUNE_SMTP_FILE", "smtp://u:x-secret@ward.example", "mailtos://user:password@host:587"),
        ("MEDTUNE_WEBHOOK_FILE", "https://a.example/1\nhttps://x-secret", "more than one line"),
        ("MEDTUNE_WEBHOOK_FILE", "", "is empty"),
    ],
)
def test_a_file_with_something_else(secret, key: str, content: str, said: str) -> None:
    secret(key, content)
    with pytest.raises(UserError, match=said) as error:
        setup()
    assert "x-secret" not in str(error.value)


def test_nothing_to_set_up() -> None:
    with pytest.raises(UserError, match="no channel is configured"):
        setup()


def test_as_commands(prefect_server, secret, tmp_path) -> None:
    """Prefect's address comes from the target's file alone."""
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets/dev.env").write_text(f"PREFECT_API_URL={prefect_server}\n")

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess:
        environment = os.environ | {"PYTHONPATH": str(ROOT), **more}
        for name in ("PREFECT_API_URL", "MEDTUNE_TARGET", "MEDTUNE_TARGET_APPLIED"):
            environment.pop(name, None)
        command = [sys.executable, "-m", "flows.notify", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    with web() as hook:
        secret("MEDTUNE_WEBHOOK_FILE", f"http://127.0.0.1:{hook.port}/secret-part")
        done = run("--setup")
        assert done.returncode == 0, done.stderr
        assert "MEDTUNE_NOTIFY=custom-webhook/medtune" in done.stdout
        done = run("--test", MEDTUNE_NOTIFY="custom-webhook/medtune,slack-webhook/none")
        assert done.returncode == 1
        assert "error: 1 of 2 channels did not take it" in done.stderr
        assert hook.got[0][1]["subject"] == "medtune (dev): a test"
        assert "secret-part" not in done.stdout + done.stderr
