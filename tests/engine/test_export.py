"""Exports: what was written is read again, and must see the pipeline's prompt tokens."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from conftest import write_tiny_base
from safetensors.torch import load_file

from engine.merged import make_model
from medtune.corpus.template import prompt_ids
from medtune.engine import export
from medtune.engine.export import TRICKY, TURNS, export_gguf, export_vllm, prompts_at_hand
from medtune.engine.gguf_file import head_width, permute, read_config, rope_factors
from medtune.engine.load import load_tokenizer
from medtune.params.errors import EngineError

ROOT = Path(__file__).resolve().parents[2]
VERSION = "d" * 64
LLAMA3 = {
    "rope_theta": 500000.0,
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}
KINDS = [
    ("gpt2", "alpaca-ko", {}),
    ("smollm", "doctor", {"tie_word_embeddings": True}),
    ("llama3", "kullm", {"rope_parameters": LLAMA3}),
    ("pieces", "kullm", {"head_dim": 32}),
    ("pieces-first", "alpaca-ko", {"tie_word_embeddings": True}),
]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind[0])
def merged(request, tmp_path_factory) -> Path:
    kind, template, config = request.param
    return make_model(kind, tmp_path_factory.mktemp(kind) / "merged", template, **config)


@pytest.fixture(scope="module")
def chat(tmp_path_factory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("chat") / "merged")


def gguf_of(out: Path) -> Path:
    (file,) = out.glob("*.gguf")
    return file


def fields(file: Path) -> dict:
    from gguf import GGUFReader

    return {key: field.contents() for key, field in GGUFReader(file).fields.items()}


def test_gguf_holds_the_same_weights_and_tokens(merged, tmp_path):
    """Read by transformers: its reader undoes the permutation, and knows nothing of ours."""
    from transformers import AutoModelForCausalLM, GgufConfig

    out = tmp_path / "out"
    told = export_gguf(merged, out, VERSION, "medgpt-ko", prompts_at_hand(ROOT))
    assert told["dtype"] == "f16"
    assert told["prompts"]["compared"] > 200
    file = gguf_of(out)
    again = AutoModelForCausalLM.from_pretrained(
        out, gguf_file=file.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    ).state_dict()
    for name, weight in load_file(merged / "model.safetensors").items():
        assert torch.equal(again[name], weight.half().float() if weight.ndim > 1 else weight), name
    listed = {item["path"]: item for item in json.loads((out / "export.json").read_text())["files"]}
    assert listed[file.name]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_gguf_says_what_the_model_is(merged, tmp_path):
    export_gguf(merged, tmp_path / "out", VERSION, "medgpt-ko")
    told, config, tokenizer = fields(gguf_of(tmp_path / "out")), read_config(merged), load_tokenizer(merged)
    assert told["general.architecture"] == "llama"
    assert told["medtune.version"] == VERSION
    assert told["llama.attention.head_count_kv"] == 2
    assert told["llama.rope.dimension_count"] == head_width(config)
    assert told["llama.rope.freq_base"] == config["rope_parameters"]["rope_theta"]
    assert told["tokenizer.chat_template"] == tokenizer.chat_template
    assert told["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id
    assert told["tokenizer.ggml.add_bos_token"] == (tokenizer("a").input_ids[0] == tokenizer.bos_token_id)
    assert told["general.sampling.temp"] == pytest.approx(0.2)
    assert told["general.sampling.penalty_repeat"] == pytest.approx(1.2)
    assert len(told["tokenizer.ggml.tokens"]) == config["vocab_size"]


def test_transformers_reads_the_same_prompt_tokens_from_the_gguf(chat, tmp_path):
    """Where its reader rebuilds the tokenizer whole: byte-level BPE cut as GPT-2 cuts."""
    from transformers import AutoTokenizer

    export_gguf(chat, tmp_path / "out", VERSION, "medgpt-ko")
    again = AutoTokenizer.from_pretrained(tmp_path / "out", gguf_file=gguf_of(tmp_path / "out").name)
    tokenizer = load_tokenizer(chat)
    for messages in [*([{"role": "user", "content": text}] for text in TRICKY), *TURNS]:
        assert prompt_ids(messages, again) == prompt_ids(messages, tokenizer)


def test_llama_cpp_reads_the_same_prompt_tokens(merged, tmp_path):
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (it compiles llama.cpp)")
    told = export_gguf(merged, tmp_path / "out", VERSION, "medgpt-ko", prompts_at_hand(ROOT))
    assert "the GGUF, by llama.cpp" in told["prompts"]["read_by"]


@pytest.mark.parametrize(("dtype", "near"), [("f16", 1e-3), ("bf16", 8e-3), ("q8_0", 8e-3)])
def test_each_precision_is_as_near_as_it_says(chat, tmp_path, dtype, near):
    from gguf import GGUFReader
    from gguf.quants import dequantize

    export_gguf(chat, tmp_path / "out", VERSION, "medgpt-ko", dtype=dtype)
    stored = {tensor.name: tensor for tensor in GGUFReader(gguf_of(tmp_path / "out")).tensors}
    weights = load_file(chat / "model.safetensors")
    expected = permute(weights["model.layers.1.self_attn.k_proj.weight"], 2)
    found = torch.from_numpy(dequantize(stored["blk.1.attn_k.weight"].data, stored["blk.1.attn_k.weight"].tensor_type))
    assert stored["blk.1.attn_k.weight"].tensor_type.name.lower() == dtype
    assert 0 < float((found - expected).abs().max() / expected.abs().max()) < near
    assert stored["blk.1.attn_norm.weight"].tensor_type.name == "F32"


def test_ropes_factors_are_those_of_transformers(tmp_path):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(hidden_size=512, num_attention_heads=4, rope_parameters=LLAMA3)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, device="cpu")
    plain = 1.0 / 500000.0 ** (torch.arange(0, 128, 2, dtype=torch.float32) / 128)
    factors = rope_factors(config.to_dict())
    assert torch.allclose(plain / factors, scaled, rtol=1e-5)
    assert len(set(factors.tolist())) > 3  # whole, smoothed and unscaled parts are all there


def test_vllm_gets_a_plain_folder(merged, tmp_path):
    for file in ("MLmodel", "conda.yaml", "medtune.json"):
        (merged / file).write_text("{}")
    out = tmp_path / "out"
    told = export_vllm(merged, out, VERSION, "medgpt-ko", prompts_at_hand(ROOT))
    names = {path.name for path in out.iterdir()}
    assert names == {item["path"] for item in told["files"]} | {"export.json"}
    assert names == {
        "chat_template.jinja",
        "config.json",
        "export.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert (out / "model.safetensors").samefile(merged / "model.safetensors")
    assert not (out / "config.json").samefile(merged / "config.json")  # people edit it, and the registered one stays


def test_a_difference_is_shown_and_leaves_nothing(chat, tmp_path, monkeypatch):
    from medtune.engine import gguf_vocabulary

    monkeypatch.setattr(
        gguf_vocabulary, "_merges", lambda file, model: [" ".join(pair) for pair in model["merges"][:3]]
    )
    with pytest.raises(
        EngineError, match=r"(?s)gives other tokens than the pipeline for '.*at token \d+ .*nothing was"
    ):
        export_gguf(chat, tmp_path / "out", VERSION, "medgpt-ko")
    assert not list(tmp_path.iterdir())


def test_a_folder_with_another_template_is_caught(chat, tmp_path, monkeypatch):
    copy = export.shutil.copyfile

    def changed(source, target):
        copy(source, target)
        if target.name == "chat_template.jinja":
            target.write_text(target.read_text().replace("assistant", "doctor"))

    monkeypatch.setattr(export.shutil, "copyfile", changed)
    with pytest.raises(EngineError, match="the exported folder, by transformers, gives other tokens"):
        export_vllm(chat, tmp_path / "out", VERSION, "medgpt-ko")
    assert not list(tmp_path.iterdir())


def test_what_is_there_stays(chat, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("mine")
    with pytest.raises(EngineError, match="out holds something already; name a new folder"):
        export_vllm(chat, tmp_path / "out", VERSION, "medgpt-ko")
    assert (tmp_path / "out/mine").read_text() == "mine"
    with pytest.raises(EngineError, match="OUT is a folder"):
        export_gguf(chat, tmp_path / "model.gguf", VERSION, "medgpt-ko")


def edit(path: Path, change) -> None:
    told = json.loads(path.read_text(encoding="utf-8"))
    change(told)
    path.write_text(json.dumps(told), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "change", "named"),
    [
        ("config.json", lambda c: c.update(architectures=["Qwen2ForCausalLM"]), "is Qwen2ForCausalLM, and only Llama"),
        ("config.json", lambda c: c.update(hidden_act="gelu"), "computes with gelu"),
        ("config.json", lambda c: c.update(attention_bias=True), "has biases, which"),
        (
            "config.json",
            lambda c: c.update(rope_parameters={"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}),
            "rope of type yarn",
        ),
        ("config.json", lambda c: c.update(vocab_size=300), "and the model 300 embeddings"),
        (
            "tokenizer.json",
            lambda t: t.update(pre_tokenizer={"type": "Whitespace"}),
            "cuts text by Whitespace in a way that none of",
        ),
        ("tokenizer.json", lambda t: t["added_tokens"][0].update(rstrip=True), "takes the spaces beside it"),
        ("tokenizer.json", lambda t: t.update(normalizer={"type": "NFC"}), "cuts text by ByteLevel in a way"),
    ],
)
def test_what_gguf_cannot_say_is_refused_by_name(tmp_path, file, change, named):
    merged = write_tiny_base(tmp_path / "merged")
    edit(merged / file, change)
    with pytest.raises(EngineError, match=f"{named}.*llama.cpp's own|{named}.*do not match"):
        export_gguf(merged, tmp_path / "out", VERSION, "medgpt-ko", dtype="f16")
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_weights_beyond_float16_are_refused(tmp_path):
    from safetensors.torch import save_file

    merged = write_tiny_base(tmp_path / "merged")
    weights = load_file(merged / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][3, 5] = 70000.0
    save_file(weights, merged / "model.safetensors", {"format": "pt"})
    with pytest.raises(EngineError, match=r"ffn_up\.weight holds weights beyond float16; export with --dtype bf16"):
        export_gguf(merged, tmp_path / "out", VERSION, "medgpt-ko", dtype="f16")
    assert export_gguf(merged, tmp_path / "out", VERSION, "medgpt-ko", dtype="bf16")["dtype"] == "bf16"
