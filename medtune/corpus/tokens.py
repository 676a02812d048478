"""A split of dialogues as an Arrow dataset, with the label contract checked on every row, and what is told of it."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medtune.corpus.labels import IGNORED, encode, first_prompt, violations
from medtune.params.errors import CorpusError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

SPLITS = ("train", "validation", "test")
SHOWN = 10


@dataclass(frozen=True)
class EncodedSplit:
    """dataset: input_ids, labels (lists of int), row_id, cluster, chars; truncated and dropped: row ids."""

    dataset: "Dataset"
    truncated: list[str]
    dropped: list[str]


def encode_split(
    rows: list[dict], tokenizer: "PreTrainedTokenizerBase", max_length: int, overflow: str, name: str
) -> EncodedSplit:
    """Rows of data/valid as samples, in order.

    Raises CorpusError where a row breaks the label contract (row ids and sentences named), or where rows went in and
    none came out.
    """
    from datasets import Dataset, Features, Sequence, Value
    from tqdm import tqdm

    columns: dict[str, list] = {"input_ids": [], "labels": [], "row_id": [], "cluster": [], "chars": []}
    truncated, dropped, broken = [], [], []
    for row in tqdm(rows, desc=name, unit="row", disable=None):
        sample = encode(row["messages"], tokenizer, max_length, overflow)
        if sample is None:
            dropped.append(row["row_id"])
            continue
        prompt = first_prompt(row["messages"], tokenizer)
        if found := violations(sample.input_ids, sample.labels, prompt, tokenizer, max_length):
            broken.append(f"  row {row['row_id'][:12]} ({row['source']}): {'; '.join(found)}")
        if sample.truncated:
            truncated.append(row["row_id"])
        columns["input_ids"].append(sample.input_ids)
        columns["labels"].append(sample.labels)
        columns["row_id"].append(row["row_id"])
        columns["cluster"].append(row["cluster"])
        columns["chars"].append(sample.chars)
    if broken:
        more = f"\n  and {len(broken) - SHOWN} more" if len(broken) > SHOWN else ""
        raise CorpusError(
            f"{len(broken)} rows of {name} break the label contract (medtune/corpus/labels.py); remove them or choose "
            "another tokenize.template:\n" + "\n".join(broken[:SHOWN]) + more
        )
    if rows and not columns["row_id"]:
        raise CorpusError(
            f"none of the {len(rows)} rows of {name} fits tokenize.max_length {max_length}: the prompt alone is "
            "longer; raise it or choose a shorter template"
        )
    ints = Sequence(Value("int32"))
    text = Value("string")
    features = Features({"input_ids": ints, "labels": ints, "row_id": text, "cluster": text, "chars": Value("int32")})
    return EncodedSplit(Dataset.from_dict(columns, features=features), truncated, dropped)


def summarise(dataset: "Dataset") -> dict:
    """Rows, tokens, trained tokens, length percentiles, and the share of padding in batches of 2, 4 and 8 rows."""
    import numpy as np

    lengths = np.array([len(ids) for ids in dataset["input_ids"]], dtype=np.int64)
    if not len(lengths):
        return {"rows": 0, "tokens": 0, "target_tokens": 0}
    shuffled = np.random.default_rng(0).permutation(lengths)
    waste = {}
    for size in (2, 4, 8):
        padded = sum(size_of.max() * len(size_of) for size_of in np.split(shuffled, range(size, len(shuffled), size)))
        waste[str(size)] = round(1 - int(lengths.sum()) / int(padded), 4)
    return {
        "rows": len(lengths),
        "tokens": int(lengths.sum()),
        "target_tokens": sum(sum(label != IGNORED for label in labels) for labels in dataset["labels"]),
        "length": {f"p{p}": int(np.percentile(lengths, p)) for p in (0, 5, 25, 50, 75, 95, 100)},
        "padding_share": waste,
    }


def tokens_digest(splits: dict[str, "Dataset"]) -> dict[str, str]:
    """tokens_digest: of every id, label and row id in order; test_digest: of the sorted row ids of the test split.

    The test digest names the rows and not their tokens, so that models with different tokenizers are compared on it.
    """
    whole = hashlib.sha256()
    for name in SPLITS:
        for row in splits[name]:
            whole.update(repr((name, row["row_id"], row["input_ids"], row["labels"])).encode())
    return {"tokens_digest": whole.hexdigest(), "test_digest": rows_digest(splits["test"]["row_id"])}


def rows_digest(row_ids: list[str]) -> str:
    """sha256 over the sorted row ids: the name of a set of rows."""
    return hashlib.sha256("\n".join(sorted(row_ids)).encode()).hexdigest()


def length_rows(splits: dict[str, "Dataset"], width: int = 16) -> list[str]:
    """Lines `length,count,split` of a histogram with bins of `width` tokens."""
    lines = []
    for name, dataset in splits.items():
        counts: dict[int, int] = {}
        for ids in dataset["input_ids"]:
            start = len(ids) // width * width
            counts[start] = counts.get(start, 0) + 1
        lines += [f"{start},{counts[start]},{name}" for start in sorted(counts)]
    return lines
