"""A small job on the tiny base: real tokens, a real quantised model, a few steps."""

from dataclasses import replace
from pathlib import Path

from medtune.corpus.template import dress
from medtune.corpus.tokens import encode_split
from medtune.engine.load import load_tokenizer
from medtune.engine.train import Job
from medtune.params.lora import Lora
from medtune.params.train import Train

QUESTIONS = ["머리가 아파요.", "배가 아프고 열이 나요.", "기침이 멈추지 않아요.", "무릎이 부었어요.", "잠을 못 자요."]
ANSWERS = ["물을 드시고 쉬세요.", "병원에 가서 검사를 받으세요.", "따뜻한 물을 자주 드세요.", "얼음찜질을 하세요."]

RECORD = {
    "source": "path",
    "id": "tiny",
    "revision": None,
    "license": "CC0-1.0",
    "fingerprint": "f" * 64,
    "quantization": "nf4",
    "double_quant": True,
    "quant_storage": "uint8",
}


def rows(count: int) -> list[dict]:
    """Dialogues as data/valid/rows.jsonl holds them, all different."""
    return [
        {
            "row_id": f"{n:064x}",
            "cluster": f"{n:064x}",
            "source": f"rows.jsonl:{n + 1}",
            "messages": [
                {"role": "user", "content": f"{QUESTIONS[n % 5]} {n}번째 질문이에요."},
                {"role": "assistant", "content": f"{ANSWERS[n % 4]} {n}일 뒤에 다시 오세요."},
            ],
        }
        for n in range(count)
    ]


def write_tokens(base: Path, folder: Path, train: int = 24, validation: int = 6) -> Path:
    """Splits train, validation and test on disk, as stages/tokenize.py writes them."""
    tokenizer = dress(load_tokenizer(base), "chat", None)
    everything = rows(train + 2 * validation)
    for name, start, end in (
        ("train", 0, train),
        ("validation", train, train + validation),
        ("test", train + validation, train + 2 * validation),
    ):
        encode_split(everything[start:end], tokenizer, 256, "truncate", name).dataset.save_to_disk(folder / name)
    return folder


def job(base: Path, tokens: Path, folder: Path, lora: dict | None = None, **train: object) -> Job:
    """A job of six steps that writes into `folder`."""
    settings = {
        "device": "cpu",
        "batch_size": 2,
        "max_steps": 6,
        "learning_rate": 5e-3,
        "save_steps": 2,
        "optimizer": "paged_adamw_8bit",
    } | train
    return Job(
        base=base,
        quantization={key: RECORD[key] for key in ("quantization", "double_quant", "quant_storage")},
        tokens=tokens,
        lora=Lora(**({"r": 4, "alpha": 8, "dropout": 0.1, "targets": "all-linear"} | (lora or {}))),
        train=Train(**settings),
        sidecar={"candidate": "c" * 64, "base": RECORD, "template": "chat", "system": None, "max_length": 256},
        out=folder / "adapter",
        checkpoints=folder / "checkpoints",
    )


def sharded_job(base: Path, tokens: Path, folder: Path, **train: object) -> Job:
    """The job for several processes: NF4 words stored as bfloat16, an optimizer whose moments can be cut."""
    made = job(base, tokens, folder, {"dropout": 0.0}, **({"sharding": "fsdp", "optimizer": "adamw_torch"} | train))
    record = RECORD | {"quant_storage": "bfloat16"}
    quantization = {key: record[key] for key in ("quantization", "double_quant", "quant_storage")}
    return replace(made, quantization=quantization, sidecar=made.sidecar | {"base": record})
