"""A suite's data from a folder, in the hub's own layout, for lm-evaluation-harness without the hub.

    DIR/doctor/test-00000-of-00001.parquet     as the hub has it
    DIR/doctor/test.jsonl, DIR/doctor-test.csv, DIR/data/doctor-test.csv: also taken; without a config: DIR/test.jsonl

The harness's task stays its own (prompt, target, filter, metric); only where `datasets` loads from is changed, by a
task file that includes the harness's and names these files. https://github.com/EleutherAI/lm-evaluation-harness/blob/main/
docs/new_task_guide.md tells of `include`, dataset_path and dataset_kwargs.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtune.params.errors import EvaluationError

if TYPE_CHECKING:
    from datasets import Dataset

# suffix -> the loader of `datasets` that reads it
LOADERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}
# Without this a choice that reads "NA" or "None" becomes an empty one
CSV = {"keep_default_na": False}


def write_local_tasks(
    tasks: Mapping[str, tuple[Path, Mapping[str, Any]]], data: Path, folder: Path
) -> dict[str, dict[str, list[Path]]]:
    """Task files that read `data` into `folder`, as <task>.yaml; returns the files that each reads, by split.

    tasks: a task's name -> its YAML file in the harness and what that says, includes resolved. EvaluationError where a
    split has no file, or a file lacks a column that the prompt needs.
    """
    if not data.is_dir():
        raise EvaluationError(f"{data} is no folder; --data takes the folder that holds the suite's files")
    found = {}
    for name, (path, config) in tasks.items():
        if "class" in config or config.get("custom_dataset"):
            raise EvaluationError(f"{name} loads its data by code of its own, so that --data cannot replace it")
        files = {split: _files(data, config.get("dataset_name"), split, name) for split in _splits(config)}
        kwargs = _loading(files, name, folder)
        for split, paths in files.items():
            # alone: files of one load must have the same columns, and here it is asked which a file lacks
            alone = {**kwargs, "data_files": {split: kwargs["data_files"][split]}}
            _check(_rows(alone, split), name, config, paths)
        task = {
            "include": str(path.resolve()),
            "dataset_path": kwargs["path"],
            "dataset_name": None,
            "dataset_kwargs": {key: value for key, value in kwargs.items() if key != "path"},
        }
        (folder / f"{name}.yaml").write_text(json.dumps(task, ensure_ascii=False), encoding="utf-8")  # JSON is YAML
        found[name] = files
    return found


def _splits(config: Mapping[str, Any]) -> list[str]:
    """The splits that the harness touches: what it scores (test before validation), and where examples come from."""
    scored = config.get("test_split") or config.get("validation_split") or config.get("training_split")
    shots = config.get("fewshot_split") or (config.get("fewshot_config") or {}).get("split")
    others = [config.get(key) for key in ("training_split", "validation_split")] if not shots else []
    return list(dict.fromkeys(split for split in (scored, shots, *others) if split))


def _files(data: Path, config: str | None, split: str, task: str) -> list[Path]:
    places = [(data, split), (data / "data", split)]
    if config:
        flat = f"{config}-{split}"
        places = [(data / config, split), (data, flat), (data / "data", flat)]
    for folder, stem in places:
        shard = re.compile(rf"{re.escape(stem)}(-\d+-of-\d+(-[0-9a-f]+)?)?")
        paths = sorted(p for p in folder.glob("*") if p.suffix in LOADERS and shard.fullmatch(p.stem))
        if paths:
            return paths
    where = f"{config}/{split}" if config else split
    raise EvaluationError(
        f"{task}: {data} has no {where}.parquet, .jsonl or .csv; lay the files out as the hub does, a folder a config "
        "and a file a split"
    )


def _loading(files: Mapping[str, list[Path]], task: str, folder: Path) -> dict[str, Any]:
    kinds = {LOADERS[path.suffix]: path.name for paths in files.values() for path in paths}
    if len(kinds) > 1:
        raise EvaluationError(
            f"{task}: {' and '.join(kinds.values())} are of different formats; give all splits in one"
        )
    kind = next(iter(kinds))
    return {
        "path": kind,
        "data_files": {split: [str(path.resolve()) for path in paths] for split, paths in files.items()},
        "cache_dir": str(folder / "cache"),  # not the user's: it goes when the evaluation ends
        **(CSV if kind == "csv" else {}),
    }


def _rows(kwargs: Mapping[str, Any], split: str) -> "Dataset":
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    try:
        return load_dataset(**kwargs)[split]
    except (DatasetGenerationError, ValueError, OSError) as error:
        files = ", ".join(kwargs["data_files"][split])
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise EvaluationError(f"{files} cannot be read: {reason}") from None


def _check(rows: "Dataset", task: str, config: Mapping[str, Any], paths: Iterable[Path]) -> None:
    """A template writes nothing for a column that is not there, and the harness scores the empty prompt: refuse it."""
    where = ", ".join(str(path) for path in paths)
    if len(rows) == 0:
        raise EvaluationError(f"{where} holds no row")
    if not config.get("process_docs"):
        missing = sorted(_columns(config) - set(rows.column_names))
        if missing:
            raise EvaluationError(f"{where} lacks the column {', '.join(missing)}, which the prompt of {task} needs")
    if task.startswith("kormedmcqa"):
        for n, answer in enumerate(rows["answer"], 1):
            if not isinstance(answer, int) or not 1 <= answer <= 5:
                # the template would take 0 for E, and nothing for 6
                raise EvaluationError(
                    f"{where}, row {n}: answer is {answer!r}; it must be a whole number, 1 (A) to 5 (E)"
                )


def _columns(config: Mapping[str, Any]) -> set[str]:
    """The columns that the task's templates name."""
    from jinja2 import Environment, TemplateError, meta

    found: set[str] = set()
    for text in _templates([config.get(key) for key in ("doc_to_text", "doc_to_target", "doc_to_choice")]):
        try:
            found |= meta.find_undeclared_variables(Environment(autoescape=False).parse(text))
        except TemplateError:  # the harness's own filters and tags: it will say what it thinks of them
            continue
    return found


def _templates(value: Any) -> Iterable[str]:
    if isinstance(value, str) and "{{" in value:
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _templates(item)
    elif isinstance(value, Mapping):
        yield from _templates(list(value.values()))
