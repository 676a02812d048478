"""What the random bases of the benchmarks have in common: a Llama's shape, its linear layers, config and tokenizer."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlamaConfig

UNK, BOS, EOS, PAD, FIRST_WORD = 0, 1, 2, 3, 4


@dataclass(frozen=True)
class Shape:
    """Of a Llama. lengths: (median, deviation of the logarithm, shortest, longest) of a sample, in tokens."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    positions: int = 8192
    lengths: tuple[float, float, int, int] = (285, 0.33, 64, 512)


def linears(shape: Shape) -> dict[str, tuple[int, int]]:
    """Name in a layer -> (outputs, inputs)."""
    keys = shape.hidden // shape.heads * shape.kv_heads
    return {
        "self_attn.q_proj": (shape.hidden, shape.hidden),
        "self_attn.k_proj": (keys, shape.hidden),
        "self_attn.v_proj": (keys, shape.hidden),
        "self_attn.o_proj": (shape.hidden, shape.hidden),
        "mlp.gate_proj": (shape.ffn, shape.hidden),
        "mlp.up_proj": (shape.ffn, shape.hidden),
        "mlp.down_proj": (shape.hidden, shape.ffn),
    }


def deviation(name: str, layers: int) -> float:
    """Of a weight's normal distribution: o_proj and down_proj less, so that the residual stream does not grow."""
    return 0.02 / (2 * layers) ** 0.5 if name.removesuffix(".weight").endswith(("o_proj", "down_proj")) else 0.02


def config(shape: Shape, **more: object) -> "LlamaConfig":
    from transformers import LlamaConfig

    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.positions,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=False,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=EOS,  # as KULLM3 has it
        dtype="bfloat16",
        **more,
    )


def write_tokenizer(vocab: int, folder: Path) -> None:
    """Words w4, w5, … by white space; bos <s>, eos and pad </s>. <pad> exists and is not used."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<unk>": UNK, "<s>": BOS, "</s>": EOS, "<pad>": PAD} | {f"w{n}": n for n in range(FIRST_WORD, vocab)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", "<pad>"])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
