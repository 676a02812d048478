"""Whether a recipe fits this machine, its base and its tokenizer: asked before a row is read or a weight is loaded."""

from pathlib import Path
from typing import TYPE_CHECKING

from medtune.corpus.template import dress, prompt_ids
from medtune.engine.device import pick_device, pick_dtype
from medtune.engine.launch import check_sharding, process_count
from medtune.engine.load import load_tokenizer
from medtune.engine.lora import check_targets
from medtune.params.errors import EngineError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from medtune.params.lora import Lora
    from medtune.params.tokenize import Tokenize
    from medtune.params.train import Train

ROOM = 16  # tokens that a template must leave for question and answer; less is a mistake in any case


def check_recipe(base: Path, template: "Tokenize", lora: "Lora", train: "Train") -> None:
    """What needs the hardware, the tokenizer or the architecture to be judged, before a row is read or a weight loaded.

    Raises EngineError (or RecipeError for a template that the tokenizer lacks) with the mend.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    pick_dtype(train.dtype, pick_device(train.device))
    config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        check_targets(lora.targets, AutoModelForCausalLM.from_config(config))
    check_settings(train, template.max_length, config)
    tokenizer = dress(load_tokenizer(base), template.template, template.system)
    if template.template != "text":
        prompt = len(prompt_ids([{"role": "user", "content": ""}], tokenizer))
        if prompt + ROOM > template.max_length:
            raise EngineError(
                f"tokenize.max_length is {template.max_length}, and the template {template.template} alone takes "
                f"{prompt} tokens; raise it to {prompt + ROOM} at the very least, or choose a shorter template"
            )


def check_settings(train: "Train", longest: int, config: "PretrainedConfig") -> None:
    """EngineError where the recipe asks for what this engine or this base cannot do."""
    if train.sharding != "none":
        process_count(train)
        check_sharding(train)
    positions = getattr(config, "max_position_embeddings", None)
    if positions and longest > positions:
        raise EngineError(
            f"a sample may have {longest} tokens and the base holds {positions} positions; "
            f"set tokenize.max_length to {positions} or less"
        )
