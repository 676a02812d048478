"""A tokenizer as GGUF keeps it, and back again as llama.cpp reads it.

GGUF holds no tokenizer.json: a list of tokens with their types, merges or scores, and the name of the way in which text
is cut before the merges (`tokenizer.ggml.pre`). What cannot be said so is refused by name. `reread` follows
llama.cpp's src/llama-vocab.cpp, so that the comparison in medtune/engine/export.py is with what llama.cpp would do.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtune.params.errors import EngineError

if TYPE_CHECKING:
    from gguf import GGUFReader, GGUFWriter
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # llama_token_type of llama.h
UNREACHED = -1e6  # score of a token that no merge makes, below all that some merge does
SPACE = "\u2581"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONVERTER = "llama.cpp's own convert_hf_to_gguf.py may know it"


@dataclass(frozen=True)
class Vocabulary:
    """What is written. kind: gpt2 (byte-level BPE) | llama (SentencePiece); merges for the first, scores the second."""

    kind: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str] | None
    scores: list[float] | None
    space_prefix: bool
    ids: dict[str, int | None]
    adds: dict[str, bool]
    template: str

    def add_to(self, writer: "GGUFWriter") -> None:
        writer.add_tokenizer_model(self.kind)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.merges is not None:
            writer.add_token_merges(self.merges)
        if self.scores is not None:
            writer.add_token_scores(self.scores)
        writer.add_add_space_prefix(self.space_prefix)
        for name, number in self.ids.items():
            if number is not None:
                getattr(writer, f"add_{name}_token_id")(number)
        writer.add_add_bos_token(self.adds["bos"])
        writer.add_add_eos_token(self.adds["eos"])
        writer.add_chat_template(self.template)


def vocabulary(folder: Path, tokenizer: "PreTrainedTokenizerBase", size: int) -> Vocabulary:
    """The tokenizer of a model's folder as GGUF keeps it; `size`: rows of the embedding.

    EngineError names what has no form in GGUF.
    """
    file = folder / "tokenizer.json"
    if not file.exists():
        raise EngineError(f"{folder} has no tokenizer.json; only such tokenizers are written as GGUF, and {CONVERTER}")
    if not isinstance(tokenizer.chat_template, str):
        raise EngineError(f"{folder} has no single chat template, and its prompts could not be made from the GGUF")
    told = json.loads(file.read_text(encoding="utf-8"))
    model = told["model"]
    if model["type"] != "BPE" or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise EngineError(f"{file}: a {model['type']} tokenizer of this form is not written as GGUF; {CONVERTER}")
    tokens, types = _tokens(file, told, size)
    pieces = bool(model.get("byte_fallback"))
    if pieces:
        pre, merges, scores = "default", None, _scores(model, tokens, types)
        space_prefix = _space_prefix(file, told, tokenizer)
        _pieces(tokens, types, model.get("unk_token"))
    else:
        pre, merges, scores = _pre(file, told), _merges(file, model), None
        space_prefix = False
    plain = tokenizer("a").input_ids
    ids = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    return Vocabulary(
        kind="llama" if pieces else "gpt2",
        pre=pre,
        tokens=tokens,
        types=types,
        merges=merges,
        scores=scores,
        space_prefix=space_prefix,
        ids=ids | {"unk": tokenizer.unk_token_id},
        adds={"bos": plain[:1] == [ids["bos"]], "eos": len(plain) > 1 and plain[-1] == ids["eos"]},
        template=tokenizer.chat_template,
    )


def _tokens(file: Path, told: dict, size: int) -> tuple[list[str], list[int]]:
    tokens = [f"[PAD{number}]" for number in range(size)]
    types = [UNUSED] * size
    added = {item["id"]: item for item in told["added_tokens"]}
    entries = {number: word for word, number in told["model"]["vocab"].items()}
    entries |= {number: item["content"] for number, item in added.items()}
    if max(entries) >= size:
        raise EngineError(f"{file} has id {max(entries)} and the model {size} embeddings; they do not match")
    for number, word in entries.items():
        tokens[number], types[number] = word, NORMAL
        if item := added.get(number):
            if item["lstrip"] or item["rstrip"] or item["single_word"]:
                raise EngineError(f"{file}: {word!r} takes the spaces beside it, which GGUF cannot say; {CONVERTER}")
            types[number] = CONTROL if item["special"] else USER_DEFINED
    return tokens, types


def _merges(file: Path, model: dict) -> list[str]:
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    if wrong := next((pair for pair in pairs if len(pair) != 2 or " " in pair[0] + pair[1]), None):
        raise EngineError(f"{file}: merge {wrong!r} holds a space, which GGUF cannot say; {CONVERTER}")
    return [f"{left} {right}" for left, right in pairs]


def _pre(file: Path, told: dict) -> str:
    """The name that llama.cpp has for this way of cutting text."""
    cut, merged_whole = told["pre_tokenizer"], bool(told["model"].get("ignore_merges"))
    steps = cut["pretokenizers"] if cut and cut["type"] == "Sequence" else [cut]
    kinds = [step and step["type"] for step in steps]
    last = steps[-1]
    if not told["normalizer"] and kinds[-1] == "ByteLevel" and not last["add_prefix_space"]:
        if kinds == ["ByteLevel"] and last["use_regex"] and not merged_whole:
            return "gpt-2"
        if (
            kinds == ["Digits", "ByteLevel"]
            and last["use_regex"]
            and steps[0]["individual_digits"]
            and not merged_whole
        ):
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and not last["use_regex"] and merged_whole:
            split = steps[0]
            if (
                split["pattern"].get("Regex") == LLAMA3
                and split["behavior"].lower() == "isolated"
                and not split["invert"]
            ):
                return "llama-bpe"
    raise EngineError(
        f"{file} cuts text by {' then '.join(map(str, kinds))} in a way that none of gpt-2, smollm and llama-bpe is; "
        f"{CONVERTER}"
    )


def _pieces(tokens: list[str], types: list[int], unknown: str | None) -> None:
    """Types of SentencePiece: the token for the unknown, and those for single bytes."""
    for number, word in enumerate(tokens):
        if word == unknown:
            types[number] = UNKNOWN
        elif types[number] == NORMAL and re.fullmatch(r"<0x[0-9A-F]{2}>", word):
            types[number] = BYTE


def _scores(model: dict, tokens: list[str], types: list[int]) -> list[float]:
    """llama.cpp joins the two neighbours whose joint token has the highest score, where merges give an order: a token's
    score is minus the place of the first merge that makes it."""
    place: dict[str, int] = {}
    for number, merge in enumerate(model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        place.setdefault(left + right, number)
    return [
        0.0 if kind != NORMAL or len(word) == 1 else float(-place[word]) if word in place else UNREACHED
        for word, kind in zip(tokens, types, strict=True)
    ]


def _space_prefix(file: Path, told: dict, tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether a space goes before a text that begins or follows a special token."""
    normalizer, cut = told["normalizer"], told["pre_tokenizer"]
    steps = normalizer["normalizers"] if normalizer and normalizer["type"] == "Sequence" else [normalizer]
    kinds = [step["type"] for step in steps if step]
    if cut is None and kinds == ["Prepend", "Replace"]:
        return True
    if cut is None and kinds == ["Replace"]:
        return False
    if cut is not None and cut["type"] == "Metaspace" and not kinds:
        # "first" means the very beginning of a text, and a prompt begins with BOS
        return {"always": True, "never": False, "first": tokenizer.bos_token_id is None}[cut["prepend_scheme"]]
    raise EngineError(f"{file} puts spaces in a way that GGUF cannot say ({kinds}, {cut}); {CONVERTER}")


def reread(reader: "GGUFReader") -> tuple["Tokenizer", dict[str, Any]]:
    """The tokenizer that llama.cpp makes of a GGUF, and its texts: {"template", "bos_token", "eos_token", …}."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

    def value(key: str) -> Any:
        field = reader.get_field(f"tokenizer.{key}")
        return None if field is None else field.contents()

    words, types = value("ggml.tokens"), value("ggml.token_type")
    vocab = {word: number for number, word in enumerate(words)}
    if value("ggml.model") == "llama":
        unknown = words[types.index(UNKNOWN)] if UNKNOWN in types else None
        tokenizer = Tokenizer(
            models.BPE(vocab, _joins(words, types, value("ggml.scores")), unk_token=unknown, byte_fallback=True)
        )
        front = [normalizers.Prepend(SPACE)] if value("ggml.add_space_prefix") else []
        tokenizer.normalizer = normalizers.Sequence([*front, normalizers.Replace(" ", SPACE)])
    else:
        pre = value("ggml.pre")
        merges = [tuple(merge.split(" ")) for merge in value("ggml.merges")]
        tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=pre == "llama-bpe"))
        bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        as_gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.pre_tokenizer = {
            "gpt-2": as_gpt2,
            "smollm": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"), as_gpt2]),
            "llama-bpe": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), bytes_only]),
        }[pre]
    whole = [word for word, kind in zip(words, types, strict=True) if kind in (CONTROL, USER_DEFINED, UNKNOWN)]
    tokenizer.add_special_tokens([AddedToken(word, normalized=False, special=True) for word in whole])
    texts = {"template": value("chat_template")}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        number = value(f"ggml.{key}_token_id")
        texts[f"{name}_token"] = None if number is None else words[number]
    return tokenizer, texts


def _joins(words: list[str], types: list[int], scores: list[float]) -> list[tuple[str, str]]:
    """Every pair of tokens whose joint text is a token, the highest score of that first."""
    known = {word for word, kind in zip(words, types, strict=True) if kind == NORMAL}
    found = []
    for word, kind, score in zip(words, types, scores, strict=True):
        if kind == NORMAL:
            for cut in range(1, len(word)):
                if word[:cut] in known and word[cut:] in known:
                    found.append((-score, word[:cut], word[cut:]))
    return [(left, right) for _, left, right in sorted(found, key=lambda item: item[0])]
