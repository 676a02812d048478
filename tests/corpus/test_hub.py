"""The hub source, with the real huggingface_hub client against a local stand-in of the hub's protocol."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from medtune.corpus import hub as hub_module
from medtune.corpus.sources import ARRIVING, gather
from medtune.params.download import Download
from medtune.params.errors import CorpusError
from tests.corpus.hub_server import PAGE, Hub, Repository, blob_id, serve

ID, COMMIT = "clinic/dialogues", "0123456789abcdef0123456789abcdef01234567"
ROWS = [
    {"instruction": f"{n}번째 날인데 아직도 머리가 아파요.", "input": "", "output": f"{n}일째라면 진료를 받으세요."}
    for n in range(200)
]
CONTENT = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(hub_module, "FIRST_PAUSE", 0.01)
    monkeypatch.setenv("MEDTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with serve() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.add("datasets", ID, repository())
        yield hub


def repository(**changes: object) -> Repository:
    files = {"README.md": b"# dialogues", "rows.jsonl": CONTENT, "extra/more.csv": b"a,b\n1,2\n"}
    return Repository(**{"commit": COMMIT, "files": files, "card": {"license": "gpl-3.0"}, **changes})


def section(**changes: object) -> Download:
    values = {
        "source": "hub",
        "path": "data/README.md",
        "id": ID,
        "revision": COMMIT,
        "pattern": "*.jsonl",
        "attempts": 3,
    }
    return Download(**{**values, **changes})


def refusal(tmp_path: Path, **changes: object) -> str:
    """The sentence of a download that must fail; it must hold neither an address nor a token, nor leave rows behind."""
    said: list[str] = []
    with pytest.raises(CorpusError) as caught:
        gather(section(**changes), tmp_path, said.append)
    text = "\n".join([str(caught.value), *said])
    assert "http" not in text
    assert "hf_" not in text
    assert list((tmp_path / "cache").rglob("*.jsonl")) == []
    return str(caught.value)


def test_rows_licence_and_files(hub: Hub, tmp_path: Path) -> None:
    gathered = gather(section(), tmp_path, print)
    assert [row for _, row in gathered.rows] == ROWS
    assert gathered.rows[4][0] == "rows.jsonl:5"
    assert gathered.license == "gpl-3.0"
    assert [(file["name"], file["bytes"], file["rows"]) for file in gathered.files] == [
        ("rows.jsonl", len(CONTENT), 200)
    ]
    assert gather(section(license="MIT"), tmp_path, print).license == "MIT"


def test_second_run_asks_nothing_and_works_offline(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gather(section(), tmp_path, print)
    asked = len(hub.asked)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert len(gather(section(limit=7), tmp_path, print).rows) == 7
    assert len(hub.asked) == asked


def test_offline_without_cache(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = refusal(tmp_path)
    assert "HF_HUB_OFFLINE is set" in said
    assert hub.asked == []


def test_moved_revision(hub: Hub, tmp_path: Path) -> None:
    said = refusal(tmp_path, revision="f" * 40)
    assert "no commit ffffffff" in said
    assert "Files and versions" in said


def test_unknown_dataset(hub: Hub, tmp_path: Path) -> None:
    said = refusal(tmp_path, id="clinic/nothing")
    assert "knows no dataset clinic/nothing" in said
    assert "spelling" in said


def test_gated_without_token(hub: Hub, tmp_path: Path) -> None:
    hub.add("datasets", ID, repository(gated=True))
    said = refusal(tmp_path)
    assert "gated" in said
    assert "HF_TOKEN" in said


def test_gated_with_token(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("datasets", ID, repository(gated=True))
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert len(gather(section(), tmp_path, print).rows) == 200


def test_gated_with_a_token_that_has_no_access(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("datasets", ID, repository(gated=True))
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    said = refusal(tmp_path)
    assert "this token has no access" in said
    assert "accept its licence" in said


def test_wrong_token(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "refused HF_TOKEN" in refusal(tmp_path)


def test_server_error_then_success(hub: Hub, tmp_path: Path) -> None:
    hub.server_errors = 2
    said: list[str] = []
    assert len(gather(section(), tmp_path, said.append).rows) == 200
    assert [line for line in said if "answered 503" in line and "try 3 of 3" in line]


def test_server_error_for_good(hub: Hub, tmp_path: Path) -> None:
    hub.server_errors = 3
    said = refusal(tmp_path)
    assert "answered 503, 3 times" in said
    assert "run again" in said


def test_cut_connection_goes_on_where_it_stopped(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 500
    )  # else 10 MB are held before they are kept
    hub.cut_after = 1000
    assert len(gather(section(), tmp_path, print).rows) == 200
    assert [headers.get("range") for headers in hub.gets("rows.jsonl")] == [None, "bytes=1000-"]


def test_killed_download_goes_on_in_the_next_run(hub: Hub, tmp_path: Path) -> None:
    part = tmp_path / ARRIVING / f"{blob_id(CONTENT)}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:5000])
    assert len(gather(section(), tmp_path, print).rows) == 200
    assert [headers.get("range") for headers in hub.gets("rows.jsonl")] == ["bytes=5000-"]


def test_damaged_part_is_thrown_away(hub: Hub, tmp_path: Path) -> None:
    part = tmp_path / ARRIVING / f"{blob_id(CONTENT)}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 5000)
    said: list[str] = []
    assert [row for _, row in gather(section(), tmp_path, said.append).rows] == ROWS
    assert [line for line in said if "checksum differs" in line]


def test_short_read(hub: Hub, tmp_path: Path) -> None:
    hub.short_by = 10
    said = refusal(tmp_path)
    assert f"{len(CONTENT) - 10:,} of {len(CONTENT):,} bytes arrived" in said or "fewer bytes" in said


def test_page_instead_of_the_file(hub: Hub, tmp_path: Path) -> None:
    hub.html_instead = 99
    assert "web page (HTML) came instead of data" in refusal(tmp_path)
    hub.html_instead = 1
    assert len(gather(section(), tmp_path, print).rows) == 200


def test_page_instead_of_everything(hub: Hub, tmp_path: Path) -> None:
    hub.html_everywhere = True
    assert "web page (HTML) came instead of data" in refusal(tmp_path)


def test_page_that_the_repository_itself_holds(hub: Hub, tmp_path: Path) -> None:
    """Size and checksum are right: only parsing before the rename finds it."""
    hub.add("datasets", ID, repository(files={"rows.jsonl": PAGE}))
    said = refusal(tmp_path)
    assert "web page (HTML), not data" in said
    assert ".arriving" not in said


def test_truncated_file_in_the_repository(hub: Hub, tmp_path: Path) -> None:
    hub.add("datasets", ID, repository(files={"rows.jsonl": CONTENT[:-30]}))
    assert "rows.jsonl, line 200" in refusal(tmp_path)


def test_large_files_are_checked_by_sha256(hub: Hub, tmp_path: Path) -> None:
    hub.add("datasets", ID, repository(lfs=("rows.jsonl",)))
    assert len(gather(section(), tmp_path, print).rows) == 200


def test_network_down(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    said = refusal(tmp_path)
    assert "no connection" in said
    assert "HF_ENDPOINT" in said


def test_pattern_matches_nothing(hub: Hub, tmp_path: Path) -> None:
    said = refusal(tmp_path, pattern="*.parquet")
    assert "rows.jsonl" in said
    assert "download.pattern" in said
