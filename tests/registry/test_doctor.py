"""`medtune doctor`: each trouble is made for real, found, mended where that is safe, and not found a second time."""

import json
import shutil
from pathlib import Path

import pytest
from registry.doctored import ADAPTER, LATER, MODEL, Dying, Killed, age, aliases, client_of, codes, database, kinds, run
from registry_checkout import ROOT, Checkout

from medtune.params.recipe import load_recipe
from medtune.registry import tags
from medtune.registry.champion import champion_dir
from medtune.registry.doctor import doctor
from medtune.registry.ledger import open_ledger
from medtune.registry.promotion import promote, reject
from medtune.registry.standing import champion
from medtune.registry.versions import version_path
from stages.register import main


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
