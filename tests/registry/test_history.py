"""`medtune history`: a line an event, and who was champion at a moment."""

import hashlib
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from registry.told_ledger import MODEL, digest, life, promoted, registered, version_of
from registry_checkout import Checkout

from medtune.params.errors import RegistryError
from medtune.registry.data_claims import claim, finish, holder, release
from medtune.registry.history import history, local, render
from medtune.registry.history_at import Moment, champion_at, parse_moment, reigns
from medtune.registry.history_at import render as render_at
from medtune.registry.ledger import read_ledger
from medtune.registry.lineage import lineage
from medtune.registry.lineage import render as lineage_text
from medtune.registry.standing import champion
from medtune.tracking.holder import read_holder
from stages.register import main


@pytest.fixture
def seoul(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Seoul")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_one_line_an_event_newest_last(checkout: Checkout, seoul: None) -> None:
    ledger, made = life(checkout.root)
    events = history(ledger, MODEL)
    assert json.loads(json.dumps(events)) == events
    assert [event["seq"] for event in events] == list(range(1, 14))
    lines = render(MODEL, events).splitlines()
    assert len(lines) == len(events)
    assert lines[0].startswith(local(made["registered a"].at))
    assert " KST  " in lines[0]
    assert made["registered a"].at.endswith("+00:00")
    assert events[0]["at"] == made["registered a"].at
    assert f"1 ({version_of('a')[:12]})" in lines[0]
    assert f"data {digest('data')[:12]}" in lines[0]
    assert "champion, the first, by policy auto" in lines[2]
    assert "not_worse: nll_per_char is worse" in lines[4]  # what stood in the way, and not what did not block
    assert "speed" not in lines[4]
    assert "champion again, in place of version 2" in lines[7]
    assert lines[7].endswith("by Lee: it rambles")
    assert lines[10].endswith("by a person, by Park: read 50 answers")


def test_what_became_of_a_data_version(checkout: Checkout) -> None:
    """By the process, the digest and the outcome; and a line of it is none about who decided."""
    ledger, _ = life(checkout.root)
    data, who = digest("rows"), holder(checkout.root, flow_run="f" * 32)
    claim(ledger, MODEL, data, who, "60 new rows", forced=True)
    release(ledger, MODEL, data, who, "process 7 on gpu1 is gone")
    claim(ledger, MODEL, data, who, "once more")
    release(ledger, MODEL, data, who, "the run was stopped", own=True)
    claim(ledger, MODEL, data, who, "and again")
    finish(ledger, MODEL, data, "rejected", version_of("c"))
    finish(ledger, MODEL, digest("other"), "failed", reason="train: no room")
    events = history(ledger, MODEL, limit=7)
    process = read_holder(who).words
    assert [item["said"].removeprefix(f"data version {data[:12]}") for item in events[:6]] == [
        f" for {process}, although its rows have drifted",
        " taken from a run that is dead",
        f" for {process}",
        " given back",
        f" for {process}",
        ": rejected",
    ]
    lines = render(MODEL, events).splitlines()
    assert f"  data_claimed   data version {data[:12]} for {process}" in lines[2]
    assert lines[2].endswith(f"by {events[2]['actor']}: once more")
    assert lines[6].endswith(f"data version {digest('other')[:12]}: failed, by {events[6]['actor']}: train: no room")
    assert "medtune.pid" not in "\n".join(lines)
    assert [item["by"] for item in events] == [None] * 7
    told = lineage_text(lineage(checkout.root, ledger, MODEL, version_of("c")))
    assert "data done" not in told
    assert "data_done" not in told


def test_what_people_wrote_stays_on_its_line(checkout: Checkout) -> None:
    text = render(MODEL, history(life(checkout.root)[0], MODEL))
    assert "the demo needs it [31mnow" in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_an_override_shows_for_ever(checkout: Checkout) -> None:
    events = history(life(checkout.root)[0], MODEL)
    own = {event["seq"] for event in events if event["version"] == version_of("b")}
    assert {event["seq"] for event in events if event["override"]} == own
    lines = {event["seq"]: line for event, line in zip(events, render(MODEL, events).splitlines(), strict=True)}
    assert all("OVERRIDE" in lines[seq] for seq in own)  # of its registration too, which came before
    assert "in place of version 2" in lines[8]
    assert "OVERRIDE" in lines[8]
    assert "OVERRIDE" not in lines[1]


def test_of_one_version_and_the_newest(checkout: Checkout) -> None:
    ledger, _ = life(checkout.root)
    kinds = [event["event"] for event in history(ledger, MODEL, version="1")]
    # b took its place, c took its place, a row of it was retracted
    assert kinds == ["registered", "approved", "promoted", "promoted", "rolled_back", "promoted", "retracted"]
    assert kinds == [event["event"] for event in history(ledger, MODEL, version=version_of("a")[:8])]
    assert [event["seq"] for event in history(ledger, MODEL, limit=2)] == [12, 13]
    with pytest.raises(RegistryError, match=r"no version '9'.*the newest are 1 "):
        history(ledger, MODEL, version="9")


def test_before_anything_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert "nothing has happened yet" in render(MODEL, history(read_ledger(tmp_path), MODEL))
    told = champion_at(None, tmp_path, MODEL, parse_moment("2020-01-01"))
    assert "there was no champion" in render_at(told)
    assert list(tmp_path.iterdir()) == []


def test_reigns_are_what_standing_says(checkout: Checkout) -> None:
    ledger, made = life(checkout.root)
    assert [reign.begun.version for reign in reigns(ledger, MODEL)] == [version_of(name) for name in "abac"]
    for event in ledger.events(MODEL):  # at every moment of the ledger both tell of the same champion
        told, by_standing = (
            champion_at(ledger, checkout.root, MODEL, Moment(event.at)),
            champion(ledger, MODEL, event.at),
        )
        assert (told["champion"] or {}).get("version") == (by_standing.version if by_standing else None)
    ledger.append("retired", MODEL, version_of("c"), {"by": "Lee", "reason": "old", "was_champion": True})
    now = champion_at(ledger, checkout.root, MODEL, parse_moment("2999-01-01"))
    assert now["champion"] is None
    assert now["before"]["number"] == 3
    assert made["promoted c"].at == now["before"]["since"]


def test_an_alias_set_back_begins_no_reign(checkout: Checkout) -> None:
    ledger, made = life(checkout.root)
    ledger.append("restored", MODEL, version_of("c"), {"number": 3, "by": "doctor", "reason": "the alias was moved"})
    assert len(reigns(ledger, MODEL)) == 4
    assert champion_at(ledger, checkout.root, MODEL, parse_moment("2999-01-01"))["champion"]["since"] == (
        made["promoted c"].at
    )


def test_who_was_champion_by_whose_approval(checkout: Checkout) -> None:
    ledger, made = life(checkout.root)

    def at(name: str) -> dict:
        told = champion_at(ledger, checkout.root, MODEL, parse_moment(made[name].at))
        assert json.loads(json.dumps(told)) == told
        return told

    assert at("registered a")["champion"] is None
    assert at("registered a")["after"]["number"] == 1
    first = at("promoted a")
    assert first["champion"]["number"] == 1
    assert first["champion"]["since"] == made["promoted a"].at
    assert first["champion"]["until"] == made["promoted b"].at
    assert first["champion"]["approved"]["how"] == "gate"
    assert first["champion"]["approved"]["gate"]["key"] == digest("key a")
    assert first["before"] is None
    assert first["after"]["number"] == 2
    evidence = first["champion"]["evidence"]
    assert (evidence["test"], evidence["evaluation"]) == (digest("test"), digest("evaluation a"))
    assert evidence["run_id"] == digest("a")[:32]
    assert [item["name"] for item in evidence["findings"]] == ["not_worse"]  # speed decided nothing
    assert first["champion"]["rows"]["data"] == digest("data")

    text = render_at(at("promoted b"))
    assert "version 2" in text
    assert "OVERRIDE: promoted over a refusal (it was judged rejected)" in text
    assert "rejected by the gate" in text
    assert "by hand by Kim" in text
    back = at("rolled back")
    assert back["champion"]["number"] == 1
    assert back["champion"]["by"] == "by Lee"
    assert back["champion"]["approved"] == first["champion"]["approved"]  # it came back on its own approval
    assert back["before"]["number"] == 2
    assert back["before"]["override"]
    person = at("promoted c")["champion"]["approved"]
    assert person["how"] == "person"
    assert person["gate"]["outcome"] == "approved"
    assert person["people"][0]["who"] == "by Park"
    assert person["people"][0]["reason"] == "read 50 answers"
    shown = render_at(at("promoted c"))
    assert "not_worse: -0.0123 [-0.02, -0.004], worse by less than 0.02" in shown
    assert f"test set {digest('test')[:12]}" in shown
    assert f"run {digest('c')[:32]}" in shown


def test_what_was_decided_later_does_not_count(checkout: Checkout) -> None:
    ledger, made = life(checkout.root)
    ledger.append("rejected", MODEL, version_of("c"), {"by": "Lee", "reason": "no", "manual": True}, "Lee")
    later = champion_at(ledger, checkout.root, MODEL, parse_moment(made["promoted c"].at))
    assert later["champion"]["evidence"]["decision"] == "approved"
    now = champion_at(ledger, checkout.root, MODEL, parse_moment("2999-01-01"))
    assert now["champion"]["approved"]["gate"]["outcome"] == "approved"  # nor does a word against it undo the approval


NOW = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)  # 12:00 in Seoul


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-11-01", "2026-11-01T14:59:59.999999+00:00"),  # the end of that day in Seoul
        ("2026-11-01T18:30", "2026-11-01T09:30:00.000000+00:00"),
        ("2026-11-01 18:30:05", "2026-11-01T09:30:05.000000+00:00"),
        ("2026-11-01T18:30+09:00", "2026-11-01T09:30:00.000000+00:00"),
        ("2026-11-01 18:30 +0000", "2026-11-01T18:30:00.000000+00:00"),
        ("2026-11-01T18:30:00.5z", "2026-11-01T18:30:00.500000+00:00"),
    ],
)
def test_moments(text: str, at: str, seoul: None) -> None:
    assert parse_moment(text, NOW) == Moment(at)


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-13-01", "2026-02-30", "01.11.2026", "20261101", "2026-11-01T25:00", "2026-11", "１"]
)
def test_what_is_no_moment_names_the_forms(text: str) -> None:
    with pytest.raises(RegistryError, match=r"is no moment; write a day \(2026-11-01.*2026-11-01T18:30\+09:00"):
        parse_moment(text, NOW)


def test_what_lies_ahead_is_answered_as_now(seoul: None) -> None:
    assert parse_moment("2026-11-23", NOW) == Moment(
        "2026-11-23T03:00:00.000000+00:00", "the day is not over: as of now"
    )
    assert parse_moment("2027-01-01", NOW).note == "2027-01-01 lies ahead: as of now"
    assert parse_moment((NOW + timedelta(hours=1)).isoformat(), NOW).at == "2026-11-23T03:00:00.000000+00:00"


def test_of_real_registrations(crowned: Checkout) -> None:
    (first,) = crowned.versions
    second = crowned.candidate("b", nll=1.0)
    main(crowned.root)
    ledger = read_ledger(crowned.root)
    told = champion_at(ledger, crowned.root, MODEL, parse_moment("2999-01-01"))
    assert (told["champion"]["version"], told["before"]["version"]) == (second, first)
    assert told["champion"]["approved"]["how"] == "gate"
    assert told["unknown"] == []
    assert told["champion"]["rows"]["counts"]["test"] == 24
    path = Path(told["champion"]["rows"]["path"])
    assert hashlib.sha256(path.read_bytes()).hexdigest() == told["champion"]["rows"]["sha256"]
    text = render_at(told)
    assert str(path) in text
    assert "from medtune-sample at v1, licence CC0-1.0" in text
    assert "ok  not_worse: -0.99" in text  # nats a character, with its interval
    lines = render(MODEL, history(ledger, MODEL)).splitlines()
    assert sum("  promoted " in line for line in lines) == 2
    path.write_text("{}")  # an edited rows.json is not believed
    edited = champion_at(ledger, crowned.root, MODEL, parse_moment("2999-01-01"))
    assert edited["champion"]["rows"]["counts"] == {}
    assert "not the file that was registered" in edited["unknown"][0]


def test_a_word_whose_promotion_was_refused_approved_nothing(checkout: Checkout) -> None:
    ledger, _ = life(checkout.root)
    ledger.append("approved_by", MODEL, version_of("d"), {"by": "Choi", "reason": "too early"}, "Choi")
    registered(ledger, "d", 4)
    word = ledger.append("approved_by", MODEL, version_of("d"), {"by": "Park", "reason": "read it"}, "Park")
    promoted(ledger, "d", 4, "c", word, policy="manual", by="Park", reason="read it")
    now = Moment(datetime.now(UTC).isoformat())
    people = champion_at(ledger, checkout.root, MODEL, now)["champion"]["approved"]["people"]
    assert [person["who"] for person in people] == ["by Park"]
    assert [person["who"] for person in lineage(checkout.root, ledger, MODEL, "4")["people"]] == ["by Park"]


def test_what_was_signed_and_restored_is_said_whole(checkout: Checkout) -> None:
    ledger, _ = life(checkout.root)
    ledger.append("signed", MODEL, version_of("a"), {"signed_by": "5e" * 32, "manifest": digest("m")})
    ledger.append("signed", MODEL, version_of("a"), {"signed_by": "keyless:name@hospital.example"})
    body = {"from": version_of("c"), "expects": version_of("c"), "number": 1, "by": "doctor", "reason": "deleted"}
    ledger.append("restored", MODEL, version_of("a"), body)
    said = [event["said"] for event in history(ledger, MODEL)[-3:]]
    assert said[:2] == [f"with key {'5e' * 8}", "with key keyless:name@hospital.example"]
    assert said[2] == f"champion again, in place of version 3 ({version_of('c')[:12]})"
