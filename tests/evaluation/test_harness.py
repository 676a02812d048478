"""Public suites through the real harness, on a tiny model and a small set in KorMedMCQA's columns."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from medtune.evaluation.harness import evaluate_suite, summary
from medtune.evaluation.harness_tasks import code_digest, find, leaves, suite_names
from medtune.params.errors import EvaluationError

CONFIGS = ("doctor", "nurse", "pharm", "dentist")
# written for these tests: question, the five choices, the right one (1 is A)
QUESTIONS = (
    (
        "갑자기 가슴을 쥐어짜는 통증이 30분째 이어지는 60세 남자에게 먼저 할 검사는?",
        "심전도 위내시경 뇌파 골밀도 시력",
        1,
    ),
    ("한쪽 팔다리에 갑자기 힘이 빠지고 말이 어눌해진 사람에게 먼저 할 일은?", "귀가 119 진통제 금식 운동", 2),
    ("벌에 쏘인 뒤 숨이 차고 혈압이 떨어질 때 먼저 쓰는 약은?", "비타민 제산제 에피네프린 철분 이뇨제", 3),
    ("당뇨병 환자가 식은땀을 흘리며 손을 떨 때 먼저 잴 것은?", "키 시력 청력 혈당 체중", 4),
    ("생후 2개월 아기의 체온이 38.5도일 때 옳은 것은?", "냉찜질 운동 금식 관찰 응급실", 5),
    ("임신 30주에 질 출혈과 심한 복통이 있을 때 의심할 것은?", "태반조기박리 감기 빈혈 편두통 치질", 1),
)


def rows(config: str = "doctor") -> list[dict]:
    return [
        {"subject": config, "year": 2022, "period": 1, "q_number": n, "question": question}
        | dict(zip("ABCDE", choices.split(), strict=True))
        | {"answer": answer, "cot": ""}
        for n, (question, choices, answer) in enumerate(QUESTIONS, 1)
    ]


def write(path: Path, found: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Jsonl files of all four configs."""
    for config in CONFIGS:
        write(tmp_path / "data" / config / "test.jsonl", rows(config))
        write(tmp_path / "data" / config / "fewshot.jsonl", rows(config)[:5])
    return tmp_path / "data"


@pytest.fixture
def harness() -> None:
    pytest.importorskip("lm_eval", reason="the harness is an extra: pip install 'medtune[eval]'")


def score(base: Path, data: Path, suite: str = "kormedmcqa_doctor", **settings) -> dict:
    return evaluate_suite(base, suite, device="cpu", offline_data=data, **{"max_new_tokens": 12} | settings)


def answers(out: Path, suite: str = "kormedmcqa_doctor") -> list[dict]:
    return [json.loads(line) for line in (out / f"{suite}.answers.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.usefixtures("harness")
def test_a_group_is_scored_by_the_harness_on_local_files(tiny_base, data, tmp_path):
    import lm_eval

    out = tmp_path / "reports/eval"
    report = score(tiny_base, data, "kormedmcqa", out=out, limit=4)
    assert report == json.loads((out / "kormedmcqa.json").read_text(encoding="utf-8"))
    assert report["harness"] == {"name": "lm-evaluation-harness", "version": lm_eval.__version__}
    assert set(report["tasks"]) == {f"kormedmcqa_{config}" for config in CONFIGS}

    lines = answers(out, "kormedmcqa")
    right = dict.fromkeys(report["tasks"], 0)
    for line in lines:
        assert line["exact_match"] == float(line["taken"] == [line["target"]])
        right[line["task"]] += line["taken"] == [line["target"]]
    for name, task in report["tasks"].items():
        (metric,) = task["metrics"]
        assert (task["rows"], task["of"], task["shots"], task["version"]) == (4, 6, 0, 3.0)
        assert (metric["metric"], metric["filter"], metric["higher_is_better"]) == (
            "exact_match",
            "extract_answer",
            True,
        )
        assert metric["value"] == right[name] / 4
        assert (metric["interval"]["passed"], metric["interval"]["of"]) == (right[name], 4)
        assert sorted(task["data"]["files"]) == ["fewshot.jsonl", "test.jsonl"]
    (group,) = report["groups"]["kormedmcqa"]["metrics"]
    assert group["value"] == pytest.approx(sum(right.values()) / 16)
    assert [line["target"] for line in lines[:4]] == ["A", "B", "C", "D"]
    assert QUESTIONS[0][0] not in (out / "kormedmcqa.answers.jsonl").read_text(encoding="utf-8")
    assert len(summary(report).splitlines()) == 5


@pytest.mark.usefixtures("harness")
def test_what_was_scored_and_by_which_code_is_on_record(tiny_base, data, tmp_path):
    first = score(tiny_base, data, out=tmp_path / "one")["tasks"]["kormedmcqa_doctor"]
    assert first == score(tiny_base, data, out=tmp_path / "two")["tasks"]["kormedmcqa_doctor"]
    write(data / "doctor/test.jsonl", [row | {"A": "심장초음파"} for row in rows()])
    other = score(tiny_base, data, out=tmp_path / "three")["tasks"]["kormedmcqa_doctor"]
    assert other["data"]["rows"] != first["data"]["rows"]
    assert other["code"] == first["code"]

    manager, names = find("kormedmcqa_doctor")
    path = leaves(names, manager)["kormedmcqa_doctor"][0]
    copy = tmp_path / "task"
    shutil.copytree(path.parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert code_digest(copy / path.name) == first["code"]
    for file in ("utils.py", "_template_yaml"):  # the filter, and the prompt that is included
        text = (copy / file).read_text(encoding="utf-8")
        (copy / file).write_text(text + "\n", encoding="utf-8")
        assert code_digest(copy / path.name) != first["code"]
        (copy / file).write_text(text, encoding="utf-8")


@pytest.mark.usefixtures("harness")
def test_a_models_own_decoding_habits_are_put_aside(tiny_base, data, tmp_path):
    habits = tmp_path / "habits"
    shutil.copytree(tiny_base, habits)
    (habits / "generation_config.json").write_text(json.dumps({"repetition_penalty": 50.0, "do_sample": True}))
    score(tiny_base, data, out=tmp_path / "plain")
    score(habits, data, out=tmp_path / "habitual")
    assert answers(tmp_path / "habitual") == answers(tmp_path / "plain")


@pytest.mark.usefixtures("harness")
def test_the_hubs_own_layout_shots_and_cut_prompts(tiny_base, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "hub/doctor"
    folder.mkdir(parents=True)
    for split in ("test", "fewshot"):
        pq.write_table(pa.Table.from_pylist(rows()[:5]), folder / f"{split}-00000-of-00001-ff16a36b0ecaeca2.parquet")
    task = score(tiny_base, tmp_path / "hub", out=tmp_path / "out", shots=5)["tasks"]["kormedmcqa_doctor"]
    assert (task["shots"], task["rows"], task["cut_prompts"]) == (5, 5, 0)
    # 24 of 1,024 positions are left for the prompt: the harness cuts without a word, and the record has it
    cut = score(tiny_base, tmp_path / "hub", out=tmp_path / "out", max_new_tokens=1000, limit=2)
    assert cut["tasks"]["kormedmcqa_doctor"]["cut_prompts"] == 2


@pytest.mark.usefixtures("harness")
def test_a_multiple_choice_suite_from_csv(tiny_base, tmp_path):
    lines = ["question,answer,A,B,C,D,Category"] + [f"{n}번 질문?,{n % 4 + 1},가,NA,None,라,Law" for n in range(6)]
    for split in ("test", "dev"):
        path = tmp_path / f"data/Law-{split}.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    task = score(tiny_base, tmp_path, "kmmlu_law", out=tmp_path / "out", max_new_tokens=None)["tasks"]["kmmlu_law"]
    (metric,) = task["metrics"]
    assert (metric["metric"], task["rows"], task["cut_prompts"]) == ("acc", 6, None)
    hits = [line["acc"] for line in answers(tmp_path / "out", "kmmlu_law")]
    assert metric["value"] == pytest.approx(sum(hits) / 6)


@pytest.mark.usefixtures("harness")
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"answer": 6}, r"doctor/test.jsonl, row 2: answer is 6; it must be a whole number, 1 \(A\) to 5 \(E\)"),
        ({"answer": 0}, r"row 2: answer is 0"),
        ({"answer": None}, r"row 2: answer is None"),
    ],
)
def test_an_answer_that_the_prompt_cannot_show_is_refused(tiny_base, data, tmp_path, change, sentence):
    found = rows()
    found[1] |= change
    write(data / "doctor/test.jsonl", found)
    with pytest.raises(EvaluationError, match=sentence):
        score(tiny_base, data, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("harness")
def test_files_that_do_not_fit_are_named_with_the_mend(tiny_base, data, tmp_path):
    def refused(sentence: str, **settings) -> None:
        with pytest.raises(EvaluationError, match=sentence):
            score(tiny_base, data, **{"out": tmp_path / "out"} | settings)

    write(data / "doctor/test.jsonl", [{k: v for k, v in row.items() if k not in "CE"} for row in rows()])
    refused(r"doctor/test.jsonl lacks the column C, E, which the prompt of kormedmcqa_doctor needs")
    (data / "doctor/test.jsonl").write_text('{"question": "머리가', encoding="utf-8")
    refused(r"doctor/test.jsonl cannot be read: ")
    (data / "doctor/test.jsonl").unlink()
    refused(r"has no doctor/test.parquet, .jsonl or .csv; lay the files out as the hub does")
    (data / "doctor/test.csv").write_text("question\n", encoding="utf-8")
    refused(r"test.csv and fewshot.jsonl are of different formats|fewshot.jsonl and test.csv are of different formats")
    with pytest.raises(EvaluationError, match=r"is no folder; --data takes the folder"):
        score(tiny_base, data / "nowhere", out=tmp_path / "out")


@pytest.mark.usefixtures("harness")
def test_settings_that_cannot_work_are_refused(tiny_base, data, tmp_path):
    def refused(sentence: str, base: Path = tiny_base, suite: str = "kormedmcqa_doctor", **settings) -> None:
        with pytest.raises(EvaluationError, match=sentence):
            score(base, data, suite, **{"out": tmp_path / "out"} | settings)

    refused(
        r"generates up to 1024 tokens, and the model has 1024 positions .* add --max-new-tokens 128",
        max_new_tokens=None,
    )
    refused(r"limit is 0; it must be at least 1", limit=0)
    refused(r"holds no config.json, so it is no merged model", base=data)
    refused(r"humaneval runs code that the model writes; medtune runs none", suite="humaneval")


@pytest.mark.usefixtures("harness")
def test_an_unknown_suite_names_the_nearest(tiny_base, data, tmp_path):
    with pytest.raises(EvaluationError, match=r"has no suite 'kormedmqa'; did you mean 'kormedmcqa'\?"):
        score(tiny_base, data, "kormedmqa", out=tmp_path / "out")


@pytest.mark.usefixtures("harness")
def test_suites_are_listed_by_pattern():
    assert suite_names("kormedmcqa*") == ["kormedmcqa", *sorted(f"kormedmcqa_{config}" for config in CONFIGS)]


def test_without_the_extra_the_sentence_says_how_to_get_it(tiny_base, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(EvaluationError, match=r"not installed; run: pip install 'medtune\[eval\]'"):
        evaluate_suite(tiny_base, "kormedmcqa")
