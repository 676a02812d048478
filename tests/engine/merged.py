"""Small merged models with tokenizers of the kinds that Llama models have: for the tests of exports and servers."""

import json
from pathlib import Path

from medtune.engine.gguf_vocabulary import LLAMA3, SPACE

ROOT = Path(__file__).resolve().parents[2]
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]


def texts() -> list[str]:
    found = []
    for path in (ROOT / "data/questions.jsonl", ROOT / "data/suites/general.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            found += [value for value in json.loads(line).values() if isinstance(value, str)]
    return [*found, "3일 12일 365일 38.5도 1234567", "it's what I've had, can't sleep"]


def make_tokenizer(kind: str, path: Path, template: str | None = None):
    """kind: gpt2 | smollm | llama3 | pieces (SentencePiece with a space in front) | pieces-first; saved in `path`."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    pieces = kind.startswith("pieces")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind != "llama3")
    if pieces:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
        # for the training only, so that no piece goes over a word's end
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(f"{SPACE}+[^{SPACE}]*"), "isolated")
        special = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
        trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special)
    else:
        tokenizer = Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
        steps = {
            "gpt2": [level],
            "smollm": [pre_tokenizers.Digits(individual_digits=True), level],
            "llama3": [pre_tokenizers.Split(Regex(LLAMA3), "isolated"), level],
        }[kind]
        tokenizer.pre_tokenizer = steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=800, special_tokens=SPECIAL, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts(), trainer)
    if pieces:
        tokenizer = _as_pieces(tokenizer, kind)
    if kind != "gpt2":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", SPECIAL.index("<s>"))]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )
    if template:
        from medtune.corpus.template import dress

        dress(fast, template, None)
    fast.save_pretrained(path)
    return fast


def _as_pieces(tokenizer, kind: str):
    """Take bytes and words out of the special tokens, and cut no words: as converted SentencePiece models are."""
    from tokenizers import Tokenizer, decoders

    told = json.loads(tokenizer.to_str())
    told["added_tokens"] = [item for item in told["added_tokens"] if item["content"] in SPECIAL]
    told["pre_tokenizer"] = None
    if kind == "pieces-first":
        told["normalizer"] = None
        told["pre_tokenizer"] = {
            "type": "Metaspace",
            "replacement": SPACE,
            "prepend_scheme": "first",
            "split": False,
        }
    changed = Tokenizer.from_str(json.dumps(told))
    changed.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return changed


def make_model(kind: str, path: Path, template: str, **config) -> Path:
    """A merged model in a folder as the pipeline leaves it: random float32 weights, generation defaults, template."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(kind, path, template)
    torch.manual_seed(7)
    shape = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.2,
    }
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **shape | config,
        )
    )
    model.generation_config = GenerationConfig(
        do_sample=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        temperature=0.2,
        top_k=50,
        top_p=0.92,
        repetition_penalty=1.2,
        max_new_tokens=24,
    )
    model.save_pretrained(path)
    return path
