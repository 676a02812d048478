"""Tokens of rows that differ in length by much, as real ones do."""

from pathlib import Path

from engine.tiny import rows
from medtune.corpus.template import dress
from medtune.corpus.tokens import encode_split
from medtune.engine.load import load_tokenizer


def write_uneven_tokens(base: Path, folder: Path, train: int, validation: int = 7) -> Path:
    """Splits train and validation on disk, as stages/tokenize.py writes them; the longest row is many times the
    shortest."""
    tokenizer = dress(load_tokenizer(base), "chat", None)
    everything = rows(train + validation)
    for n, row in enumerate(everything):
        row["messages"][1]["content"] = " ".join([row["messages"][1]["content"]] * (1 + n * 5 % 7))
    for name, part in (("train", everything[:train]), ("validation", everything[train:])):
        encode_split(part, tokenizer, 256, "truncate", name).dataset.save_to_disk(folder / name)
    return folder
