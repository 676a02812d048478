"""What was registered loads: by alias through MLflow, as a folder through transformers and peft; verified by ours."""

import json
import os
from pathlib import Path

import pytest
from registry_checkout import Checkout

from medtune.params.errors import RegistryError
from medtune.params.recipe import load_recipe
from medtune.registry.champion import champion_dir
from medtune.registry.manifest import MLFLOW_NOTE
from medtune.tracking.store import open_store
from stages.register import main


@pytest.fixture
def registered(crowned: Checkout, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    # users of raw MLflow name the store so; ours names it by itself
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", open_store(crowned.root))
    mlflow.set_tracking_uri(open_store(crowned.root))
    yield crowned
    mlflow.set_tracking_uri("")


def test_mlflow_loads_the_champion_by_alias(registered: Checkout) -> None:
    import mlflow
    import torch
    from transformers import AutoModelForCausalLM

    pipe = mlflow.transformers.load_model("models:/medgpt-ko@champion")
    weights = AutoModelForCausalLM.from_pretrained(registered.tiny_base).state_dict()
    for name, weight in pipe.model.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    answer = pipe([{"role": "user", "content": "머리가 아파요."}], max_new_tokens=4, do_sample=False)
    assert answer[0]["generated_text"][-1]["role"] == "assistant"
    # MLflow has written its note into the folder by now: the version is still sound
    directory = champion_dir(registered.root, load_recipe(registered.root / "params.yaml")).parent
    assert (directory / MLFLOW_NOTE).exists()


def test_mlflow_knows_signature_example_and_requirements(registered: Checkout) -> None:
    import mlflow

    info = mlflow.models.get_model_info("models:/medgpt-ko@champion")
    assert info.signature.inputs.to_dict() == [{"type": "string", "required": True}]
    model = mlflow.pyfunc.load_model("models:/medgpt-ko@champion")
    example = model.input_example
    assert example == [
        "<|im_start|>user\n머리가 아프고 열이 나요. 어떻게 해야 하나요?<|im_end|>\n<|im_start|>assistant\n"
    ]
    assert len(model.predict(example, params=None)) == 1
    requirements = Path(mlflow.pyfunc.get_model_dependencies("models:/medgpt-ko@champion")).read_text()
    assert "transformers==" in requirements
    assert "+cpu" not in requirements


def test_no_weights_are_copied(registered: Checkout) -> None:
    directory = champion_dir(registered.root, load_recipe(registered.root / "params.yaml")).parent
    for kept, source in (
        ("merged/model.safetensors", "merged/model.safetensors"),
        ("adapter/adapter_model.safetensors", "adapter/adapter_model.safetensors"),
    ):
        assert os.path.samefile(directory / kept, registered.root / "data" / source)
    listed = [item["path"] for item in json.loads((directory / "manifest.json").read_text())["files"]]
    assert not [name for name in listed if name.endswith((".bin", ".pkl", ".pt"))]


def test_the_adapter_loads_on_its_base(registered: Checkout) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    directory = champion_dir(registered.root, load_recipe(registered.root / "params.yaml")).parent
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(registered.tiny_base), directory / "adapter")
    assert model.peft_config["default"].r == 2


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def rewrite_with_manifest(directory: Path) -> None:
    """An attacker who can count: the file and its line in the manifest."""
    import hashlib

    path = directory / "merged/config.json"
    flip(path)
    manifest = json.loads((directory / "manifest.json").read_text())
    for item in manifest["files"]:
        if item["path"] == "merged/config.json":
            item["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (directory / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (lambda d: flip(d / "merged/model.safetensors"), "merged/model.safetensors is not the file"),
        (lambda d: (d / "merged/config.json").write_text("{}"), "config.json has another size"),
        (lambda d: (d / "adapter/adapter_config.json").unlink(), "adapter/adapter_config.json is missing"),
        (lambda d: (d / "merged/pytorch_model.bin").write_bytes(b"x"), "merged/pytorch_model.bin does not belong"),
        (lambda d: (d / "extra").mkdir() or (d / "extra/a").write_text("a"), "extra/a does not belong"),
        (lambda d: (d / "merged/link").symlink_to("/etc/hostname"), "merged/link is a symbolic link"),
        (lambda d: (d / MLFLOW_NOTE).write_text("a" * 5000), f"{MLFLOW_NOTE} does not belong"),
        (lambda d: (d / "adapter/registered_model_meta").write_text("a"), "adapter/registered_model_meta does not"),
        (lambda d: (d / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda d: (d / "manifest.json").write_text("[]"), "manifest.json is no manifest"),
        (rewrite_with_manifest, "manifest.json is not the one that was registered"),
    ],
)
def test_harm_is_found_before_anything_loads(registered: Checkout, harm, named: str) -> None:
    recipe = load_recipe(registered.root / "params.yaml")
    directory = champion_dir(registered.root, recipe).parent
    harm(directory)
    with pytest.raises(RegistryError, match=named):
        champion_dir(registered.root, recipe)


def test_a_harmed_link_is_not_registered_again(registered: Checkout) -> None:
    """data/merged shares its bytes with the version: harm to one is harm to both, and is not blessed."""
    flip(registered.root / "data/merged/model.safetensors")
    with pytest.raises(RegistryError, match="gone or damaged"):
        main(registered.root)


def test_lost_files_come_back_from_data(registered: Checkout) -> None:
    import shutil

    recipe = load_recipe(registered.root / "params.yaml")
    directory = champion_dir(registered.root, recipe).parent
    shutil.rmtree(directory)
    with pytest.raises(RegistryError, match=r"manifest\.json is missing"):
        champion_dir(registered.root, recipe)
    main(registered.root)
    assert champion_dir(registered.root, recipe) == directory / "merged"


def test_no_champion_yet(checkout: Checkout) -> None:
    with pytest.raises(RegistryError, match="medgpt-ko has no champion yet; `make run`"):
        champion_dir(checkout.root, load_recipe(checkout.root / "params.yaml"))
