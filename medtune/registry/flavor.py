"""What MLflow needs beside the weights, so that `mlflow.transformers.load_model("models:/medgpt-ko@champion")` works.

MLflow 3.17 cannot log a model from a local folder, and copies it where it can. Its loader, though, only reads MLmodel
and two folders: the weights (`model_binary`, here the folder itself) and components/tokenizer. So these are written by
hand around the linked weights: nothing is loaded, copied or pickled. tests/registry/test_load.py loads the result.
"""

import json
import shutil
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from medtune.params.errors import RegistryError

EXAMPLE = "머리가 아프고 열이 나요. 어떻게 해야 하나요?"
# every file that any tokenizer of transformers saves, and config.json, which AutoTokenizer asks for the model type
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "config.json",
)
REQUIREMENTS = ("mlflow", "torch", "transformers", "accelerate", "safetensors", "tokenizers")


def write_flavor(directory: Path, digest: str, base: str, created: datetime, run_id: str) -> None:
    """Make the merged model in `directory` a MLflow model: MLmodel, signature, input example, requirements.

    `digest` is the version's; `created` and everything else come from the caller, so that the same version always
    gives the same files. RegistryError where config.json or the tokenizer is missing.
    """
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema

    architecture = _architecture(directory)
    tokenizer = directory / "components" / "tokenizer"
    tokenizer.mkdir(parents=True)
    for name in TOKENIZER_FILES:
        if (directory / name).exists():
            shutil.copyfile(directory / name, tokenizer / name)  # small, and not every file system links

    text = Schema([ColSpec("string")])
    model = Model(
        run_id=run_id,
        utc_time_created=created.astimezone(UTC).replace(tzinfo=None),
        model_uuid=digest[:32],
        signature=ModelSignature(inputs=text, outputs=text),
        saved_input_example_info={
            "artifact_path": "input_example.json",
            "serving_input_path": "serving_input_example.json",
            "type": "json_object",
        },
        model_size_bytes=sum(file.stat().st_size for file in directory.iterdir() if file.is_file()),
        metadata={"medtune.version": digest},
    )
    model.add_flavor(
        "transformers",
        transformers_version=version("transformers"),
        code=None,
        task="text-generation",
        instance_type="TextGenerationPipeline",
        source_model_name=base,
        pipeline_model_type=architecture,
        model_binary=".",
        components=["tokenizer"],
        # the Auto class reads the real one from tokenizer_config.json and never runs code from the folder
        tokenizer_type="AutoTokenizer",
    )
    pyfunc.add_to_model(
        model, loader_module="mlflow.transformers", conda_env="conda.yaml", python_env="python_env.yaml"
    )
    model.save(str(directory / "MLmodel"))
    _write_example(directory)
    _write_environment(directory)


def _architecture(directory: Path) -> str:
    import transformers

    try:
        name = json.loads((directory / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        raise RegistryError(
            f"{directory.name}/config.json is missing or names no architecture; run `dvc repro -f -s merge`"
        ) from None
    # MLflow would then trust and run code from the folder. dir() lists names; hasattr would import the model, and torch
    if name not in dir(transformers):
        raise RegistryError(f"config.json names {name}, which transformers {transformers.__version__} does not know")
    if not (directory / "tokenizer_config.json").exists():
        raise RegistryError(f"{directory.name}/tokenizer_config.json is missing; run `dvc repro -f -s merge`")
    return name


def _write_example(directory: Path) -> None:
    """A prompt as the model was trained to see it, rendered with the model's own template."""
    from medtune.corpus.template import render

    if (directory / "tokenizer.json").exists():
        # for the template alone: which class encodes is AutoTokenizer's to say, and importing that brings torch
        from transformers import PreTrainedTokenizerFast as Tokenizer
    else:
        from transformers import AutoTokenizer as Tokenizer
    tokenizer = Tokenizer.from_pretrained(directory, local_files_only=True)
    prompt = (
        render([{"role": "user", "content": EXAMPLE}], tokenizer, answer=True) if tokenizer.chat_template else EXAMPLE
    )
    _write(directory / "input_example.json", json.dumps([prompt], ensure_ascii=False))
    _write(directory / "serving_input_example.json", json.dumps({"inputs": [prompt]}, ensure_ascii=False))


def _write_environment(directory: Path) -> None:
    import yaml
    from mlflow.utils.environment import _mlflow_conda_env, _PythonEnv

    # without the local part (+cpu, +cu128): an index has no such version
    pins = [f"{name}=={version(name).split('+')[0]}" for name in REQUIREMENTS if _installed(name)]
    _write(directory / "requirements.txt", "\n".join(pins) + "\n")
    conda: dict[str, Any] = _mlflow_conda_env(additional_pip_deps=pins, install_mlflow=False)
    _write(directory / "conda.yaml", yaml.safe_dump(conda, sort_keys=False))
    _PythonEnv.current().to_yaml(str(directory / "python_env.yaml"))


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
