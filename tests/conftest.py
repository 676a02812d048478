"""Shared fixtures: a tiny random Llama with a real byte-level tokenizer, and a quiet, offline environment."""

import os
import sys
from pathlib import Path

os.environ.update(
    DVC_NO_ANALYTICS="1",
    DO_NOT_TRACK="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    HF_HUB_DISABLE_TELEMETRY="1",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    TOKENIZERS_PARALLELISM="false",
    # Images set it; without bytecode each of the hundreds of processes below compiles torch's and MLflow's source anew.
    PYTHONDONTWRITEBYTECODE="",
)

import pytest

sys.dont_write_bytecode = False  # the same for this process, which read the variable at its start
ROOT = Path(__file__).resolve().parent.parent

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_tiny_base(path: Path, hidden: int = 64, layers: int = 2, seed: int = 0) -> Path:
    """A LlamaForCausalLM with random weights (about 0.1 M parameters), tokenizer and ChatML template, in a folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["머리가 아파요.", "병원에 가세요.", "열이 나면 물을 드세요."], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>", unk_token="<|endoftext|>"
    )
    fast.chat_template = CHATML
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=hidden,
        intermediate_size=hidden * 2,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    fast.save_pretrained(path)
    return path


@pytest.fixture(scope="session", autouse=True)
def nobodys_keys(tmp_path_factory: pytest.TempPathFactory):
    """A developer's own keys, ledger and servers are no part of a test."""
    own = ("MEDTUNE_KEYS", "MEDTUNE_KEY_PASSWORD", "MEDTUNE_SIGNING", "MEDTUNE_LEDGER_URI", "MEDTUNE_ACTOR")
    target = ("MEDTUNE_TARGET", "MEDTUNE_TARGET_APPLIED", "MEDTUNE_NOTIFY")
    with pytest.MonkeyPatch.context() as patch:
        for name in (*own, *target, "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
            patch.delenv(name, raising=False)
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(autouse=True)
def nobodys_target():
    """A command run in this process puts a target's settings into the environment, as it should: the next test's
    commands must not find them there."""
    before = set(os.environ)
    yield
    applied = os.environ.get("MEDTUNE_TARGET_APPLIED", "")
    for name in {"MEDTUNE_TARGET", "MEDTUNE_TARGET_APPLIED", *applied.partition(":")[2].split(",")} - before:
        os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def no_store_in_the_checkout():
    """MLflow, asked without an address, makes mlflow.db where it stands: nobody's test may leave it here."""
    yield
    store = ROOT / "mlflow.db"
    if store.exists():
        store.unlink(missing_ok=True)
        pytest.fail(f"MLflow was asked without a tracking address, and made {store.name}; name a store of the test's")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("tiny") / "base")
