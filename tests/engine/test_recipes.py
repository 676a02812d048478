"""Every recipe, shrunk: its own values and columns, a tiny base of its architecture, the same calls from rows on.

llama3-70b-fsdp's sharding has tests of its own; its rows (dialogues of several turns) are here.
"""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from datasets import load_from_disk

from engine.families import write_family
from medtune.corpus.dialogue import constant_instruction, to_messages
from medtune.corpus.labels import IGNORED
from medtune.corpus.sift import sift
from medtune.corpus.sources import gather
from medtune.corpus.template import dress, prompt_ids
from medtune.corpus.tokens import SPLITS, encode_split
from medtune.engine.base import resolve
from medtune.engine.fit import check_recipe
from medtune.engine.generate import greedy_answers
from medtune.engine.load import load_model, load_tokenizer
from medtune.engine.lora import load_adapter
from medtune.engine.merge import MergeJob, target_logits
from medtune.engine.merge import run as merge
from medtune.engine.train import Job
from medtune.engine.train import run as train
from medtune.params import recipes

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
FAMILY = {
    "sample": "chat",
    "kullm3": "kullm",
    "llama3.1-8b-lora": "llama3",
    "gpt-neo-1.3b-lora": "neo",
    "llama2-7b-qlora": "llama2",
}
WHERE = ["머리가", "배가", "무릎이", "허리가", "목이", "귀가", "손목이"]
SINCE = ["어제저녁부터 갑자기", "사흘 전 운동한 뒤로", "아침에 일어나면", "찬 음식을 먹고 나서", "오래 앉아 있으면"]
DO = ["따뜻한 물을 드시고 푹 쉬세요.", "가까운 병원에서 검사를 받아 보세요.", "얼음으로 찜질을 하고 움직이지 마세요."]
PART = ["head", "stomach", "left knee", "lower back", "throat", "right ear", "wrist"]
TIME = ["since yesterday evening", "for three days after a run", "every morning", "after cold food", "when I sit long"]
ADVICE = [
    "Drink warm water and get some rest.",
    "Please have it examined in a clinic.",
    "Put ice on it and keep still.",
]


def korean(n: int) -> tuple[str, str]:
    return (
        f"{WHERE[n % 7]} {SINCE[n % 5]} {n + 2}시간씩 아파요. 어떻게 하나요?",
        f"{DO[n % 3]} {n + 1}일 뒤에도 그러면 {WHERE[n % 7]} 왜 아픈지 봅시다.",
    )


def english(n: int) -> tuple[str, str]:
    return (
        f"My {PART[n % 7]} hurts {TIME[n % 5]}, about {n + 2} hours each time. What can I do?",
        f"{ADVICE[n % 3]} If the {PART[n % 7]} still hurts in {n + 1} days, come and see us again.",
    )


def raw(name: str, n: int) -> dict:
    """Row n in the columns of the recipe's own dataset."""
    if name in ("kullm3", "gpt-neo-1.3b-lora"):  # mncai/MedGPT-5k-ko
        return {"instruction": korean(n)[0], "input": "", "output": korean(n)[1]}
    if name == "llama3.1-8b-lora":  # ruslanmv/ai-medical-chatbot
        patient, doctor = english(n)
        return {"Description": f"Q. Why does my {PART[n % 7]} hurt ({n})?", "Patient": patient, "Doctor": doctor}
    if name == "llama2-7b-qlora":  # stanfordnlp/imdb
        return {"text": " ".join(english(n)), "label": n % 2}
    if name == "llama3-70b-fsdp":  # HuggingFaceH4/no_robots, with a third turn
        turns = [english(n), english(n + 31), english(n + 77)]
        messages = [{"role": "system", "content": "You are a careful doctor."}]
        for asked, answered in turns:
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        return {"prompt": turns[0][0], "prompt_id": f"{n:064x}", "messages": messages, "category": "Chat"}
    return {"instruction": korean(n)[0], "input": "", "output": korean(n)[1]}


def write_rows(folder: Path, name: str, pattern: str) -> None:
    """Thirty rows in a file of the kind that the recipe's pattern names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [raw(name, n) for n in range(30)]
    folder.mkdir()
    if pattern.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    else:
        (folder / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


class Run:
    """A recipe on its way; what stages/*.py do, by the same library calls."""

    def __init__(self, name: str, folder: Path, **sections: dict):
        recipe = recipes.check(ROOT / "recipes" / f"{name}.yaml")
        self.folder, self.family = folder, FAMILY.get(name, "chat")
        write_rows(folder / "rows", name, recipe.download.pattern)
        self.base_section = recipe.base.model_copy(
            update={"source": "path", "id": str(write_family(folder / "base", self.family))}
        )
        self.base = resolve(self.base_section)
        self.download = recipe.download.model_copy(
            update={"source": "file", "path": str(folder / "rows"), "pattern": "*", "id": None, "revision": None}
        )
        split = recipe.validate_.split.model_copy(update={"validation": 0.2, "test": 0.1})
        self.limits = recipe.validate_.model_copy(update={"min_rows": 1, "split": split})
        self.template = recipe.tokenize.model_copy(update=sections.get("tokenize", {}))
        self.lora = recipe.lora.model_copy(update=sections.get("lora", {}))
        steps = {
            "device": "cpu",
            "max_steps": 2,
            "epochs": None,
            "warmup_steps": 1,
            "logging_steps": 1,
            "save_steps": 2,
        }
        steps |= {"eval_steps": 2, "sharding": "none"}
        self.train = recipe.train.model_copy(update=steps | sections.get("train", {}))
        self.merge = recipe.merge.model_copy(update={"certificate_rows": 2, "dtype": "float32"})
        self.quantization = {
            key: getattr(self.base_section, key) for key in ("quantization", "double_quant", "quant_storage")
        }
        self.tokenizer = dress(load_tokenizer(self.base.path), self.template.template, self.template.system)
        check_recipe(self.base.path, self.template, self.lora, self.train)

    def tokens(self) -> dict:
        """Rows read, sifted, rendered and tokenized; saved as the train stage reads them."""
        records = [{"source": source, "row": row} for source, row in gather(self.download).rows]
        columns = self.download.columns
        constant = constant_instruction((record["row"] for record in records), columns)
        sifted = sift(
            records,
            self.limits,
            partial(to_messages, format=self.download.format, columns=columns, constant_instruction=constant),
        )
        assert len(sifted.good) > 25, sifted.reasons()
        good = [row.record() for row in sifted.good]
        self.messages = [row["messages"] for row in good]
        made = {}
        for name in SPLITS:
            rows = [row for row in good if row["split"] == name]
            made[name] = encode_split(rows, self.tokenizer, self.template.max_length, "truncate", name).dataset
            made[name].save_to_disk(self.folder / "tokens" / name)
        return made

    def adapter(self) -> dict:
        sidecar = {"candidate": "c" * 64, "base": self.base.record()}
        sidecar |= {key: getattr(self.template, key) for key in ("template", "system", "max_length")}
        return train(
            Job(
                base=self.base.path,
                quantization=self.quantization,
                tokens=self.folder / "tokens",
                lora=self.lora,
                train=self.train,
                sidecar=sidecar,
                out=self.folder / "adapter",
                checkpoints=self.folder / "checkpoints",
            )
        )

    def merged(self) -> dict:
        return merge(
            MergeJob(
                base=self.base.path,
                fingerprint=self.base.fingerprint,
                quantization=self.quantization,
                adapter=self.folder / "adapter",
                held_out=load_from_disk(self.folder / "tokens/validation"),
                merge=self.merge,
                device="cpu",
                version="e" * 64,
                out=self.folder / "merged",
            )
        )


def trained_text(tokenizer, row: dict) -> str:
    return tokenizer.decode([label for label in row["labels"] if label != IGNORED])


def from_rows_to_answer(run: Run, question: str) -> dict:
    """Rows to one answer of the merged model. Returns the tokenized splits."""
    splits = run.tokens()
    eos = run.tokenizer.eos_token_id
    for row in splits["train"]:
        assert row["labels"][-1] == row["input_ids"][-1] == eos
    figures = run.adapter()
    assert figures["steps"] == 2
    certificate = run.merged()
    assert certificate["kl_max"] < 1e-6
    assert certificate["top1_agreement"] == 1.0

    live = load_model(run.base.path, **run.quantization, device=CPU, dtype=torch.float32)
    before = target_logits(live, splits["validation"][0], CPU)
    adapted = target_logits(
        load_adapter(live, run.folder / "adapter", run.base.fingerprint), splits["validation"][0], CPU
    )
    model = load_model(run.folder / "merged", device=CPU, dtype=torch.float32)
    torch.testing.assert_close(target_logits(model, splits["validation"][0], CPU), adapted, atol=1e-4, rtol=1e-3)
    assert (adapted - before).abs().max() > 1e-5  # two steps moved it
    tokenizer = load_tokenizer(run.folder / "merged")  # with the template of the training
    ours = [{"role": "user", "content": question}]
    assert prompt_ids(ours, tokenizer) == prompt_ids(ours, run.tokenizer)
    (answer,) = greedy_answers(model, tokenizer, [question], 8, 1)
    assert 0 < answer["tokens"] <= 8 or answer["ended"]
    return splits


@pytest.mark.parametrize("name", FAMILY)
def test_recipe_from_rows_to_answer(name, tmp_path):
    run = Run(name, tmp_path)
    splits = from_rows_to_answer(run, "My knee hurts." if run.limits.min_hangul_share == 0 else "머리가 아파요.")
    row, tokenizer = splits["train"][0], run.tokenizer
    asked = next(m for m in run.messages if m[-1]["content"] in trained_text(tokenizer, row))
    text, answer = tokenizer.decode(row["input_ids"]), asked[-1]["content"] + tokenizer.eos_token
    assert trained_text(tokenizer, row).lstrip() == answer
    bos = "" if run.family in ("chat", "neo") else tokenizer.bos_token
    assert text.startswith(bos)
    assert text.count(tokenizer.eos_token) == (3 if run.family == "chat" else 1)
    user = asked[0]
    expected = {
        "llama2-7b-qlora": bos + answer,
        "llama3.1-8b-lora": bos
        + "You are a professional medical doctor. Based on the below context, generate answer for the "
        f"question.\n\n### Description:\n{user['content']}\n\n### Patient:\n{user.get('input')}"
        f"\n\n### Doctor:\n{answer}",
    }
    if name in expected:
        assert text == expected[name]


def test_gpt_neo_takes_all_linear(tmp_path):
    run = Run("gpt-neo-1.3b-lora", tmp_path, lora={"targets": "all-linear"})
    from_rows_to_answer(run, "머리가 아파요.")
    targets = json.loads((tmp_path / "adapter/adapter_config.json").read_text())["target_modules"]
    expected = {"c_fc", "c_proj", "k_proj", "out_proj", "q_proj", "v_proj"}
    assert {name.rsplit(".", 1)[-1] for name in targets} == expected


def test_dialogues_of_several_turns_train_every_answer(tmp_path):
    """no_robots' messages with three turns: each of the three answers ends with an EOS that is learned."""
    run = Run("llama3-70b-fsdp", tmp_path, tokenize={"max_length": 1024})
    row = run.tokens()["train"][0]
    learned = trained_text(run.tokenizer, row).split(run.tokenizer.eos_token)
    asked = next(m for m in run.messages if m[2]["content"] in learned[0])
    answers = [message["content"] for message in asked if message["role"] == "assistant"]
    assert [text.strip() for text in learned] == [*answers, ""]
    assert run.adapter()["steps"] == 2


def test_no_recipe_is_forgotten():
    assert {*FAMILY, "llama3-70b-fsdp"} == set(recipes.names(ROOT / "recipes"))
