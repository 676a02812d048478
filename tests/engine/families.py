"""Tiny random bases of the recipes' architectures, with tokenizers that treat BOS, EOS and padding as theirs do."""

from pathlib import Path

from tests.conftest import write_tiny_base


def write_family(path: Path, family: str) -> Path:
    """llama3: grouped queries, BOS in front, no chat template; llama2: without groups; kullm: grouped, pad = EOS;
    neo: GPT-Neo with a global and a local layer, no BOS in front; chat: grouped, ChatML, as conftest writes it."""
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoConfig, LlamaConfig

    write_tiny_base(path)
    if family == "chat":
        return path
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = None
    (path / "chat_template.jinja").unlink(missing_ok=True)
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 64, "max_position_embeddings": 4096}
    if family == "neo":
        tokenizer.bos_token = tokenizer.pad_token = tokenizer.eos_token
        config = GPTNeoConfig(
            **sizes, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=32
        )
    else:
        bos = "<|im_start|>"
        tokenizer.bos_token = bos
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.convert_tokens_to_ids(bos))]
        )
        if family != "kullm":
            tokenizer.pad_token = None
        heads = {"num_attention_heads": 4, "num_key_value_heads": 4 if family == "llama2" else 2}
        config = LlamaConfig(**sizes, **heads, intermediate_size=128, num_hidden_layers=2)
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
