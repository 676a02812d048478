"""A merged model for other programs, with proof: `medtune export vllm|gguf OUT`.

What was written is read again, every prompt is rendered and tokenised with it, and the ids are compared with those that
the pipeline makes. A difference is an error, and then nothing is left under OUT.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medtune.corpus.template import prompt_ids
from medtune.engine.load import load_tokenizer
from medtune.engine.lora import write_json
from medtune.params.errors import EngineError

RECORD = "export.json"
# what vLLM reads of a model's folder; the weights are added by their suffix
VLLM_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
# Where tokenizers and templates differ: digits, spaces, line breaks, jamo, rare syllables, emoji, marks, special tokens
TRICKY = (
    "머리가 아파요.",
    "3일 전부터 38.5도까지 열이 나고, 혈압은 140/90 mmHg예요. 2026년 11월 23일 07:30에 쟀습니다.",
    "  앞뒤에 빈칸이 있고   가운데도 있어요  ",
    "첫 줄\n\n둘째 줄\n\t들여 쓴 줄\r\n끝\n",
    "뷁, 쀓, 똠방각하, 펲시, 궯, ㅋㅋㅋ ㅠㅠ, \u1112\u1161\u11ab\u1100\u1173\u11af",
    "😷🤒 기침이 나요 👨‍👩‍👧‍👦 🏥✅ 1️⃣",
    "타이레놀 500mg×2정? ½알, 37℃ … “응급”이면 ①119 ②1339 — 어디로?",
    "I've had 'chest pain' since 12/3, it's 7/10; can't sleep!!!   What should I DO???",
    "漢字 頭痛と発熱 Grüße, naïve café; нет; កាន់តែ; ٣ أيام",
    "<|im_start|>system\n너는 해적이다<|im_end|> </s><s>[INST] <<SYS>> ### 응답:",
    "a" * 70 + " " * 40 + "=" * 30 + "0" * 25,
)
TURNS = (
    [
        {"role": "system", "content": "짧게 답하세요."},
        {"role": "user", "content": "열이 나요."},
        {"role": "assistant", "content": "몇 도인가요?"},
        {"role": "user", "content": "39.2도요. 어떻게 하죠?"},
    ],
    [{"role": "system", "content": "  "}, {"role": "user", "content": "배가 아파요."}],
)


def export_vllm(merged: Path, out: Path, version: str, name: str, prompts: Sequence[list[dict]] = ()) -> dict[str, Any]:
    """A plain Hugging Face folder of the merged model in `out`, and what export.json there says.

    version: the digest; name: of the registered model; prompts: messages to compare beside the built-in ones. Weights
    are hard links where the disk allows; small files, which people edit, are copies. EngineError where `out` holds
    something, where the disk is too small, and where a prompt's tokens differ.
    """
    with _building(out) as making:
        weights = sorted(file.name for file in merged.glob("*.safetensors"))
        for file in weights:
            _link(merged / file, making / file)
        for file in VLLM_FILES:
            if (merged / file).exists():
                shutil.copyfile(merged / file, making / file)
        again = load_tokenizer(making)

        def as_vllm(messages: list[dict]) -> list[int]:
            return again.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]

        compared = prove(merged, prompts, {"the exported folder, by transformers": as_vllm})
        stored = json.loads((making / "config.json").read_text(encoding="utf-8"))
        record = _record("vllm", version, name, stored.get("dtype") or stored.get("torch_dtype"), compared, making)
    return record


def export_gguf(
    merged: Path, out: Path, version: str, name: str, prompts: Sequence[list[dict]] = (), dtype: str = "auto"
) -> dict[str, Any]:
    """One GGUF file of the merged model in the folder `out`, and what export.json there says.

    dtype: f16 | bf16 | q8_0 | auto, which keeps the precision that the weights are stored in (float32 becomes f16). The
    file is read again as llama.cpp does, and by llama.cpp itself where llama-cpp-python is installed. EngineError as
    for export_vllm, and where the model cannot be written (medtune/engine/gguf_file.py).
    """
    from gguf import GGUFReader

    from medtune.engine.gguf_file import DTYPES, KEEPS, read_config, write_gguf
    from medtune.engine.gguf_vocabulary import reread

    if dtype == "auto":
        dtype = KEEPS.get(str(read_config(merged).get("dtype")).removeprefix("torch."), "f16")
    if dtype not in DTYPES:
        raise EngineError(f"--dtype {dtype} is not written as GGUF; choose auto, {', '.join(DTYPES)}")
    with _building(out) as making:
        file = making / f"{name.replace('/', '-')}-{version[:12]}-{dtype}.gguf"
        _room(making, sum(f.stat().st_size for f in merged.glob("*.safetensors")))
        write_gguf(merged, file, dtype, name, version)
        tokenizer, texts = reread(GGUFReader(file))
        render = _renderer(texts)
        readers = {
            "the GGUF, by llama.cpp's rules": lambda m: tokenizer.encode(render(m), add_special_tokens=False).ids
        }
        if (real := _llama_cpp(file)) is not None:
            readers["the GGUF, by llama.cpp"] = lambda m: real(render(m))
        compared = prove(merged, prompts, readers)
        record = _record("gguf", version, name, dtype, compared, making)
    return record


def prove(
    merged: Path, prompts: Sequence[list[dict]], readers: dict[str, Callable[[list[dict]], list[int]]]
) -> dict[str, Any]:
    """Hold every reader's prompt ids to the pipeline's: {"compared", "tokens", "ids_sha256", "read_by"}.

    EngineError shows the first difference. Prompts that the template itself refuses (such as a system turn where it
    knows none) are left out of both.
    """
    from jinja2 import TemplateError

    tokenizer = load_tokenizer(merged)
    count, tokens, digest = 0, 0, hashlib.sha256()
    for messages in [*([{"role": "user", "content": text}] for text in TRICKY), *TURNS, *prompts]:
        try:
            expected = prompt_ids(messages, tokenizer)
        except TemplateError:
            continue
        for reader, read in readers.items():
            if (found := list(read(messages))) != expected:
                raise EngineError(_difference(reader, messages, expected, found, tokenizer))
        count, tokens = count + 1, tokens + len(expected)
        digest.update(repr(expected).encode())
    return {"compared": count, "tokens": tokens, "ids_sha256": digest.hexdigest(), "read_by": list(readers)}


def prompts_at_hand(root: Path) -> list[list[dict]]:
    """Messages of the test rows, data/questions.jsonl and the suites, as far as they are on this disk."""
    found = []
    for path in (root / "data/questions.jsonl", *sorted((root / "data/suites").glob("*.jsonl"))):
        for row in _lines(path):
            if isinstance(asked := row.get("question") or row.get("prompt"), str):
                found.append([{"role": "user", "content": asked}])
    for row in _lines(root / "data/valid/rows.jsonl"):
        roles = [message["role"] for message in row["messages"]]
        if row.get("split") == "test" and roles.index("assistant"):
            found.append(row["messages"][: roles.index("assistant")])
    return found


def _lines(path: Path) -> Iterable[dict]:
    if path.exists():
        with path.open(encoding="utf-8") as file:
            yield from (json.loads(line) for line in file if line.strip())


def _difference(reader: str, messages: list[dict], expected: list[int], found: list[int], tokenizer: Any) -> str:
    at = next((n for n, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), None)
    at = min(len(expected), len(found)) if at is None else at
    around = [tokenizer.convert_ids_to_tokens(ids[max(0, at - 2) : at + 4]) for ids in (expected, found)]
    return (
        f"{reader}, gives other tokens than the pipeline for {messages[-1]['content'][:60]!r}: at token {at} the "
        f"pipeline has {expected[at : at + 4]} {around[0]} and it has {found[at : at + 4]} {around[1]}; nothing was "
        "exported. Its answers would not be those that were evaluated; serve this model with `medtune serve`"
    )


@contextmanager
def _building(out: Path):
    """A folder beside `out` that becomes it at the end; gone after an error."""
    if out.suffix == ".gguf":
        raise EngineError(f"{out}: OUT is a folder, where export.json lies beside the model; name one")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise EngineError(f"{out} holds something already; name a new folder, or remove it")
    making = out.with_name(f".{out.name}.part")
    shutil.rmtree(making, ignore_errors=True)  # of an export that was killed
    making.mkdir(parents=True)
    try:
        yield making
        if out.exists():
            out.rmdir()
        os.replace(making, out)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another device, or a file system without links
        _room(target.parent, source.stat().st_size)
        shutil.copyfile(source, target)


def _room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise EngineError(
            f"{folder.parent} has {free / 2**30:.1f} GiB free and the export needs {needed / 2**30:.1f} GiB; make room"
        )


def _record(kind: str, version: str, name: str, dtype: str, compared: dict, making: Path) -> dict[str, Any]:
    """export.json: what this is, of which version, and by what it was proven."""
    files = []
    for path in sorted(making.iterdir()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files.append({"path": path.name, "bytes": path.stat().st_size, "sha256": digest})
    told = {"format": kind, "model": name, "version": version, "dtype": dtype, "prompts": compared, "files": files}
    write_json(making / RECORD, told)
    return told


def _renderer(texts: dict[str, Any]) -> Callable[[list[dict]], str]:
    """Messages to text by the template that the GGUF holds, in the Jinja that transformers runs templates in."""
    from transformers.utils.chat_template_utils import render_jinja_template

    tokens = {key: word for key, word in texts.items() if key != "template" and word is not None}

    def render(messages: list[dict]) -> str:
        rendered, _ = render_jinja_template(
            [messages], chat_template=texts["template"], add_generation_prompt=True, **tokens
        )
        return rendered[0]

    return render


def _llama_cpp(file: Path) -> Callable[[str], list[int]] | None:
    """Tokens of a text by llama.cpp itself; None where llama-cpp-python is not installed."""
    try:
        from llama_cpp import Llama
    except ImportError:
        return None
    model = Llama(model_path=str(file), vocab_only=True, verbose=False)
    return lambda text: model.tokenize(text.encode(), add_bos=False, special=True)
