"""Taking rows back: every place is looked into, every touched version is blocked, the retrain is asked for once."""

import json

import pytest
from registry.retraction import MODEL, OTHER, ROW, THIRD, Project, touched

from medtune.corpus.retracted import RETRACTED, read_retracted
from medtune.params.errors import CorpusError, RegistryError
from medtune.registry.ledger import Ledger
from medtune.registry.retracted_rows import mark_registered
from medtune.registry.row_places import rows_of_version
from medtune.registry.standing import resolve, standings
from medtune.registry.versions import version_path
from tests.registry_checkout import digest


def test_each_side_touches_and_only_the_weights_pass_it_on(project: Project):
    trained = project.register(1, train=[ROW, OTHER], test=[THIRD])
    project.register(2, validation=[ROW])
    judged = project.register(3, test=[ROW], train=[OTHER])
    project.register(4, train=[OTHER])
    child = project.register(5, train=[OTHER], parent=trained)
    project.register(6, train=[OTHER], parent=judged)
    project.register(7, train=[OTHER], parent=child)
    project.register(8, train=[OTHER], base={"id": MODEL, "revision": "5"})  # base.source: mlflow
    done = project.retract(ROW)
    assert touched(done) == {
        1: (("train",), True),
        2: (("validation",), False),
        3: (("test",), False),
        5: ((), True),
        7: ((), True),
        8: ((), True),
    }
    assert done.rows[0].data == [digest(f"data {number}") for number in (1, 2, 3)]
    known = standings(project.ledger, MODEL)
    refused = {item.number for item in known.values() if item.refusal()}
    assert refused == {1, 2, 3, 5, 7, 8}
    assert ROW[:12] in resolve(project.ledger, MODEL, "7").refusal()
    (event,) = project.ledger.events(kinds={"retracted"})
    assert event.version is None
    assert event.body["versions"] == [known[digest(f"version {number}")].version for number in (1, 2, 3, 5, 7, 8)]
    assert (event.body["row_id"], event.body["reason"], event.body["by"]) == (ROW, "consent withdrawn", "kim")
    assert event.actor == "kim"
    text = done.text()
    assert f"medgpt-ko and adapter 101, version 1 ({trained[:12]}): its weights learned from the row: blocked" in text
    assert "it goes on from version 1" in text
    assert "version 4 " not in text


def test_versions_without_rows_are_found_by_their_data_or_named_as_unknown(project: Project):
    project.register(1, train=[ROW], data=digest("same"))
    project.register(2, rows=False, data=digest("same"))
    lost = project.register(3, rows=False)
    changed = project.register(4, train=[ROW])
    path = version_path(project.root, changed) / "rows.json"
    path.write_text(path.read_text().replace(ROW, OTHER))  # somebody hides the row
    done = project.retract(ROW)
    assert touched(done) == {1: (("train",), True), 2: (("train",), True)}
    assert [item.number for item in done.unknown] == [3, 4]
    assert f"unknown: version 3 ({lost[:12]}), version 4" in done.text()
    (event,) = project.ledger.events(kinds={"retracted"})
    assert event.body["unknown"] == [lost, changed]
    assert json.loads(json.dumps(done.record()))["unknown"][0] == {"version": lost, "number": 3}


def test_rows_may_come_from_elsewhere(project: Project):
    """Over HTTP a version's folder is not here."""
    remote = project.register(1, rows=False)
    rows = {remote: {"splits": {"train": [ROW], "validation": [], "test": []}}}
    done = project.retract(ROW, rows_of=lambda standing: rows.get(standing.version))
    assert touched(done) == {1: (("train",), True)}
    assert done.unknown == []


# --- once, and what comes later ---


def test_again_adds_nothing_and_says_so(project: Project):
    project.register(1, train=[ROW, OTHER])
    first = project.retract(ROW, OTHER)
    assert project.kinds() == ["retracted", "retracted", "retrain_requested"]
    assert first.listed == [ROW, OTHER]
    before = (project.root / RETRACTED).read_bytes()
    again = project.retract(OTHER, ROW, ROW, reason="another reason", by="lee")
    assert project.kinds() == ["retracted", "retracted", "retrain_requested"]
    assert (again.listed, again.request, [row.new for row in again.rows]) == ([], None, [False, False])
    assert "all of this was said before; nothing was added" in again.text()
    assert "nothing was added" not in first.text()
    assert (project.root / RETRACTED).read_bytes() == before
    assert project.ledger.verify() == 5


@pytest.mark.parametrize("done", range(4))
def test_a_kill_between_any_two_writes_is_finished_by_the_next_call(project: Project, monkeypatch, done: int):
    """Four writes: the file, an event a row, the request. The call dies before the one after `done`."""
    project.register(1, train=[ROW, OTHER])
    calls, real = [], Ledger.append

    def dying(self, *arguments, **more):
        calls.append(arguments[0])
        if len(calls) > done - 1:
            raise KeyboardInterrupt
        return real(self, *arguments, **more)

    if done == 0:
        monkeypatch.setattr("medtune.registry.retract.add_retracted", dying)
    monkeypatch.setattr(Ledger, "append", dying)
    with pytest.raises(KeyboardInterrupt):
        project.retract(ROW, OTHER)
    monkeypatch.undo()
    monkeypatch.setenv("MEDTUNE_LEDGER_URI", f"sqlite:///{project.root}/ledger.db")
    project.retract(ROW, OTHER)
    assert project.kinds() == ["retracted", "retracted", "retrain_requested"]
    assert list(read_retracted(project.root / RETRACTED)) == [ROW, OTHER]
    (request,) = project.ledger.events(kinds={"retrain_requested"})
    assert request.body["without"] == [ROW, OTHER]


def test_a_version_that_was_in_training_meanwhile_is_marked_when_it_is_registered(project: Project):
    trained = project.register(1, train=[ROW])
    assert mark_registered(project.ledger, MODEL, trained, {"splits": {"train": [ROW]}}) == []  # nothing is retracted
    project.retract(ROW)
    late = project.register(2, validation=[ROW], train=[OTHER])
    child = project.register(3, train=[OTHER], parent=trained)
    clean = project.register(4, train=[OTHER], parent=late)
    read = rows_of_version(project.root)
    for _ in range(2):
        marked = {
            number: mark_registered(project.ledger, MODEL, version, read(standings(project.ledger, MODEL)[version]))
            for number, version in ((2, late), (3, child), (4, clean))
        }
        assert marked == {2: [ROW], 3: [ROW], 4: []}
    assert project.kinds() == ["retracted", "retrain_requested", "retracted", "retracted"]
    refused = {item.number for item in standings(project.ledger, MODEL).values() if item.refusal()}
    assert refused == {1, 2, 3}
    grandchild = project.register(5, parent=child)
    assert mark_registered(project.ledger, MODEL, grandchild, None) == [ROW]  # it learned through its parent's parent
    assert touched(project.retract(ROW)).keys() == {1, 2, 3, 5}


def test_the_retrain_is_pending_until_a_later_version_is_free_of_the_rows(project: Project):
    trained = project.register(1, train=[ROW, OTHER])
    assert project.pending() is None
    project.register(2, train=[OTHER])  # free of it, but registered before: nothing was retrained for the asking
    project.register(3, train=[ROW])
    project.retract(ROW)
    asked = project.pending()
    assert (asked["without"], asked["by"], asked["reason"]) == ([ROW], "kim", "rows were retracted: consent withdrawn")
    child = project.register(4, train=[OTHER], parent=trained)
    mark_registered(project.ledger, MODEL, child, None)
    project.register(5, train=[OTHER], test=[ROW])
    project.register(6, rows=False)
    assert project.pending() == asked
    project.register(7, train=[OTHER])
    assert project.pending() is None
    project.retract(OTHER)
    assert project.pending()["without"] == [OTHER]
    project.register(8, train=[THIRD])
    assert project.pending() is None


def test_no_retrain_is_asked_for_where_it_would_change_nothing(project: Project):
    """The row is in an old version alone: the same data would make the newest version once more."""
    project.register(1, train=[ROW])
    project.register(2, train=[OTHER])
    done = project.retract(ROW)
    assert touched(done) == {1: (("train",), True)}
    assert done.request is None
    assert project.pending() is None


def test_a_version_registered_while_rows_are_looked_for_is_marked_too(project: Project):
    project.register(1, train=[ROW])
    read, late = rows_of_version(project.root), []

    def rows_of(standing):
        if not late:
            late.append(project.register(2, train=[ROW]))
            assert mark_registered(project.ledger, MODEL, late[0], {"splits": {"train": [ROW]}}) == []  # not yet said
        return read(standing)

    done = project.retract(ROW, rows_of=rows_of)
    assert touched(done) == {1: (("train",), True), 2: (("train",), True)}
    assert "retracted since" in resolve(project.ledger, MODEL, "2").refusal()
    assert project.kinds() == ["retracted", "retracted", "retrain_requested"]
    project.retract(ROW)
    assert project.kinds() == ["retracted", "retracted", "retrain_requested"]  # and only once


# --- the champion ---


def test_a_touched_champion_is_told_loudly_with_the_ways_out(project: Project):
    clean, older = project.register(1, train=[OTHER]), project.register(2, train=[ROW])
    now = project.register(3, test=[ROW])
    for version in (clean, older, now):
        project.promote(version)
    done = project.retract(ROW)
    assert (done.champion.number, done.free.number, done.in_use) == (3, 1, [ROW])
    text = done.text()
    assert f"WARNING: THE RUNNING CHAMPION of medgpt-ko, version 3 ({now[:12]}), was made from 1 row of these" in text
    assert f"`medtune rollback` goes back to version 1 ({clean[:12]})" in text  # not to version 2, which has the row
    assert "or retrain" in text
    assert done.record()["champion"] == {"version": now, "number": 3, "rows": [ROW]}
    done = project.retract(OTHER)
    assert done.champion is None
    assert "WARNING" not in done.text()
    assert "has no earlier champion that is free" in project.retract(ROW).text()  # now version 1 is blocked too


def test_nobody_is_sent_back_to_a_version_that_a_person_rejected(project: Project):
    versions = [project.register(1, train=[OTHER]), project.register(2, train=[THIRD]), project.register(3, test=[ROW])]
    for version in versions:
        project.promote(version)
    project.ledger.append("rejected", MODEL, versions[1], {"by": "lee", "reason": "it rambles", "manual": True})
    assert project.retract(ROW).free.number == 1


def test_a_recipe_that_goes_on_from_a_touched_adapter_is_told(project: Project):
    project.register(1, train=[ROW])
    project.register(2, test=[ROW])
    path = project.root / "params.yaml"
    text = path.read_text()
    assert text.count("init: base") == 1
    path.write_text(text.replace("init: base", "init: 101"))
    assert "params.yaml has train.init: 101, and version 1" in project.retract(ROW).text()
    path.write_text(text.replace("init: base", "init: 102"))
    assert "train.init" not in project.retract(ROW).text()  # its weights know nothing of the row


# --- ids ---


def test_ids_may_be_beginnings_of_one_row(project: Project):
    alike = ROW[:20] + "0" * 44
    project.register(1, train=[ROW, alike, OTHER])
    assert project.retract(OTHER[:8].upper()).rows[0].row_id == OTHER
    with pytest.raises(RegistryError, match=f"{ROW[:10]} begins the ids of 2 rows"):
        project.retract(ROW[:10])
    with pytest.raises(RegistryError, match="or at least the first 8"):
        project.retract(ROW[:7])
    with pytest.raises(RegistryError, match="no row id begins with 00000000; looked in 1 of 1 registered versions"):
        project.retract("00000000")
    assert project.retract(ROW[:21]).rows[0].row_id == ROW
    assert project.kinds().count("retracted") == 2


def test_an_id_that_is_nowhere_is_refused_and_nothing_is_written(project: Project):
    project.register(1, train=[ROW])
    project.register(2, rows=False)
    with pytest.raises(RegistryError) as raised:
        project.retract(ROW, OTHER)
    assert f"row {OTHER} is nowhere; looked in 1 of 2 registered versions (the rows of version 2" in str(raised.value)
    assert "--even-unknown" in str(raised.value)
    assert project.kinds() == []
    assert not (project.root / RETRACTED).exists()
    done = project.retract(OTHER, even_unknown=True)
    assert project.kinds() == ["retracted"]  # a row that came in nowhere needs no retrain
    assert list(read_retracted(project.root / RETRACTED)) == [OTHER]
    assert "no registered version is known" in done.text()
    assert project.retract(OTHER[:8]).rows[0].new is False  # known by now


@pytest.mark.parametrize(("reason", "by"), [(" ", "kim"), ("why", "")])
def test_a_retraction_says_why_and_who(project: Project, reason: str, by: str):
    project.register(1, train=[ROW])
    with pytest.raises(RegistryError, match="says why and who"):
        project.retract(ROW, reason=reason, by=by)
    with pytest.raises(RegistryError, match="no row id was given"):
        project.retract()


def test_a_broken_list_is_not_written_over(project: Project):
    project.register(1, train=[ROW])
    (project.root / "data").mkdir()
    (project.root / RETRACTED).write_text("<<<<<<< HEAD\n")
    with pytest.raises(CorpusError, match=r"retracted.jsonl, line 1"):
        project.retract(ROW)
    assert project.kinds() == []


# --- the checkout ---
