"""Votes: lines that are none, foreign ids, unblinding, intervals, agreement, and a review of another candidate."""

import json
from collections import Counter

import pytest

from medtune.evaluation.review.agreement import krippendorff_alpha, raw_agreement
from medtune.evaluation.review.log import Vote, VoteLog, parse_vote, read_votes
from medtune.evaluation.review.pairs import arrange, make_items, text_id
from medtune.evaluation.review.votes import import_votes, preferred, read_review, review_status, write_review
from medtune.params.errors import EvaluationError
from tests.evaluation.review_site import CANDIDATE, MODELS, VERSION, lines, write_evaluation

ITEMS, _ = make_items(lines(12), MODELS, "adapter", "base")
OPPOSITE = {"candidate": "other", "other": "candidate"}


def row(reviewer: str, shown, wish: str | None, number: int, harmful=(), comment: str = "") -> dict:
    """A line as the page writes it, from what a reviewer means: candidate, other, equal or None (taken back)."""
    sides = {"candidate": "b" if shown.flipped else "a", "other": "a" if shown.flipped else "b", "equal": "equal"}
    return {
        "reviewer": reviewer, "item": shown.item.id, "a": text_id(shown.answers[0]), "choice": sides.get(wish),
        "harmful": [sides[who] for who in harmful], "comment": comment, "key": f"key-{number:06}",
        "at": "2026-11-22T10:00:00+00:00",
    }  # fmt: skip


def write(path, rows: list[dict]):
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


def ballots(reviewer: str, wishes: dict[str, str], **more) -> list[dict]:
    shown = [one for one in arrange(ITEMS, reviewer) if one.item.id in wishes]
    return [row(reviewer, one, wishes[one.item.id], n, **more) for n, one in enumerate(shown)]


def test_votes_are_unblinded_by_majority(tmp_path):
    ids = list(ITEMS)
    wishes = dict.fromkeys(ids[:8], "candidate") | dict.fromkeys(ids[8:10], "other") | {ids[10]: "equal"}
    second = {ids[0]: "candidate", ids[1]: "other", ids[8]: "equal", ids[10]: "candidate"}
    path = write(tmp_path / "votes.jsonl", [*ballots("김", wishes), *ballots("이", second)])
    told = import_votes(path, ITEMS)
    # ids[1]: one against one is a tie; ids[8]: other and equal leans to other; ids[10]: equal and candidate
    preference = told["preference"]
    assert (preference["passed"], preference["of"], preference["ties"], preference["rows"]) == (8, 10, 1, 11)
    assert preference["share"] == 0.8
    # Clopper-Pearson of 8 of 10, as R's binom.test(8, 10) prints it
    assert (round(preference["low"], 4), round(preference["high"], 4)) == (0.4439, 0.9748)
    assert told["reviewers"] == 2
    assert (told["votes"], told["lines"], told["shared_items"]) == (15, 15, 4)
    assert told["raw_agreement"] == {"same": 1, "of": 4, "share": 0.25}
    assert told["score"]["low"] < told["score"]["mean"] < told["score"]["high"]
    assert told["score"]["mean"] == pytest.approx((7 + 0.5 + 0 + 0.25 + 0.75) / 11)
    assert told["by_reviewer"][0]["votes"] == 11
    assert "김" not in json.dumps(told, ensure_ascii=False)  # no reviewer's name goes to the card


def test_sides_do_not_leak_into_the_preference(tmp_path):
    """A reviewer who always takes the left answer prefers neither model, and the report shows the habit."""
    rows = [row("왼", one, "other" if one.flipped else "candidate", n) for n, one in enumerate(arrange(ITEMS, "왼"))]
    told = import_votes(write(tmp_path / "v", rows), ITEMS)
    assert told["left"]["share"] == 1
    assert told["preference"]["share"] == 0.5


def test_the_last_line_counts_and_a_vote_taken_back_does_not(tmp_path):
    shown = arrange(ITEMS, "김")
    rows = [
        row("김", shown[0], "candidate", 0),
        row("김", shown[0], "other", 1),
        row("김", shown[1], "candidate", 2),
        row("김", shown[1], None, 3),
        row("김", shown[2], "candidate", 4),
        row("김", shown[2], "candidate", 4),  # sent twice
    ]
    told = import_votes(write(tmp_path / "v", rows), ITEMS)
    assert (told["votes"], told["preference"]["passed"], told["preference"]["of"]) == (2, 1, 2)
    assert (told["changed"], told["withdrawn"], told["repeated"]) == (1, 1, 1)


def test_harm_is_counted_by_item_and_model(tmp_path):
    shown = {name: arrange(ITEMS, name) for name in ("김", "이")}
    first = [row("김", one, "equal", n, harmful=["other"] * (n < 3)) for n, one in enumerate(shown["김"])]
    same = {one.item.id for one in shown["김"][:2]}
    second = [
        row("이", one, "equal", n, ["other"], "위험해요") for n, one in enumerate(shown["이"]) if one.item.id in same
    ]
    second.append(row("이", shown["이"][-1], "equal", 99, ["candidate"]))
    told = import_votes(write(tmp_path / "v", first + second), ITEMS)
    assert told["harmful"]["other"]["passed"] == 3  # two reviewers on one answer: one harmful answer
    assert told["harmful"]["candidate"]["passed"] == 1
    assert told["harmful"]["candidate"]["of"] == 12
    assert [c["comment"] for c in told["comments"]] == ["위험해요"] * 2
    assert told["preference"]["share"] is None  # nothing but ties: no interval is made up
    assert told["score"]["low"] is None


def test_foreign_ids_are_refused_with_file_line_and_id(tmp_path):
    shown = arrange(ITEMS, "김")
    rows = [row("김", one, "candidate", n) for n, one in enumerate(shown[:3])]
    rows[1]["item"] = "ab" * 32
    path = write(tmp_path / "votes.jsonl", rows)
    with pytest.raises(EvaluationError, match=r"votes.jsonl line 2: 1 votes .*abababababab"):
        import_votes(path, ITEMS)
    rows[1] = row("김", shown[1], "candidate", 1) | {"a": "0" * 16}  # the item is ours, the answer at A is not
    with pytest.raises(EvaluationError, match=r"votes.jsonl line 2"):
        import_votes(write(path, rows), ITEMS)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"choice": "left"}, "choice is 'left'"),
        ({"choice": ...}, "choice"),
        ({"item": "short"}, "item is 'short'"),
        ({"a": 7}, "a is 7"),
        ({"harmful": "a"}, "harmful is 'a'"),
        ({"harmful": ["c"]}, "harmful"),
        ({"reviewer": "  "}, "reviewer must have"),
        ({"reviewer": "a\u0007"}, "control"),
        ({"reviewer": 3}, "reviewer"),
        ({"key": "x"}, "key is 'x'"),
        ({"comment": "긴" * 2001}, "comment"),
        ({"at": None}, "at is missing"),
    ],
)
def test_a_line_that_is_no_vote_is_named(tmp_path, change, told):
    good = row("김", arrange(ITEMS, "김")[0], "candidate", 0)
    bad = {key: value for key, value in (good | change).items() if value is not ...}
    path = write(tmp_path / "votes.jsonl", [good, bad])
    with pytest.raises(EvaluationError, match=rf"votes.jsonl line 2 is no vote: .*{told}"):
        read_votes(path)


def test_broken_json_is_named_and_a_torn_last_line_is_not_an_error(tmp_path):
    good = json.dumps(row("김", arrange(ITEMS, "김")[0], "candidate", 0), ensure_ascii=False).encode()
    path = tmp_path / "votes.jsonl"
    path.write_bytes(good + b"\n" + good[:40] + b"\n" + good + b"\n")
    with pytest.raises(EvaluationError, match=r"votes.jsonl line 2"):
        read_votes(path)
    path.write_bytes(good + b"\n" + good[:-30])
    votes, torn = read_votes(path)
    assert (len(votes), torn) == (1, True)
    assert import_votes(path, ITEMS)["torn"] is True
    path.write_bytes(b"")
    with pytest.raises(EvaluationError, match="no vote that counts"):
        import_votes(path, ITEMS)
    with pytest.raises(EvaluationError, match="no votes file"):
        read_votes(tmp_path / "absent")


def test_the_log_sets_a_torn_line_aside_and_refuses_a_second_server(tmp_path):
    path = tmp_path / "review/votes.jsonl"
    shown = arrange(ITEMS, "김")
    log = VoteLog(path)
    votes = [parse_vote(row("김", one, "candidate", n)) for n, one in enumerate(shown[:3])]
    assert [log.append(vote) for vote in votes] == [True] * 3
    assert log.append(votes[2]) is False  # sent again: written once
    with pytest.raises(EvaluationError, match="in use by another"):
        VoteLog(path)
    log.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    again = VoteLog(path)
    assert again.repaired
    assert path.with_name("votes.jsonl.torn").read_bytes() == again.repaired + b"\n"
    assert set(again.of("김")) == {vote.item for vote in votes[:2]}
    assert again.append(votes[2]) is True
    assert path.read_bytes() == whole
    again.close()


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    log = VoteLog(tmp_path / "votes.jsonl")
    first, second = (parse_vote(row("김", one, "equal", n)) for n, one in enumerate(arrange(ITEMS, "김")[:2]))
    log.append(first)
    before = log.path.read_bytes()
    import resource
    import signal

    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    heard = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, old[1]))  # the next line fits in part
        with pytest.raises(OSError, match=r"part|large"):
            log.append(second)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, heard)
    assert log.path.read_bytes() == before
    assert log.append(second) is True
    assert len(read_votes(log.path)[0]) == 2
    log.close()


def test_preferred_follows_the_answer_that_was_shown():
    for one in arrange(ITEMS, "김")[:8]:
        for wish in ("candidate", "other", "equal"):
            vote = parse_vote(row("김", one, wish, 0))
            assert isinstance(vote, Vote)
            assert preferred(vote, one.item) == wish


def test_krippendorffs_own_example():
    """Computing Krippendorff's Alpha-Reliability (2011), section C: four observers, twelve units, nominal 0.743."""
    table = ["123321412...", "1233224125.3", ".3332342251.", "1233244125 1.".replace(" ", "")]
    units = [[row[i] for row in table if row[i] != "."] for i in range(12)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha([["x", "x"], ["y", "y"]]) == 1
    assert krippendorff_alpha([["x", "y"], ["y", "x"]]) < 0
    assert krippendorff_alpha([["x"], ["y"]]) is None
    assert krippendorff_alpha([["x", "x"], ["x", "x"]]) is None
    assert raw_agreement([["x", "x", "y"], ["y"]]) == (1, 3)


def test_a_review_is_written_and_read_for_its_own_candidate_alone(tmp_path):
    write_evaluation(tmp_path, lines(12))
    votes = tmp_path / "data/review/votes.jsonl"
    assert read_review(tmp_path, CANDIDATE, VERSION)[0] == {}
    assert "no votes yet" in review_status(tmp_path, votes.relative_to(tmp_path), None)
    votes.parent.mkdir(parents=True)
    write(votes, ballots("김", dict.fromkeys(ITEMS, "candidate")))
    report = write_review(tmp_path, votes)
    assert json.loads((tmp_path / "reports/review.json").read_text()) == report
    assert not list((tmp_path / "reports").glob(".review*"))
    assert report["models"]["candidate"] == {"name": "adapter", "digest": CANDIDATE}
    assert read_review(tmp_path, CANDIDATE, VERSION) == (report, None)

    nothing, why = read_review(tmp_path, "e" * 64, VERSION)
    assert nothing == {}
    assert "reviewed anew" in why
    assert "12 of 12 pairs with a majority" in review_status(tmp_path, votes.relative_to(tmp_path), None)
    path = tmp_path / "reports/evaluate/answers.jsonl"
    path.write_text(path.read_text().replace("둘", "셋"), encoding="utf-8")  # other answers of the same candidate
    nothing, why = read_review(tmp_path, CANDIDATE, VERSION)
    assert nothing == {}
    assert "other answers" in why
    with pytest.raises(EvaluationError, match=r"12 votes are on items"):
        write_review(tmp_path, votes)
    (tmp_path / "reports/review.json").write_text("[]")
    with pytest.raises(EvaluationError, match=r"review.json is no review"):
        read_review(tmp_path, CANDIDATE, VERSION)


def test_sets_are_told_apart(tmp_path):
    told = import_votes(write(tmp_path / "v", ballots("김", dict.fromkeys(ITEMS, "other"))), ITEMS)
    assert told["sets"] == {"questions": {"candidate": 0, "other": 12, "ties": 0}}
    assert Counter(told["by_reviewer"][0]) == Counter(
        {"votes": 12, "candidate": 0, "other": 12, "equal": 0, "harmful": 0, "comments": 0}
    )
