"""Public suites through EleutherAI's lm-evaluation-harness: its task code, prompts, filters and metrics, unchanged.

    evaluate_suite(champion_dir(Path("."), recipe), "kormedmcqa", out=Path("reports/eval"))

The harness is an extra (`pip install 'medtune[eval]'`). Its data come from the hub, or from a folder in the same layout
(harness_data.py). What it leaves open is recorded: its version, each task's version and the digest of the task's
code and of the rows that were scored, how prompts were made, how many were cut. KorMedMCQA: Kweon et al.,
https://arxiv.org/abs/2403.01469; its rows are cc-by-nc-2.0 and are not copied into the results.
"""

import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtune.evaluation.harness_data import write_local_tasks
from medtune.evaluation.harness_tasks import NAME, available, code_digest, digest, find, leaves, version
from medtune.evaluation.intervals import share
from medtune.params.errors import EvaluationError

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager


def evaluate_suite(
    model: Path,
    suite: str,
    limit: int | None = None,
    batch_size: int = 8,
    device: str | None = None,
    offline_data: Path | None = None,
    out: Path = Path("reports/eval"),
    *,
    shots: int | None = None,
    chat_template: bool = False,
    max_new_tokens: int | None = None,
) -> dict[str, Any]:
    """Score the merged model in `model` on a suite (a group, a tag, a task or a pattern of tasks of the harness).

    limit: the first so many rows of each task; shots: examples in the prompt, None as the task says; chat_template:
    prompts as a chat turn; max_new_tokens: fewer than the task's own, for a model that never ends. The last three make
    figures that compare only with those made the same way; they are in the record.

    Returns and writes out/<suite>.json: {"suite", "harness", "model", "settings", "tasks": {name: {"version", "code",
    "rows", "of", "shots", "data", "cut_prompts", "metrics": [{"metric", "filter", "value", "stderr",
    "higher_is_better", "interval"}]}}, "groups": {name: {"metrics"}}, "seconds"}; and out/<suite>.answers.jsonl, a line
    a row without the row's text. Values are the harness's (exact_match and acc in 0..1), stderr its standard error;
    interval: exact, where every row is right or wrong. EvaluationError where suite, data or settings cannot be used.
    """
    available()
    for name, value in (("limit", limit), ("batch_size", batch_size), ("max_new_tokens", max_new_tokens)):
        if value is not None and value < 1:
            raise EvaluationError(f"{name} is {value}; it must be at least 1")
    if not (model / "config.json").is_file():
        raise EvaluationError(
            f"{model} holds no config.json, so it is no merged model; name a model's folder, or champion"
        )
    started = time.monotonic()
    with _quiet(), tempfile.TemporaryDirectory(prefix="medtune-eval-") as scratch:
        manager, names = find(suite)
        tasks = leaves(names, manager)
        unsafe = [name for name, (_, config) in tasks.items() if config.get("unsafe_code")]
        if unsafe:
            raise EvaluationError(f"{', '.join(unsafe)} runs code that the model writes; medtune runs none")
        files = None
        if offline_data is not None:
            files = write_local_tasks(tasks, offline_data, Path(scratch))
            for name in files:  # the factory reads a task from where its entry points
                manager.task_index[name].yaml_path = Path(scratch) / f"{name}.yaml"
        loaded = _load(manager, names, local=offline_data is not None)
        wrapped, told = _model(model, batch_size, device)
        results = _run(wrapped, manager, loaded, limit, batch_size, shots, chat_template, max_new_tokens)
    report = {
        "suite": suite,
        "harness": {"name": NAME, "version": version()},
        "model": told,
        "settings": {
            "limit": limit,
            "batch_size": batch_size,
            "shots": shots,
            "chat_template": chat_template,
            "max_new_tokens": max_new_tokens,
        },
        "tasks": {
            name: _task(name, task, results, tasks.get(name, (None,))[0], wrapped, files and files.get(name))
            for name, task in loaded["tasks"].items()
        },
        "groups": {
            name: {"metrics": _metrics(results["groups"][name], results["higher_is_better"].get(name, {}), [])}
            for name in results.get("groups") or {}
        },
        "seconds": round(time.monotonic() - started, 1),
    }
    _write(out, suite, report, results["samples"])
    return report


def summary(report: Mapping[str, Any]) -> str:
    """The report's figures as lines for a terminal."""
    lines = []
    for kind in ("groups", "tasks"):
        for name, found in report[kind].items():
            for metric in found["metrics"]:
                rows = f" on {found['rows']} of {found['of']} rows" if "rows" in found else ""
                error = f" ± {metric['stderr']:.4f}" if metric["stderr"] is not None else ""
                interval = metric.get("interval")
                exact = (
                    f", {interval['confidence']:.0%} {interval['low']:.3f} to {interval['high']:.3f}"
                    if interval
                    else ""
                )
                lines.append(f"{name:28} {metric['metric']} {metric['value']:.4f}{error}{exact}{rows}")
    return "\n".join(lines)


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness logs every task and seed, `datasets` draws a bar for every file; errors and the model's bar stay."""
    import datasets

    logger = logging.getLogger("lm_eval")
    before, silent = logger.level, datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(before)
        if not silent:
            datasets.enable_progress_bars()


def _load(manager: "TaskManager", names: list[str], local: bool) -> dict[str, Any]:
    """Tasks with their rows. What goes wrong on the way, with `datasets` or the network, is a sentence."""
    try:
        loaded = manager.load(names)
    except ModuleNotFoundError as error:
        raise EvaluationError(f"{', '.join(names)} needs the package {error.name}; install it") from None
    except Exception as error:  # the hub's, the network's and the loaders' errors share no class
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:300]
        mend = (
            "mend the files under --data"
            if local
            else (
                "without the hub, lay its files in a folder (DIR/<config>/<split>.parquet, .jsonl or .csv) "
                "and add --data DIR"
            )
        )
        raise EvaluationError(f"the rows of {', '.join(names)} cannot be loaded ({reason}); {mend}") from None
    return loaded


def _model(path: Path, batch_size: int, device: str | None) -> tuple["HFLM", dict[str, Any]]:
    """The harness's wrapper around the model as `medtune ask` loads it, decoding greedily and nothing more."""
    from lm_eval.models.huggingface import HFLM
    from transformers import GenerationConfig

    from medtune.engine.device import pick_device, pick_dtype
    from medtune.engine.fingerprint import fingerprint
    from medtune.engine.load import load_model, load_tokenizer

    place = pick_device(device or "auto")
    dtype = pick_dtype("auto", place)
    model, tokenizer = load_model(path, device=place, dtype=dtype), load_tokenizer(path)
    # the merged model's own file may ask for a repetition penalty, which greedy decoding would keep
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id
    )
    told = {
        "fingerprint": fingerprint(path, "none", False, "uint8"),
        "device": str(place),
        "dtype": str(dtype).removeprefix("torch."),
        "parameters": model.num_parameters(),
    }
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, trust_remote_code=False), told


def _run(
    wrapped: "HFLM",
    manager: "TaskManager",
    loaded: Mapping[str, Any],
    limit: int | None,
    batch_size: int,
    shots: int | None,
    chat_template: bool,
    max_new_tokens: int | None,
) -> dict[str, Any]:
    from lm_eval import simple_evaluate

    for name, task in loaded["tasks"].items():
        settings = task.config.generation_kwargs
        if task.OUTPUT_TYPE == "generate_until":
            asked = max_new_tokens or settings.get("max_gen_toks", wrapped.max_gen_toks)
            if asked >= wrapped.max_length:
                raise EvaluationError(
                    f"{name} generates up to {asked} tokens, and the model has {wrapped.max_length} positions for "
                    f"prompt and answer together; add --max-new-tokens {max(1, wrapped.max_length // 8)}"
                )
    groups: dict[str, Group] = loaded.get("groups") or {}
    below = {task for group in groups.values() for task in group.child_names}
    tops: list[Group | Task] = [group for name, group in groups.items() if name not in below]
    inside = {task.task_name for group in tops for task in group.get_all_tasks()}
    tops += [task for name, task in loaded["tasks"].items() if name not in inside]
    return simple_evaluate(
        model=wrapped,
        tasks=tops,
        num_fewshot=shots,
        batch_size=batch_size,
        limit=limit,
        task_manager=manager,
        apply_chat_template=chat_template,
        fewshot_as_multiturn=chat_template,
        gen_kwargs={"max_gen_toks": max_new_tokens} if max_new_tokens else None,
        log_samples=True,
    )


def _task(
    name: str, task: "Task", results: Mapping[str, Any], path: Path | None, wrapped: "HFLM", files: Mapping | None
) -> dict[str, Any]:
    samples = results["samples"][name]
    counts = results["n-samples"][name]
    config = task.config
    data = {"rows": digest(sorted({(sample["doc_id"], sample["doc_hash"]) for sample in samples}))}
    if files:
        data["files"] = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for ps in files.values() for p in ps}
    else:  # what the harness asks the hub for: it pins no commit, so that the rows' digest identifies them
        data |= {"id": config.dataset_path, "config": config.dataset_name}
    return {
        "version": results["versions"].get(name),
        "code": path and code_digest(path),  # None: written inside a group
        "rows": counts["effective"],
        "of": counts["original"],
        "shots": results["n-shot"].get(name),
        "generation": config.generation_kwargs,
        "cut_prompts": _cut(task, samples, wrapped),
        "data": data,
        "metrics": _metrics(results["results"][name], results["higher_is_better"].get(name, {}), samples),
    }


def _metrics(found: Mapping[str, Any], better: Mapping[str, bool], samples: list[Mapping]) -> list[dict[str, Any]]:
    """The harness's `metric,filter` keys as records."""
    metrics = []
    for key, value in found.items():
        metric, comma, chosen = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = found.get(f"{metric}_stderr,{chosen}")
        values = [sample[metric] for sample in samples if sample["filter"] == chosen and metric in sample]
        exact = (
            bool(values) and all(value in (0, 1) for value in values) and abs(sum(values) / len(values) - value) < 1e-9
        )
        metrics.append(
            {
                "metric": metric,
                "filter": chosen,
                "value": float(value),
                "stderr": float(error) if isinstance(error, int | float) else None,  # "N/A" for a single row
                "higher_is_better": better.get(metric),
                "interval": share(int(sum(values)), len(values)) if exact else None,
            }
        )
    return metrics


def _cut(task: "Task", samples: list[Mapping], wrapped: "HFLM") -> int | None:
    """Prompts that the harness cut at the left, silently, to make room for the answer; None where it generates none."""
    if task.OUTPUT_TYPE != "generate_until":
        return None
    room = wrapped.max_length - task.config.generation_kwargs.get("max_gen_toks", wrapped.max_gen_toks)
    prompts = {sample["doc_id"]: sample["arguments"][0][0] for sample in samples}
    return sum(len(wrapped.tok_encode(prompt)) > room for prompt in prompts.values())


def _write(out: Path, suite: str, report: Mapping[str, Any], samples: Mapping[str, list[Mapping]]) -> None:
    """Report and answers, each whole or not at all; the report last, since it says that the answers are there."""
    out.mkdir(parents=True, exist_ok=True)
    stem = "".join(c if c.isalnum() or c in "-_." else "-" for c in suite)
    lines = []
    for task, rows in samples.items():
        for row in rows:
            line = {"task": task, "row": row["doc_id"], "row_hash": row["doc_hash"], "filter": row["filter"]}
            line |= {
                "target": str(row["target"]),
                "answers": _plain(row["resps"]),
                "taken": _plain(row["filtered_resps"]),
            }
            lines.append(json.dumps(line | {key: _plain(row[key]) for key in row["metrics"]}, ensure_ascii=False))
    text = json.dumps(report, ensure_ascii=False, indent=2)
    for name, content in ((f"{stem}.answers.jsonl", "\n".join(lines)), (f"{stem}.json", text)):
        temporary = out / f".{name}.tmp"
        temporary.write_text(content + "\n", encoding="utf-8")
        temporary.replace(out / name)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
