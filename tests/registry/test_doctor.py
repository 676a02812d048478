"""`medtune doctor`: each trouble is made for real, found, mended where that is safe, and not found a second time."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from registry_checkout import ROOT, Checkout

from medtune.params.recipe import load_recipe
from medtune.registry import tags
from medtune.registry.champion import champion_dir
from medtune.registry.doctor import Report, doctor
from medtune.registry.ledger import open_ledger
from medtune.registry.promotion import promote, reject
from medtune.registry.standing import champion
from medtune.registry.versions import version_path
from medtune.tracking.store import connect, open_store
from stages.register import main

MODEL, ADAPTER = "medgpt-ko", "medgpt-ko-adapter"
LATER = 7200  # seconds: older than what may be a registration that runs


def run(root: Path, repair: bool = True, deep: bool = False) -> Report:
    report = doctor(root, load_recipe(root / "params.yaml"), repair, deep, lambda line: None)
    json.dumps(report.record())
    return report


def codes(report: Report) -> tuple[list[str], list[str], list[str]]:
    """(repaired, left, warnings)"""
    return (
        [item.code for item, _ in report.repaired],
        [item.code for item in report.left],
        [item.code for item in report.warnings],
    )


def client_of(root: Path) -> Any:
    return connect(open_store(root))


def aliases(root: Path) -> dict[str, dict[str, int]]:
    client = client_of(root)
    return {
        name: {key: int(number) for key, number in client.get_registered_model(name).aliases.items()}
        for name in (MODEL, ADAPTER)
    }


def kinds(root: Path) -> list[str]:
    return [event.event for event in open_ledger(root).events()]


def database(root: Path) -> closing:
    return closing(sqlite3.connect(root / "mlruns/mlflow.db", isolation_level=None))


def age(path: Path) -> None:
    """As if nothing below had changed for two hours."""
    then = time.time() - LATER
    for name in (*path.rglob("*"), path):
        os.utime(name, (then, then))


class Killed(BaseException):
    pass


class Dying:
    """A real client that dies before its `at`-th creation of a model version (from 0)."""

    def __init__(self, client: Any, at: int) -> None:
        self.client, self.at = client, at

    def __getattr__(self, name: str) -> Any:
        if name == "create_model_version":
            self.at -= 1
            if self.at < 0:
                raise Killed
        return getattr(self.client, name)


@pytest.fixture
def two(checkout: Checkout) -> Checkout:
    """Version 1 was champion, version 2 is; and doctor has been here."""
    checkout.versions = [checkout.candidate("a", nll=2.0)]
    main(checkout.root)
    checkout.versions.append(checkout.candidate("b", nll=1.7))
    main(checkout.root)
    repaired, left, _ = codes(run(checkout.root))
    assert left == []
    assert set(repaired) <= {"moved_checkout"}  # the test's database was made in another folder
    return checkout


def test_a_sound_registry_is_left_alone(two: Checkout) -> None:
    before = kinds(two.root), aliases(two.root)
    assert aliases(two.root)[MODEL] == {"champion": 2, "challenger": 2}
    for report in (run(two.root), run(two.root, deep=True), run(two.root, repair=False)):
        assert codes(report) == ([], [], [])
        assert report.sound
        assert "the registry is sound" in report.text()
    assert (kinds(two.root), aliases(two.root)) == before


def test_before_anything_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    assert codes(run(tmp_path)) == ([], [], [])
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]  # looking makes nothing


def test_moved_aliases_are_put_back_and_written_down(two: Checkout) -> None:
    client = client_of(two.root)
    client.set_registered_model_alias(MODEL, "champion", "1")
    client.delete_registered_model_alias(ADAPTER, "challenger")
    client.set_registered_model_alias(MODEL, "mine", "1")
    checked = run(two.root, repair=False)
    assert codes(checked) == ([], ["alias_drift", "alias_drift"], [])
    assert checked.record()["left"][0]["repairable"]
    assert aliases(two.root)[MODEL]["champion"] == 1  # --check changes nothing
    assert "alias_drift" not in kinds(two.root)

    report = run(two.root)
    assert codes(report) == (["alias_drift", "alias_drift"], [], [])
    assert aliases(two.root) == {
        MODEL: {"champion": 2, "challenger": 2, "mine": 1},  # a user's own alias is theirs
        ADAPTER: {"champion": 2, "challenger": 2},
    }
    bodies = [event.body for event in open_ledger(two.root).events(kinds={"alias_drift"})]
    assert {"alias": "champion", "model": MODEL, "found": 1, "should": 2} in bodies
    assert {"alias": "challenger", "model": ADAPTER, "found": None, "should": 2} in bodies
    assert len(bodies) == 2
    assert codes(run(two.root)) == ([], [], [])
    assert kinds(two.root).count("alias_drift") == 2


def test_edited_tags_are_put_back(two: Checkout) -> None:
    client = client_of(two.root)
    client.set_model_version_tag(MODEL, "1", tags.STATUS, "rejected")
    client.delete_model_version_tag(ADAPTER, "2", tags.VERSION)
    client.set_model_version_tag(MODEL, "2", tags.MANIFEST, "0" * 64)
    client.set_model_version_tag(MODEL, "2", tags.REASONS, "no JSON")
    client.set_model_version_tag(MODEL, "2", "mine", "stays")
    report = run(two.root)
    assert codes(report) == (["tag_drift"] * 3, [], [])
    first = client.get_model_version(MODEL, "1")
    second = client.get_model_version(MODEL, "2")
    assert first.tags[tags.STATUS] == "approved"
    assert client.get_model_version(ADAPTER, "2").tags[tags.VERSION] == two.versions[1]
    assert isinstance(json.loads(second.tags[tags.REASONS]), list)
    assert (second.tags[tags.MANIFEST] == "0" * 64, second.tags["mine"]) == (False, "stays")
    assert codes(run(two.root)) == ([], [], [])


def test_a_word_said_while_mlflow_was_away_reaches_its_pages(two: Checkout) -> None:
    """reject and promote --override write the ledger first; MLflow's tags follow with doctor."""
    ledger = open_ledger(two.root)
    reject(ledger, MODEL, "1", "Kim", "wrong dose")
    promote(ledger, MODEL, "1", "Lee", "only one that runs", override=True)
    repaired, left, _ = codes(run(two.root))
    assert (set(repaired), left) == ({"tag_drift", "alias_drift"}, [])
    kept = client_of(two.root).get_model_version(MODEL, "1").tags
    assert kept[tags.STATUS] == "rejected"
    assert kept[tags.OVERRIDE] == "Lee: only one that runs"
    assert "wrong dose" in kept[tags.REASONS]
    assert json.loads(kept[tags.FINDINGS])  # the gate's findings are still to be read
    assert aliases(two.root)[MODEL]["champion"] == 1
    assert codes(run(two.root)) == ([], [], [])


@pytest.mark.parametrize("half", [MODEL, ADAPTER])
def test_a_deleted_champion_gives_way_to_the_one_before(two: Checkout, half: str) -> None:
    client_of(two.root).delete_model_version(half, "2")
    report = run(two.root)
    repaired, left, _ = codes(report)
    assert repaired[0] == "champion_deleted"
    assert left == ["version_deleted"]  # version 2 is approved and cannot be used: a person decides
    sentence = report.repaired[0][0].sentence
    assert f"{half} version 2" in sentence
    assert "its files are in mlruns/artifacts/versions/" in report.repaired[0][1]
    event = champion(open_ledger(two.root), MODEL)
    assert (event.event, event.version, event.actor) == ("restored", two.versions[0], "doctor")
    assert (event.body["from"], event.body["number"], event.body["by"]) == (two.versions[1], 1, "doctor")
    assert aliases(two.root)[MODEL]["champion"] == 1
    assert aliases(two.root)[ADAPTER]["champion"] == 1
    recipe = load_recipe(two.root / "params.yaml")
    assert champion_dir(two.root, recipe) == version_path(two.root, two.versions[0]) / "merged"
    again = run(two.root)
    assert codes(again) == ([], ["version_deleted"], [])
    assert kinds(two.root).count("restored") == 1
    # the way back that the report names: register it anew
    main(two.root)
    after = run(two.root)
    assert after.sound, after.text()
    assert champion(open_ledger(two.root), MODEL).version == two.versions[0]


def test_a_deleted_champion_without_an_heir(two: Checkout) -> None:
    root = two.root
    victim = version_path(root, two.versions[0]) / "merged/model.safetensors"
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.unlink()
    victim.write_bytes(content)  # the one before is damaged: nobody may put it in use
    client_of(root).delete_model_version(MODEL, "2")
    report = run(root)
    assert report.repaired == []
    assert report.left[0].code == "champion_deleted"
    assert "model.safetensors is not the file that was registered" in report.left[0].sentence
    assert "restored" not in kinds(root)
    main(root)  # as the mend says: candidate b lies here
    assert "champion_deleted" not in codes(run(root))[1]
    assert aliases(root)[MODEL]["champion"] == 3
    assert champion(open_ledger(root), MODEL).version == two.versions[1]


def test_a_registered_model_deleted_whole(two: Checkout) -> None:
    client_of(two.root).delete_registered_model(MODEL)
    report = run(two.root)
    assert report.repaired == []
    assert codes(report)[1] == ["champion_deleted", "version_deleted"]
    main(two.root)  # makes the model anew, where version 2's number is 1 now
    report = run(two.root)
    assert codes(report)[1] == ["version_deleted"], report.text()
    assert aliases(two.root)[MODEL]["champion"] == 1
    assert client_of(two.root).get_model_version(MODEL, "1").tags[tags.VERSION] == two.versions[1]


def test_an_edited_ledger_row_stops_repairs(two: Checkout) -> None:
    with database(two.root) as connection:
        triggers = connection.execute("SELECT name FROM sqlite_master WHERE type='trigger' AND name LIKE 'medtune%'")
        for (name,) in triggers.fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        crowned = connection.execute("SELECT max(seq) FROM medtune_ledger WHERE event = 'promoted'").fetchone()[0]
        connection.execute("UPDATE medtune_ledger SET version = ? WHERE seq = ?", (two.versions[0], crowned))
    before = aliases(two.root), kinds(two.root)
    report = run(two.root)
    assert report.repaired == []
    assert report.left[0].code == "ledger_broken"
    assert f"ledger row {crowned} (promoted" in report.left[0].sentence
    assert "backup" in report.left[0].mend
    assert (aliases(two.root), kinds(two.root)) == before  # nothing follows a ledger that was tampered with


def test_a_ledger_cut_off_or_gone(two: Checkout) -> None:
    with database(two.root) as connection:
        connection.execute("DROP TRIGGER medtune_ledger_no_DELETE")
        last = connection.execute("SELECT max(seq) FROM medtune_ledger").fetchone()[0]
        connection.execute("DELETE FROM medtune_ledger WHERE seq = ?", (last,))
    report = run(two.root)
    assert report.left[0].code == "ledger_broken"
    assert f"has seen ledger row {last}" in report.left[0].sentence
    with database(two.root) as connection:
        connection.execute("DROP TABLE medtune_ledger")
    report = run(two.root)
    assert report.repaired == []
    assert "the ledger is gone" in report.left[0].sentence


def test_a_registry_from_before_the_ledger(two: Checkout) -> None:
    with database(two.root) as connection:
        connection.execute("DROP TABLE medtune_ledger")
    (two.root / "mlruns/ledger.head").unlink()
    report = run(two.root)
    assert report.repaired == []
    assert codes(report)[1] + codes(report)[2] == ["half_registered"] * 4
    assert "takes it into the ledger" in report.text()
    assert len(client_of(two.root).search_model_versions(f"name='{MODEL}'")) == 2
    main(two.root)
    assert run(two.root).sound
    assert champion(open_ledger(two.root), MODEL).version == two.versions[1]


def test_half_registrations(two: Checkout) -> None:
    two.candidate("c", nll=1.5)
    with pytest.raises(Killed):
        main(two.root, Dying(client_of(two.root), at=1))  # the adapter is in, the merged model is not
    report = run(two.root)
    assert "`dvc repro -f -s register` completes it" in report.warnings[0].mend
    main(two.root)
    assert codes(run(two.root)) == ([], [], [])

    two.candidate("d", nll=1.4)
    with pytest.raises(Killed):
        main(two.root, Dying(client_of(two.root), at=1))
    two.candidate("c", nll=1.5)  # d is not the candidate that lies here any more
    young = run(two.root)
    assert (young.repaired, [item.code for item in young.warnings]) == ([], ["half_registered"])
    with database(two.root) as connection:
        connection.execute(
            "UPDATE model_versions SET creation_time = creation_time - ? WHERE name = ? AND version = 4",
            (LATER * 1000, ADAPTER),
        )
    client_of(two.root).set_registered_model_alias(ADAPTER, "mine", "4")
    assert "remove its alias mine" in run(two.root).left[0].mend  # somebody uses it
    client_of(two.root).delete_registered_model_alias(ADAPTER, "mine")
    report = run(two.root)
    assert codes(report) == (["half_registered"], [], [])
    assert f"{ADAPTER} version 4 is deleted" in report.repaired[0][1]
    assert codes(run(two.root)) == ([], [], [])


def test_damaged_files(two: Checkout) -> None:
    merged = version_path(two.root, two.versions[1]) / "merged"
    weights = merged / "model.safetensors"
    sound = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    assert run(two.root).sound  # the size is right: only --deep reads
    told = []
    report = doctor(two.root, load_recipe(two.root / "params.yaml"), True, True, told.append)
    assert codes(report) == ([], ["files_damaged"], [])
    assert "the champion, version 2" in report.left[0].sentence
    assert "model.safetensors is not the file that was registered" in report.left[0].sentence
    assert "medtune rollback" in report.left[0].mend
    assert len([line for line in told if line.startswith("reading version")]) == 2
    weights.write_bytes(sound[:-1])
    assert "another size" in run(two.root).left[0].sentence
    weights.write_bytes(sound)
    (merged / "extra.json").write_text("{}")
    assert "does not belong" in run(two.root).left[0].sentence
    (merged / "extra.json").unlink()
    assert run(two.root, deep=True).sound
    shutil.rmtree(version_path(two.root, two.versions[0]))
    report = run(two.root)
    assert codes(report)[1] == ["files_damaged"]
    assert "medtune retire 1" in report.left[0].mend


def test_leftovers_go_and_strangers_stay(two: Checkout) -> None:
    place = two.root / "mlruns/artifacts/versions"
    stale, fresh, stranger = place / f".{'a' * 64}.making", place / f".{'b' * 64}.making", place / ("c" * 64)
    for folder in (stale, fresh, stranger):
        (folder / "merged").mkdir(parents=True)
        (folder / "merged/model.safetensors").write_bytes(b"half" * 1000)
    age(stale)
    age(stranger)
    report = run(two.root)
    assert codes(report) == (["leftover"], [], ["unregistered_folder"])
    assert (stale.exists(), fresh.exists(), stranger.exists()) == (False, True, True)
    assert report.sound
    assert codes(run(two.root)) == ([], [], ["unregistered_folder"])


def test_little_room_is_a_warning(two: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 10, 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    report = run(two.root)
    assert (codes(report), report.sound) == (([], [], ["disk_space"]), True)


def stored(root: Path) -> str:
    """Every path that MLflow keeps."""
    with database(root) as connection:
        return "\n".join(
            str(row[0])
            for query in (
                "SELECT artifact_location FROM experiments",
                "SELECT artifact_uri FROM runs",
                "SELECT source FROM model_versions",
                "SELECT storage_location FROM model_versions",
            )
            for row in connection.execute(query)
        )


def loads(root: Path) -> None:
    """By raw MLflow and by ours, and the run's artifacts too."""
    import mlflow

    uri = open_store(root)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    folder = Path(mlflow.artifacts.download_artifacts("models:/medgpt-ko@champion"))
    assert root in folder.parents
    pipe = mlflow.transformers.load_model("models:/medgpt-ko@champion")
    assert pipe.model.num_parameters() > 0
    mlflow.set_tracking_uri(None)  # it is kept in the environment too, for the tests that come after
    mlflow.set_registry_uri("")
    assert champion_dir(root, load_recipe(root / "params.yaml")).is_dir()
    client = connect(uri)
    version = client.get_model_version_by_alias(MODEL, "champion")
    assert (Path(client.download_artifacts(version.run_id, "reports/evaluate.json"))).read_text()


def test_a_moved_checkout(two: Checkout, tmp_path: Path) -> None:
    old, new = two.root, tmp_path / "새 집 100%"
    shutil.move(old, new)
    before = stored(new)
    assert str(old) in before
    with pytest.raises(Exception, match="No such artifact"):
        loads(new)
    checked = run(new, repair=False)
    assert codes(checked) == ([], ["moved_checkout"], [])
    assert stored(new) == before
    report = run(new)
    assert codes(report) == (["moved_checkout"], [], [])
    assert str(old) in report.repaired[0][0].sentence
    assert str(old) not in stored(new)
    loads(new)
    kept = max((new / "mlruns").glob("mlflow.db.before-rebase-*"))
    assert str(kept) in report.repaired[0][1]
    with closing(sqlite3.connect(kept)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert str(old) in connection.execute("SELECT source FROM model_versions").fetchone()[0]
    assert codes(run(new)) == ([], [], [])
    main(new)  # and goes on as before
    assert codes(run(new, deep=True)) == ([], [], [])


def test_a_copied_checkout_lets_go_of_the_original(two: Checkout, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(two.root, copy)
    run_folder = next((copy / "mlruns/artifacts/runs/medtune").iterdir())
    shutil.rmtree(run_folder)  # not copied
    before = stored(two.root)
    report = run(copy)
    assert codes(report) == (["moved_checkout"], ["left_behind"], [])
    assert "lies beside it still" in report.repaired[0][0].sentence
    assert run_folder.name in report.left[0].sentence
    assert stored(two.root) == before
    assert codes(run(two.root)) == ([], [], [])
    shutil.copytree(two.root / run_folder.relative_to(copy), run_folder)  # as the mend says
    assert codes(run(copy)) == (["moved_checkout"], [], [])
    assert f"{two.root}/" not in stored(copy)
    loads(copy)


def test_places_that_somebody_chose_stay(two: Checkout, tmp_path: Path) -> None:
    elsewhere = tmp_path / "nas/mlruns/artifacts/mine"
    client_of(two.root).create_experiment("mine", elsewhere.as_uri())
    client_of(two.root).create_experiment("bucket", "s3://bucket/mlruns/artifacts/x")
    assert codes(run(two.root)) == ([], [], [])
    assert elsewhere.as_uri() in stored(two.root)


def test_rebasing_is_all_or_nothing(two: Checkout, tmp_path: Path) -> None:
    new = tmp_path / "moved"
    shutil.move(two.root, new)
    before = stored(new)
    with database(new) as connection:  # the last table to be written refuses
        connection.execute(
            "CREATE TRIGGER refuse BEFORE UPDATE ON model_versions BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
    report = run(new)
    assert "the repair failed: " in report.left[0].sentence
    assert "refused" in report.left[0].sentence
    assert stored(new) == before
    with database(new) as connection:
        connection.execute("DROP TRIGGER refuse")
    assert codes(run(new)) == (["moved_checkout"], [], [])


LOCK = """schema: '2.0'
stages:
  train:
    cmd: python -m stages.train
    deps:
    - path: data/tokens
      hash: md5
      md5: 2c1743a391305fbf367df8e4f069f9f9.dir
      size: 6
      nfiles: 2
    outs:
    - path: data/adapter
      hash: md5
      md5: 2c1743a391305fbf367df8e4f069f9f9
      size: 6
"""


def test_a_truncated_lock_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    path = tmp_path / "dvc.lock"
    path.write_text(LOCK)
    assert codes(run(tmp_path)) == ([], [], [])
    for end in range(len(LOCK)):
        path.write_text(LOCK[:end])
        # a cut between two entries leaves a whole, shorter file: stages that are missing run again, which is no harm
        whole = LOCK[:end].endswith(("nfiles: 2\n", "stages.train\n"))
        assert codes(run(tmp_path))[1] == ([] if whole else ["dvc_lock"]), LOCK[:end][-60:]
    path.write_bytes(b"\xff\xfe" + LOCK.encode()[:50])
    report = run(tmp_path)
    assert codes(report)[1] == ["dvc_lock"]
    assert "git checkout dvc.lock" in report.left[0].mend


def test_a_corrupted_cache_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    command = "mkdir -p out && echo one > out/a && echo two > out/b && echo three > c"
    (tmp_path / "dvc.yaml").write_text(f"stages:\n  make:\n    cmd: {command}\n    outs: [out, c]\n")
    for arguments in (["init", "--no-scm", "-q"], ["repro", "-q"]):
        subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=tmp_path, check=True)
    assert codes(run(tmp_path, deep=True)) == ([], [], [])
    for name, out in ((b"two\n", "out/b"), (b"three\n", "c")):
        victim = next(p for p in (tmp_path / ".dvc/cache/files").rglob("*") if p.is_file() and p.read_bytes() == name)
        victim.chmod(0o644)
        victim.write_bytes(b"other\n")
        assert codes(run(tmp_path)) == ([], [], [])  # quick reads no object
        report = run(tmp_path, deep=True)
        assert codes(report)[1] == ["cache_object"]
        assert f"{victim} in DVC's cache is damaged" in report.left[0].sentence
        assert out in report.left[0].sentence
        victim.write_bytes(name)


def test_a_claim_without_a_version(two: Checkout) -> None:
    (two.root / "dvc.lock").write_text("schema: '2.0'\nstages:\n  register:\n    cmd: x\n")
    assert codes(run(two.root)) == ([], [], [])
    report = json.loads((two.root / "reports/register.json").read_text())
    (two.root / "reports/register.json").write_text(json.dumps({**report, "version": "f" * 64}))
    left = run(two.root).left
    assert [item.code for item in left] == ["lost"]
    assert "ffffffffffff" in left[0].sentence


def test_a_server_that_is_away_proves_nothing(two: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every version looks deleted when MLflow does not answer: nobody is restored, nothing is written."""
    monkeypatch.setenv("MEDTUNE_LEDGER_URI", f"sqlite:///{two.root}/mlruns/mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    before = kinds(two.root)
    start = time.monotonic()
    report = run(two.root)
    assert time.monotonic() - start < 30
    assert "mlflow_unreachable" in codes(report)[1]
    assert report.repaired == []
    assert "secret" not in report.text()
    assert kinds(two.root) == before


def test_a_check_that_breaks_does_not_silence_the_others(two: Checkout) -> None:
    client_of(two.root).set_registered_model_alias(MODEL, "champion", "1")
    with database(two.root) as connection:
        connection.execute("ALTER TABLE experiments RENAME COLUMN artifact_location TO elsewhere")
    report = run(two.root)
    assert "not_checked" in codes(report)[1]
    assert "paths could not be looked at: OperationalError" in report.left[0].sentence
    assert "alias_drift" in codes(report)[0]


@pytest.fixture
def command(two: Checkout) -> Callable[..., subprocess.CompletedProcess]:
    """The command as cron runs it: no terminal, stdin closed."""

    def start(*arguments: str) -> subprocess.CompletedProcess:
        code = "import typer; from medtune.commands.doctor import doctor; typer.run(doctor)"
        return subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=two.root, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    return start


def test_command(two: Checkout, command: Callable[..., subprocess.CompletedProcess]) -> None:
    client_of(two.root).set_registered_model_alias(MODEL, "champion", "1")
    checked = command("--check", "--json")
    assert checked.returncode == 1, checked.stderr
    assert json.loads(checked.stdout)["left"][0]["code"] == "alias_drift"
    done = command()
    assert done.returncode == 0, done.stderr
    assert "repaired  medgpt-ko: MLflow's alias champion points to version 1, the ledger says version 2" in done.stdout
    deep = command("--deep", "--json")
    assert deep.returncode == 0
    assert json.loads(deep.stdout)["sound"]
    assert "reading version 2" in deep.stderr
