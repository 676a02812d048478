"""The pretrained model that is tuned: found, fetched or converted, checked, and named by what it is.

    base = resolve(recipe.base)
    base.path          # a directory of safetensors with config.json and tokenizer
    base.fingerprint   # what an adapter trained on it carries

Weights lie in the user's cache or where they already are, never in the project. Every stage that needs them calls
resolve anew, since data/base.json may have come out of DVC's cache on another machine; a second call is cheap.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medtune.corpus.cache import cache_dir
from medtune.corpus.hub import HubFile, Repo
from medtune.engine.converted import from_package
from medtune.engine.fingerprint import WEIGHTS, file_digest, fingerprint
from medtune.params.errors import CorpusError, EngineError

if TYPE_CHECKING:
    from medtune.params.base import Base

# What a model needs and nothing that runs: no .py, no pickle. tokenizer.model is SentencePiece's own format.
WANTED = (".safetensors", ".json", ".jinja", "tokenizer.model", "spiece.model", "merges.txt", "vocab.txt", "README.md")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")


@dataclass(frozen=True)
class ResolvedBase:
    path: Path
    source: str
    id: str
    revision: str | None
    license: str | None
    fingerprint: str
    quantization: str
    double_quant: bool
    quant_storage: str

    def record(self) -> dict:
        """What data/base.json holds: everything but the path, which is this machine's."""
        return {key: value for key, value in asdict(self).items() if key != "path"}


def resolve(section: Base, progress: Callable[[str], None] = print) -> ResolvedBase:
    """The base of a recipe's section. EngineError says what is missing or wrong and how to mend it."""
    licence = None
    if section.source == "package":
        path, licence = from_package(section.id, section.revision, section.sha256, progress)
    elif section.source == "hub":
        path = _from_hub(section, progress)
    elif section.source == "mlflow":
        path = _from_mlflow(section.id, section.revision)
    else:
        path = Path(section.id).expanduser()
        if not path.is_dir():
            raise EngineError(
                f"base.id {section.id} is no directory; name one that holds config.json and *.safetensors"
            )
    _check(path)
    return ResolvedBase(
        path=path,
        source=section.source,
        id=section.id,
        revision=section.revision,
        license=section.license or card_license(path) or licence,
        fingerprint=fingerprint(path, section.quantization, section.double_quant, section.quant_storage),
        quantization=section.quantization,
        double_quant=section.double_quant,
        quant_storage=section.quant_storage,
    )


def card_license(path: Path) -> str | None:
    """The licence in the front matter of a directory's README.md (`license: apache-2.0`), or None."""
    card = path / "README.md"
    if not card.exists():
        return None
    matter = re.match(r"\ufeff?---\s*\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    named = re.search(r"^license:[ \t]*['\"]?([\w.+-]+)", matter[1], re.MULTILINE) if matter else None
    return named[1] if named else None


def _check(path: Path) -> None:
    """EngineError unless the directory is a whole causal language model that loads without running its own code."""
    config_file = path / "config.json"
    if not config_file.exists():
        raise EngineError(f"{path} has no config.json, so it is no model directory; check base.id")
    for name in ("config.json", "tokenizer_config.json"):
        file = path / name
        if not file.exists():
            raise EngineError(f"{path} has no {name}; a base needs its tokenizer beside it")
        try:
            settings = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise EngineError(f"{file} is not JSON ({error}); fetch it again") from None
        if settings.get("auto_map"):
            raise EngineError(
                f"{file} names code of its own (auto_map), which trust_remote_code would run; choose a base that "
                "transformers knows"
            )
    config = json.loads(config_file.read_text(encoding="utf-8"))
    _causal(config, path)
    if not any((path / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")):
        raise EngineError(f"{path} has a tokenizer_config.json and no tokenizer (tokenizer.json or tokenizer.model)")
    index = path / "model.safetensors.index.json"
    if index.exists():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        missing = sorted(shard for shard in shards if not (path / shard).exists())
        if missing:
            raise EngineError(f"{path} lacks {', '.join(missing)}, which {index.name} names; fetch the model again")
    if not any(path.glob(WEIGHTS)):
        raise EngineError(_no_safetensors(str(path), [file.name for file in path.iterdir()]))


def _causal(config: dict, path: Path) -> None:
    names = config.get("architectures") or []
    if not any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        raise EngineError(
            f"{path} is {', '.join(names) or 'of no named architecture'} and not a causal language model "
            "(…ForCausalLM); choose another base"
        )
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "a method of its own")
        raise EngineError(
            f"{path} is already quantised ({method}); name the unquantised model, and base.quantization does the rest"
        )


def _no_safetensors(where: str, names: list[str]) -> str:
    pickles = sorted(name for name in names if name.endswith(PICKLES))
    if pickles:
        return (
            f"{where} has weights only as {', '.join(pickles[:3])}, pickles that can run any code when loaded; "
            "choose a revision with .safetensors, or convert it and use source: path"
        )
    return f"{where} holds no *.safetensors; choose a base with weights"


def _from_hub(section: Base, say: Callable[[str], None]) -> Path:
    """The snapshot of the pinned commit: the hub's own cache, which other tools share, or $MEDTUNE_CACHE where set.

    Large files are checked against the hub's sha256 when they arrive; the hashes are kept for the fingerprint."""
    repo = Repo("model", section.id, section.revision, say=say)
    cache = cache_dir() / "hub" if os.environ.get("MEDTUNE_CACHE") else None
    whole = cache_dir() / "bases" / f"{section.id.replace('/', '--')}@{section.revision}.json"
    try:
        if whole.exists():  # written once all had arrived and been checked
            return repo.snapshot(json.loads(whole.read_text()), cache, local=True)
    except FileNotFoundError:
        say(f"{section.id}: part of it has left the cache; fetching it again")
    try:
        listed, _ = repo.about()  # the card's licence is read from README.md, which comes along
        files = [file for file in listed if _is_wanted(file.path)]
        if not any(file.path.endswith(".safetensors") for file in files):
            raise EngineError(_no_safetensors(f"{section.id} at {section.revision[:12]}", [f.path for f in listed]))
        size = sum(file.size for file in files)
        say(f"{section.id} at {section.revision[:12]}: {len(files)} files, {size / 1e9:,.2f} GB")
        names = [file.path for file in files]
        path = repo.snapshot(names, cache)
    except CorpusError as error:  # the hub's errors are sentences already
        raise EngineError(f"base: {error}") from None
    for file in files:
        _must_match(path / file.path, file, section.id)
    whole.parent.mkdir(parents=True, exist_ok=True)
    temporary = whole.with_name(f".{whole.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(names))
    temporary.replace(whole)
    return path


def _is_wanted(path: str) -> bool:
    """Files of the repository's root alone: folders hold other formats and other sizes of the same model."""
    return "/" not in path and path.endswith(WANTED)


def _must_match(path: Path, file: HubFile, id: str) -> None:
    if path.stat().st_size == file.size and (file.sha256 is None or file_digest(path) == file.sha256):
        return
    path.resolve().unlink()
    path.unlink(missing_ok=True)
    raise EngineError(f"base: {id}, {file.path} arrived damaged (not the hub's checksum) and was removed; run again")


def _from_mlflow(name: str, version: str) -> Path:
    """The directory of a registered model's version: where it lies, or fetched once where the registry is remote."""
    import mlflow
    from filelock import FileLock
    from mlflow.exceptions import MlflowException

    store = Path("mlruns/mlflow.db").resolve()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store}"
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise EngineError(f"base {name} version {version}: there is no registry at {uri}; set MLFLOW_TRACKING_URI")
    try:
        found = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri).get_model_version(name, version)
    except MlflowException as error:
        raise EngineError(
            f"the registry has no version {version} of {name} ({error.error_code}); `medtune status` tells what it has"
        ) from None
    source = found.source.removeprefix("file://")
    if "://" not in source and not source.startswith(("runs:/", "models:/")):
        path = Path(source)
        if not path.is_dir():
            raise EngineError(f"version {version} of {name} should lie in {path}, which is gone; register it anew")
        return path
    ready = cache_dir() / "bases" / f"{name}-{version}-{found.run_id or found.creation_timestamp}"
    ready.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(ready.with_name(f"{ready.name}.lock")):
        if not ready.is_dir():
            half = ready.with_name(f".{ready.name}.part")
            half.mkdir(exist_ok=True)
            mlflow.artifacts.download_artifacts(artifact_uri=found.source, dst_path=str(half), tracking_uri=uri)
            inside = next((config.parent for config in half.rglob("config.json")), half)
            inside.rename(ready)
    return ready
