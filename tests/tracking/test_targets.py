"""dev, staging, prod: files that are read as written, held to their keys, and hold no secret."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from medtune.params.errors import UserError
from medtune.tracking.target_file import KEYS, read_target, target_names
from medtune.tracking.targets import APPLIED, CHOSEN, clear_places, load_target, read_secret

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "correct horse-battery#1"


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch):
    """load_target writes into os.environ: all of it is put back."""
    before = dict(os.environ)
    for name in (*KEYS, *(key.removesuffix("_FILE") for key in KEYS), CHOSEN, APPLIED):
        os.environ.pop(name, None)
    os.environ["HOME"] = "/home/hanna"
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def write(tmp_path: Path):
    def put(name: str, *lines: str) -> Path:
        (tmp_path / "targets").mkdir(exist_ok=True)
        (tmp_path / f"targets/{name}.env").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tmp_path

    return put


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(PASSWORD + "\n")
    path.chmod(0o600)
    return path


def refused(root: Path, name: str = "prod") -> str:
    with pytest.raises(UserError) as error:
        load_target(root, name)
    return str(error.value)


def test_the_shipped_files_are_read_and_hold_no_secret() -> None:
    assert target_names(ROOT) == ["dev", "staging", "prod"]
    assert read_target(ROOT, "dev").settings == {}  # everything is local
    for name in ("staging", "prod"):
        target = read_target(ROOT, name)
        # tracking, ledger, remote, Prefect, notifications
        wanted = "MLFLOW_TRACKING_URI MEDTUNE_LEDGER_URI MEDTUNE_DVC_REMOTE PREFECT_API_URL MEDTUNE_NOTIFY".split()  # noqa: SIM905
        assert set(wanted) <= set(target.settings)
        assert target.get("MLFLOW_TRACKING_PASSWORD_FILE") == f"/home/hanna/.config/medtune/{name}/mlflow_password"
    said = refused(ROOT)
    assert said.startswith("targets/prod.env, line ")
    assert "MLFLOW_TRACKING_URI is still the template's (mlflow-prod.example)" in said


def test_lines_are_read_as_a_shell_reads_them(write, tmp_path: Path) -> None:
    lines = (
        "# a comment",
        "",
        "MLFLOW_TRACKING_USERNAME=hanna   # who",
        "export MEDTUNE_DVC_REMOTE='a #$ {b}'",
        'MEDTUNE_ACTOR="${MLFLOW_TRACKING_USERNAME} of \\"A\\" \\${X} #1"  # c',
        "HF_HOME=${CACHE:-/var/cache}/hub",
        "PGUSER = ${MLFLOW_TRACKING_USERNAME}2",
        "NO_PROXY=",
        "MLFLOW_TRACKING_PASSWORD_FILE=secrets/mlflow",
    )
    target = read_target(write("prod", *lines), "prod")
    values = {key: setting.value for key, setting in target.settings.items()}
    assert values == {
        "MLFLOW_TRACKING_USERNAME": "hanna",
        "MEDTUNE_DVC_REMOTE": "a #$ {b}",
        "MEDTUNE_ACTOR": 'hanna of "A" ${X} #1',
        "HF_HOME": "/var/cache/hub",
        "PGUSER": "hanna2",
        "NO_PROXY": "",
        "MLFLOW_TRACKING_PASSWORD_FILE": str(tmp_path / "secrets/mlflow"),
    }
    # bash agrees, where it is asked the same; paths of ours are the checkout's
    script = 'set -a; . targets/prod.env; for k in "$@"; do printf "%s\\0" "${!k}"; done'
    own = [line for line in lines if not line.startswith("PGUSER")]  # a shell takes no spaces around =
    write("prod", *own)
    asked = [key for key in values if key not in ("PGUSER", "MLFLOW_TRACKING_PASSWORD_FILE")]
    done = subprocess.run(["bash", "-c", script, "-", *asked], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split("\0")[:-1] == [values[key] for key in asked]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("MLFLOW_TRACKING_PASSWORD=hunter2", "MLFLOW_TRACKING_PASSWORD is a secret, and git keeps this file; write"),
        ("PGPASSWORD='hunter2'", "write PGPASSWORD_FILE=PATH"),
        ("MLFLOW_TRACKING_URI=https://me:hunter2@mlflow.ward.org", "MLFLOW_TRACKING_PASSWORD_FILE"),
        ("MLFLOW_TRACKING_URI=https://hunter2@mlflow.ward.org", "holds a user's password"),
        ("MEDTUNE_LEDGER_URI=postgresql://me:hunter2@db/ledger", "use PGPASSWORD_FILE or PGPASSFILE"),
        ("MEDTUNE_LEDGER_URI=postgresql://db/ledger?user=me&password=hunter2", "holds a password or token after ?"),
        ("MEDTUNE_NOTIFY=https://hooks.slack.com/services/hunter2", "a webhook's address, which is a secret"),
        ("MEDTUNE_NOTIFY=mailto://hunter2", "names blocks"),
        ("MEDTUNE_SLACK_WEBHOOK=hunter2", "did you mean MEDTUNE_SLACK_WEBHOOK_FILE?"),
        ("MLFLOW_TRACKNG_URI=hunter2", "is no setting of a target; did you mean MLFLOW_TRACKING_URI?"),
        ("medtune_notify=hunter2", "did you mean MEDTUNE_NOTIFY?"),
        ("hunter2", "a line is KEY=value or a comment"),
        ("PGUSER=a hunter2", "a value with a space stands in quotes"),
        ("PGUSER='hunter2", "the quote ' is not closed"),
        ('PGUSER="a" hunter2', "or something follows it"),
        ("PGUSER=$hunter2", "a reference is written ${NAME}"),
        ("PGUSER=${NOWHERE_AT_ALL}", "${NOWHERE_AT_ALL} is set neither above nor in the environment"),
        ("PGPASSWORD_FILE=", "names no file"),
        ("PGPASSWORD_FILE=~/hunter2", "nothing stands for ~ here; write ${HOME}"),
        ("MEDTUNE_DVC_REMOTE=b", "stands in line 2 already"),
    ],
)
def test_what_is_wrong_is_named_by_its_line_and_not_quoted(write, line: str, said: str) -> None:
    root = write("prod", "# prod", "MEDTUNE_DVC_REMOTE=a", line)
    told = refused(root)
    assert told.startswith("targets/prod.env, line 3: ")
    assert said in told
    assert "hunter2" not in told.replace(line.partition("=")[0], "")


def test_an_unknown_target_names_the_known(write) -> None:
    root = write("prod", "")
    write("dev", "")
    assert refused(root, "prd") == "no target 'prd': there are dev, prod; did you mean prod?"
    assert "no target '../prod'" in refused(root, "../prod")
    os.environ[CHOSEN] = "stagng"
    with pytest.raises(UserError, match="no target 'stagng'"):
        load_target(root)


def test_dev_is_the_default_and_may_have_no_file(tmp_path: Path, write) -> None:
    assert load_target(tmp_path) == "dev"
    assert os.environ[CHOSEN] == "dev"
    del os.environ[CHOSEN]
    assert load_target(write("dev", "MEDTUNE_ACTOR=me")) == "dev"
    assert os.environ["MEDTUNE_ACTOR"] == "me"


def test_a_secret_comes_from_its_file_into_this_process(write, secret: Path, capsys) -> None:
    root = write("prod", "MLFLOW_TRACKING_URI=https://mlflow.ward.org", "MLFLOW_TRACKING_PASSWORD_FILE=password")
    said: list[str] = []
    load_target(root, "prod", said.append)
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == PASSWORD
    assert os.environ["MLFLOW_TRACKING_URI"] == "https://mlflow.ward.org"
    assert said == []
    load_target(root, "prod", said.append)  # a subprocess does so again
    assert said == []
    secret.chmod(0o640)
    clear_places()
    load_target(root, "prod", said.append)
    assert said == [f"{secret} can be read by others on this machine; `chmod 600 {secret}`"]
    assert PASSWORD not in str(capsys.readouterr())


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "is empty"), (b" \n", "is empty"), (b"a\nb\n", "more than one line"), (b"\xff\xfe", "not UTF-8")],
)
def test_a_secrets_file_with_something_else(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_secret(path, "targets/prod.env, line 3")


def test_a_secrets_file_that_is_away(write) -> None:
    said = refused(write("prod", "PGPASSWORD_FILE=/nowhere/at/all"))
    assert said == (
        "targets/prod.env, line 1: PGPASSWORD_FILE names /nowhere/at/all, which cannot be read (No such file or "
        "directory); put the secret there"
    )


def test_an_exported_variable_wins_and_is_told(write, secret: Path) -> None:
    root = write("prod", "PGUSER=medtune", "MLFLOW_TRACKING_PASSWORD_FILE=password", "PGSSLMODE=require")
    os.environ |= {"PGUSER": "me", "MLFLOW_TRACKING_PASSWORD": "mine", "PGSSLMODE": "require"}
    said: list[str] = []
    load_target(root, "prod", said.append)
    assert os.environ["PGUSER"] == "me"
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "mine"
    assert said == [
        "PGUSER of the environment is used, and not targets/prod.env, line 1; unset it to work with prod alone",
        "MLFLOW_TRACKING_PASSWORD of the environment is used, and not targets/prod.env, line 2",
    ]


def test_another_target_inside_one_takes_nothing_of_it(write, secret: Path) -> None:
    """`make run TARGET=staging` may start `medtune --target prod`: half of each would be a third registry."""
    root = write("staging", "MLFLOW_TRACKING_URI=https://a.org", "PGUSER=a", "PGPASSWORD_FILE=password")
    write("prod", "MLFLOW_TRACKING_URI=https://b.org")
    os.environ["MEDTUNE_ACTOR"] = "hanna"
    load_target(root, "staging")
    load_target(root, "prod", pytest.fail)
    assert os.environ["MLFLOW_TRACKING_URI"] == "https://b.org"
    assert not {"PGUSER", "PGPASSWORD", "PGPASSWORD_FILE"} & set(os.environ)
    assert (os.environ["MEDTUNE_ACTOR"], os.environ[CHOSEN]) == ("hanna", "prod")


def test_a_containers_secret_files_are_read_without_a_target(tmp_path: Path, secret: Path) -> None:
    os.environ["PGPASSWORD_FILE"] = str(secret)
    load_target(tmp_path)
    assert os.environ["PGPASSWORD"] == PASSWORD


def test_a_subprocess_inherits_it(write, secret: Path) -> None:
    root = write("prod", "MEDTUNE_LEDGER_URI=postgresql://me@db/ledger", "PGPASSWORD_FILE=password")
    load_target(root, "prod")
    code = "import os; print(os.environ['MEDTUNE_LEDGER_URI'], os.environ['PGPASSWORD'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"postgresql://me@db/ledger {PASSWORD}\n"
    clear_places()
    runner = [sys.executable, "-m", "medtune.tracking.targets", "--target", "prod", sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    again = subprocess.run(runner, cwd=root, env=environment, capture_output=True, text=True, check=True)
    assert again.stdout == done.stdout


def test_git_would_keep_no_secret_of_the_shipped_files() -> None:
    """Every *_FILE lies outside the checkout."""
    for name in target_names(ROOT):
        for key, setting in read_target(ROOT, name).settings.items():
            if key.endswith("_FILE"):
                assert not Path(setting.value).is_relative_to(ROOT), key


def test_files_with_a_mark_and_windows_line_ends(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "targets", tmp_path / "targets")
    path = tmp_path / "targets/prod.env"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    there, here = read_target(ROOT, "prod"), read_target(tmp_path, "prod")
    assert {k: s.value for k, s in here.settings.items()} == {k: s.value for k, s in there.settings.items()}
