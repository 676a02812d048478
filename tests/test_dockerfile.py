"""Dockerfile, .dockerignore and docker/: no engine runs here, so that linters and the files themselves must do."""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
SCRIPTS = sorted((ROOT / "docker").glob("*.sh"))


def stages() -> dict[str, str]:
    """Name -> its lines, of each stage in order."""
    parts = re.split(r"(?m)^FROM ", DOCKERFILE)[1:]
    return {re.match(r"\S+ AS (\S+)", part)[1]: part for part in parts}


def tracked() -> list[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in listed if (ROOT / name).is_file()]


def pattern_of(line: str) -> re.Pattern[str]:
    """A line of .dockerignore as Docker reads it: ** crosses folders, * does not, a folder means all in it."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", line.strip("/"))
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(meaning.get(part, re.escape(part)) for part in parts) + "(?:/.*)?")


def in_context(name: str) -> bool:
    """Whether `docker build .` sees this file: the last line that fits decides."""
    kept = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#") and pattern_of(line.removeprefix("!")).fullmatch(name):
            kept = line.startswith("!")
    return kept


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if not hadolint:
        pytest.skip("hadolint is not installed (it comes with the dev extra)")
    done = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_bases_are_pinned_by_digest() -> None:
    bases = dict(re.findall(r"(?m)^ARG (\w+_IMAGE)=(\S+)", DOCKERFILE))
    assert set(bases) == {"CUDA_IMAGE", "PYTHON_IMAGE"}
    assert all(re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", image) for image in bases.values())
    sources = re.findall(r"(?m)^FROM (\S+)", DOCKERFILE)
    assert [s for s in sources if s not in stages()] == ["${PYTHON_IMAGE}", "${CUDA_IMAGE}"]


def test_what_runs_is_not_root_and_has_an_init() -> None:
    for name in ("cpu", "cuda"):
        text = stages()[name]
        assert re.findall(r"(?m)^USER (.*)", text) == ["1000:1000"]
        assert text.index("USER") > text.index("RUN")
        assert 'ENTRYPOINT ["tini", "--", "medtune-entrypoint"]' in text
    for name in ("serve", "trainer"):
        assert "USER" not in stages()[name]
        assert stages()[name].startswith("cuda ")


def test_both_kinds_are_told_the_same() -> None:
    told = [re.search(r"(?ms)^ENV .*?[^\\]$", stages()[name])[0] for name in ("cpu", "cuda")]
    assert told[0] == told[1]
    lines = [re.search(r"(?ms)^RUN .*", stages()[name])[0].split("\n# By")[0] for name in ("cpu", "cuda")]
    assert lines[0].split("USER")[0].rstrip() == lines[1].split("USER")[0].rstrip()


def test_the_server_has_a_health_check() -> None:
    from medtune.commands.serve import serve

    assert "HEALTHCHECK" in stages()["serve"]
    port = re.search(r"EXPOSE (\d+)", stages()["serve"])[1]
    assert f"127.0.0.1:{port}/health" in stages()["serve"]
    assert str(inspect.signature(serve).parameters["port"].default) == port


def test_no_secret_comes_in_by_build() -> None:
    from medtune.tracking.secrets import SECRETS

    assert [name for name in SECRETS if re.search(rf"\b{name}\b", DOCKERFILE)] == []
    assert not re.search(r"(?m)^ADD |--build-arg|ARG \w*(TOKEN|PASSWORD|KEY)", DOCKERFILE)
    for name in ("docker/secrets/prefect_auth", ".env", "targets/.env", ".dvc/config.local", ".git/config", "a.pem"):
        assert not in_context(name), name


def test_the_context_is_small_and_holds_what_the_graph_reads() -> None:
    files = [name for name in tracked() if in_context(name)]
    assert sum((ROOT / name).stat().st_size for name in files) < 8e6
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    deps = {dep for stage in graph.values() for dep in stage["deps"] if "${" not in dep}
    made = {"data/incoming"} | {str(out) for stage in graph.values() for out in stage["outs"]}
    missing = [dep for dep in deps - made if (ROOT / dep).exists() and not _kept(dep, files)]
    assert missing == []
    copied = re.findall(r"(?m)^COPY (?!--from)(.*) \S+$", DOCKERFILE)
    assert [name for line in copied for name in line.split() if name != "." and not in_context(name)] == []
    for name in ("data/raw/rows.jsonl", "data/incoming/new.jsonl", ".dvc/cache/files/md5/ab/cd", "mlruns/mlflow.db"):
        assert not in_context(name), name


def _kept(dep: str, files: list[str]) -> bool:
    return dep in files or any(name.startswith(f"{dep}/") for name in files)


def test_versions_are_locked() -> None:
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert [line for line in pins if not re.match(r"[\w.\-]+(\[[\w,]+\])?==\S+", line)] == []
    text = (ROOT / "docker/packages.sh").read_text()
    assert text.count("--constraint constraints.txt") == 2
    sample = re.search(r"SAMPLE_BASE := (\S+)", (ROOT / "Makefile").read_text())[1]
    assert DOCKERFILE.count(sample) == 2


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script], capture_output=True, text=True).stderr == ""
    assert os.access(script, os.X_OK)
    if shellcheck := shutil.which("shellcheck"):
        assert subprocess.run([shellcheck, script], capture_output=True, text=True).stdout == ""


def entrypoint(folder: Path, code: str, **environment: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", ROOT / "docker/entrypoint.sh", sys.executable, "-c", code],
        env={"PATH": os.environ["PATH"], "MEDTUNE_SECRETS": str(folder), **{k: str(v) for k, v in environment.items()}},
        capture_output=True,
        text=True,
    )


def test_the_entrypoint_reads_secrets_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("p 'a' $HOME \"ü\"\n")
    other = tmp_path.parent / "certificate"
    other.write_text("x")
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    done = entrypoint(tmp_path, code, PGPASSWORD_FILE=tmp_path / "password", SSL_CERT_FILE=other)
    seen = json.loads(done.stdout)
    assert seen["PGPASSWORD"] == "p 'a' $HOME \"ü\""
    assert "PGPASSWORD_FILE" not in seen
    assert seen["SSL_CERT_FILE"] == str(other)
    assert "SSL_CERT" not in seen
    assert entrypoint(tmp_path, "raise SystemExit(7)").returncode == 7  # the command's own status


@pytest.mark.parametrize(("made", "said"), [(None, "cannot be read"), ("", "is empty")])
def test_the_entrypoint_says_which_secret_is_missing(tmp_path: Path, made: str | None, said: str) -> None:
    if made is not None:
        (tmp_path / "auth").write_text(made)
    done = entrypoint(tmp_path, "print('ran')", PREFECT_API_AUTH_STRING_FILE=tmp_path / "auth")
    assert (done.returncode, done.stdout) == (78, "")
    assert said in done.stderr
    assert "PREFECT_API_AUTH_STRING_FILE" in done.stderr
    assert "docker/secrets.sh" in done.stderr


def test_secrets_are_made_once_for_their_owner_alone(tmp_path: Path) -> None:
    make = ["bash", ROOT / "docker/secrets.sh", tmp_path / "secrets"]
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/s3_access_key").write_text("mine")
    first = subprocess.run(make, capture_output=True, text=True, check=True)
    before = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    again = subprocess.run(make, capture_output=True, text=True, check=True)
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == before
    assert (before.pop("s3_access_key"), again.stdout) == ("mine", "")
    assert len(set(before.values())) == len(before) == 8
    assert [value for value in before.values() if len(value) < 20] == []
    assert {oct((tmp_path / "secrets" / name).stat().st_mode & 0o777) for name in before} == {"0o600"}
    assert [value for value in before.values() if value in first.stdout + first.stderr] == []


def test_secrets_made_twice_at_once_are_the_same(tmp_path: Path) -> None:
    make = ["bash", ROOT / "docker/secrets.sh", tmp_path / "secrets"]
    running = [subprocess.Popen(make, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate()[0].splitlines() for process in running]
    assert {process.returncode for process in running} == {0}
    assert len([line for lines in said for line in lines]) == 9  # each file was made by one of the four
    assert [path.name for path in (tmp_path / "secrets").iterdir() if path.name.startswith(".")] == []
