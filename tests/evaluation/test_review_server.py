"""The review server as a process: blind answers, two reviewers at once, a kill -9, foreign pages."""

import json
import re
import threading

import httpx
import pytest

from medtune.evaluation.review.log import read_votes
from medtune.evaluation.review.pairs import read_pairs
from medtune.evaluation.review.server import host_allowed, serve
from medtune.evaluation.review.votes import import_votes
from medtune.params.errors import EvaluationError
from tests.evaluation.review_site import MODELS, Site, lines, write_evaluation


@pytest.fixture
def site(tmp_path):
    served = Site(write_evaluation(tmp_path, lines(60)))
    yield served
    served.kill()


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """A server that is never given a vote it takes."""
    served = Site(write_evaluation(tmp_path_factory.mktemp("untouched"), lines(8)))
    yield served
    served.kill()


def test_nothing_that_a_browser_gets_names_a_model(site):
    with httpx.Client(base_url=site.url, headers=site.headers) as client:
        told = [client.get("/"), client.get("/page.js"), client.get("/page.css"), client.get("/api/token")]
        told.append(client.get("/api/items", params={"reviewer": "김"}))
        item = told[-1].json()["items"][0]
        assert site.vote(client, "김", item, "a", "first-vote") == 200
        told.append(client.get("/api/items", params={"reviewer": "김"}))
        told.append(client.get("/api/items", params={"reviewer": "김" * 50}))
        told.append(client.get("/nowhere"))
    telling = re.compile("adapter|base|merged|candidate|champion|kullm|" + "|".join(MODELS.values()), re.IGNORECASE)
    for answer in told:
        heard = f"{answer.headers} {answer.text}".replace("base-uri", "").replace("align-items: baseline", "")
        assert not telling.search(heard), (answer.url, telling.search(heard))
    assert set(item) == {"id", "question", "a", "b", "a_id"}
    lefts = [row["a"].startswith("둘") for row in told[-4].json()["items"] if "a" in row]
    assert sum(lefts) == 30  # 60 items: each model stands on the left in exactly half


def test_two_reviewers_and_a_kill_lose_no_acknowledged_vote(site):
    """Both vote as fast as the server answers; SIGKILL hits in the middle; what was acknowledged is in the file."""
    acknowledged: dict[str, set[str]] = {"김": set(), "이": set()}
    tried: dict[str, set[str]] = {"김": set(), "이": set()}
    enough = threading.Event()

    def review(reviewer: str) -> None:
        pairs = site.items(reviewer)
        with httpx.Client() as client:
            for number in range(100_000):
                key = f"{number:08}"
                tried[reviewer].add(key)
                try:
                    status = site.vote(
                        client, reviewer, pairs[number % len(pairs)], "ab"[number % 2], key, comment="길게 " * 300
                    )
                except httpx.TransportError:
                    return
                assert status == 200
                acknowledged[reviewer].add(key)
                if all(len(keys) >= 40 for keys in acknowledged.values()):
                    enough.set()

    reviewers = [threading.Thread(target=review, args=(name,)) for name in acknowledged]
    for thread in reviewers:
        thread.start()
    assert enough.wait(60)
    site.kill()
    for thread in reviewers:
        thread.join(30)
        assert not thread.is_alive()
    written, _ = read_votes(site.votes)
    for reviewer, keys in acknowledged.items():
        lines_of = [vote.key for _, vote in written if vote.reviewer == reviewer]
        assert keys <= set(lines_of) <= tried[reviewer]
        assert len(lines_of) == len(set(lines_of))
        assert lines_of == sorted(lines_of)  # in the order in which they were given
    site.start()
    for reviewer, keys in acknowledged.items():
        assert sum("vote" in item for item in site.items(reviewer)) >= min(60, len(keys))
    assert import_votes(site.votes, read_pairs(site.root).items)["reviewers"] == 2


def test_a_torn_line_is_repaired_on_start(site):
    pairs = site.items("김")
    with httpx.Client() as client:
        for number, item in enumerate(pairs[:3]):
            assert site.vote(client, "김", item, "equal", f"{number:08}") == 200
    site.kill()
    whole = site.votes.read_bytes()
    site.votes.write_bytes(whole[:-25])
    site.start()
    assert "torn by a kill" in site.said
    assert sum("vote" in item for item in site.items("김")) == 2
    with httpx.Client() as client:
        assert site.vote(client, "김", pairs[2], "equal", "00000002") == 200
    votes, torn = read_votes(site.votes)
    assert ([vote.key for _, vote in votes], torn) == (["00000000", "00000001", "00000002"], False)
    assert site.votes.with_name("votes.jsonl.torn").read_bytes().rstrip(b"\n") in whole


def test_votes_change_resume_and_are_written_once(site):
    first, second = site.items("김")[:2]
    with httpx.Client() as client:
        assert site.vote(client, "김", first, "a", "key-00001", harmful=["b"], comment="이유") == 200
        assert site.vote(client, "김", first, "a", "key-00001") == 200  # the page did not hear the answer
        assert site.vote(client, "김", second, "b", "key-00002") == 200
        assert site.vote(client, "김", second, None, "key-00003") == 200
    assert site.votes.read_text().count("\n") == 3
    mine = site.items(" 김 ")  # white space around a name is no other name
    assert mine[0]["vote"] == {"choice": "a", "harmful": ["b"], "comment": "이유"}
    assert "vote" not in mine[1]
    assert not any("vote" in item for item in site.items("이"))


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"headers": {"origin": "http://evil.example"}}, 403, "origin"),
        ({"headers": {"origin": ""}}, 403, "origin"),
        ({"headers": {"x-review-token": "guess"}}, 403, "token"),
        ({"headers": {"sec-fetch-site": "cross-site"}}, 403, "site"),
        ({"headers": {"sec-fetch-site": "same-site"}}, 403, "site"),
        ({"headers": {"host": "evil.example"}}, 421, "host"),
        ({"json": {"item": "f" * 64}}, 409, "item"),
        ({"json": {"a": "f" * 16}}, 409, "item"),
        ({"json": {"choice": "left"}}, 422, "vote"),
        ({"json": {"reviewer": ""}}, 422, "vote"),
        ({"content": b"{"}, 422, "vote"),
        ({"content": b"[" * 60_000}, 422, "vote"),
        ({"content": b"\xff"}, 422, "vote"),
        ({"content": b" " * 70_000}, 413, "size"),
    ],
)
def test_what_is_no_vote_of_this_page_is_refused_and_not_written(untouched, change, status, code):
    site = untouched
    item = site.items("김")[0]
    vote = {"reviewer": "김", "item": item["id"], "a": item["a_id"], "choice": "a", "key": "key-00001"}
    content = change.get("content", json.dumps(vote | change.get("json", {})))
    told = httpx.post(site.url + "/api/vote", content=content, headers=site.headers | change.get("headers", {}))
    assert (told.status_code, told.json()["error"]) == (status, code)
    assert site.votes.read_bytes() == b""


def test_pages_carry_their_policy_and_items_need_the_token(untouched):
    site = untouched
    for path in ("/", "/page.js", "/page.css", "/api/token", "/nowhere"):
        told = httpx.get(site.url + path)
        assert told.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert "server" not in told.headers
    page = httpx.get(site.url).text
    assert '<html lang="ko">' in page
    # nothing from elsewhere: a clinic's machine may be offline
    assert not re.search(r"https?://|//[a-z]", page + httpx.get(site.url + "/page.css").text)
    assert httpx.get(site.url + "/api/items", params={"reviewer": "김"}).status_code == 403
    assert httpx.get(site.url, headers={"host": "evil.example:80"}).status_code == 421


def test_a_taken_port_and_a_taken_file_are_sentences(untouched, tmp_path):
    with pytest.raises(EvaluationError, match=rf"port {untouched.port} of 127.0.0.1 .* another --port"):
        serve(write_evaluation(tmp_path, lines(1)), port=untouched.port)
    with pytest.raises(EvaluationError, match=r"votes.jsonl is in use by another"):
        serve(untouched.root, port=0)


@pytest.mark.parametrize(
    ("header", "served", "allowed"),
    [
        ("127.0.0.1:8390", "127.0.0.1", True),
        ("localhost:9999", "127.0.0.1", True),  # through ssh -L
        ("[::1]:8390", "127.0.0.1", True),
        ("192.168.0.7:8390", "127.0.0.1", False),
        ("127.0.0.1.evil.example", "127.0.0.1", False),
        ("", "127.0.0.1", False),
        ("192.168.0.7:8390", "0.0.0.0", True),
        ("clinic.example:8390", "0.0.0.0", False),
        ("clinic.example:8390", "clinic.example", True),
    ],
)
def test_hosts(header, served, allowed):
    assert host_allowed(header, served) is allowed
