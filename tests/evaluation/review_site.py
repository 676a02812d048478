"""A small evaluation on disk, and the review server on it as a process of its own, for the review's tests."""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.conftest import ROOT

MODELS = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("base", "adapter", "merged")}
CANDIDATE, VERSION = MODELS["adapter"], MODELS["merged"]
SERVE = (
    "import sys; from pathlib import Path; from medtune.evaluation.review.server import serve; "
    "serve(Path('.'), port=int(sys.argv[1]))"
)
SYMPTOMS = [
    "머리가 아프고 어지러워요",
    "기침이 이 주째 안 떨어져요",
    "무릎이 붓고 계단에서 아파요",
    "속이 쓰리고 신물이 넘어와요",
]


def answer(text: str) -> dict:
    return {"text": text, "tokens": len(text), "ended": True}


def line(number: int, base: str, adapter: str, name: str = "questions", question: str | None = None) -> dict:
    return {
        "set": name, "id": f"{name}-{number}",
        "question": question or f"{SYMPTOMS[number % len(SYMPTOMS)]}. 어떻게 해야 하나요? ({number})",
        "reference": None, "kind": None, "rule": None, "why": None,
        "answers": {"base": answer(base), "adapter": answer(adapter), "merged": answer(adapter)},
        "scores": {},
    }  # fmt: skip


def lines(count: int) -> list[dict]:
    """Prompts with two answers each; the base's says 하나, the adapter's 둘, so that a test can tell them apart."""
    return [
        line(
            n,
            f"하나: 우선 물을 충분히 드시고 며칠 쉬면서 지켜보세요. {n}",
            f"둘: 증상이 심해지거나 열이 나면 가까운 병원에서 진찰을 받으세요. {n}",
        )
        for n in range(count)
    ]


def write_evaluation(root: Path, rows: list[dict], models: dict | None = None) -> Path:
    (root / "reports/evaluate").mkdir(parents=True, exist_ok=True)
    (root / "data").mkdir(exist_ok=True)
    (root / "data/base.json").write_text('{"id": "nlpai-lab/KULLM3"}')
    report = {"candidate": CANDIDATE, "version": VERSION, "test_digest": "7" * 64, "models": models or MODELS}
    (root / "reports/evaluate.json").write_text(json.dumps(report))
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (root / "reports/evaluate/answers.jsonl").write_text(text, encoding="utf-8")
    return root


class Site:
    """The server as `medtune review serve` starts it. `kill` is SIGKILL; `start` again takes the same port."""

    def __init__(self, root: Path) -> None:
        self.root, self.port, self.votes = root, 0, root / "data/review/votes.jsonl"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(self.port)],
            cwd=self.root, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        said = ""
        for row in self.process.stdout:
            said += row
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/", row):
                self.port = int(found[1])
                break
        else:
            raise AssertionError(f"the server ended: {said}")
        self.said = said
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                self.token = httpx.get(self.url + "/api/token", timeout=5).json()["token"]
                return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError("the server printed its address and does not answer")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"x-review-token": self.token, "origin": self.url, "content-type": "application/json"}

    def items(self, reviewer: str) -> list[dict]:
        given = httpx.get(self.url + "/api/items", params={"reviewer": reviewer}, headers=self.headers, timeout=30)
        assert given.status_code == 200, given.text
        return given.json()["items"]

    def vote(self, client: httpx.Client, reviewer: str, item: dict, choice: str | None, key: str, **more) -> int:
        row = {"reviewer": reviewer, "item": item["id"], "a": item["a_id"], "choice": choice, "harmful": [], "key": key}
        return client.post(self.url + "/api/vote", json=row | more, headers=self.headers, timeout=30).status_code

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
