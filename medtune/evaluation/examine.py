"""A model through everything it is asked, and nothing of it twice: scores, answers, memorisation, by the store.

    found = examine(model, rows={"test": …}, prompts={"test": […], "red_flags": […]}, asking=…, root=Path("."))

What the store (kept.py) has is taken from there; the weights are loaded only where something is missing.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtune.engine.decode import Sampling
from medtune.engine.generate import answer_all
from medtune.evaluation import kept, texts
from medtune.evaluation.scores import score_rows

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Model:
    """Who is asked. digest: names weights, quantisation and template; open: the weights in memory while it is open."""

    name: str
    digest: str
    open: Callable[[], AbstractContextManager]


@dataclass(frozen=True)
class Asking:
    """How. template and system name what the tokenizer wears; precision: of the computation, such as bfloat16."""

    tokenizer: "PreTrainedTokenizerBase"
    template: str
    system: str | None
    precision: str
    max_length: int
    overflow: str
    batch_size: int
    max_new_tokens: int
    sampling: Sampling | None = None

    def of_rows(self, name: str, dataset: "Dataset") -> str:
        settings = {"max_length": self.max_length, "overflow": self.overflow, "precision": self.precision}
        if name != "test":  # ids of test rows are hashes of their texts, those of prompts are not
            settings["tokens"] = kept.digest(list(dataset["input_ids"]))
        return kept.rows_set(dataset["row_id"], **settings)

    def of_answers(self, prompts: list[dict], drawn: bool) -> str:
        return kept.answers_set(
            [{key: prompt[key] for key in ("id", "messages", "reference")} for prompt in prompts],
            template=self.template,
            system=self.system,
            precision=self.precision,
            max_new_tokens=self.max_new_tokens,
            sampling=vars(self.sampling) if drawn else None,
            texts=texts.VERSION,
        )


@dataclass(frozen=True)
class Memory:
    """What is looked for in a model that it may have learned by heart. asked: all that `look` depends on."""

    asked: dict[str, Any]
    look: Callable[[Any, list[dict]], dict]  # the model and its answers: {"id", "question", "text"}


@dataclass
class Examined:
    """By name of a set: rows as score_rows gives them; answers and sampled as {"id", "text", "tokens", "ended"} with
    texts.figures(). sets: the digests of the answer sets, by which another model's answers are found in the store."""

    rows: dict[str, list[dict]] = field(default_factory=dict)
    answers: dict[str, list[dict]] = field(default_factory=dict)
    sampled: dict[str, list[dict]] = field(default_factory=dict)
    memory: dict[str, Any] | None = None
    sets: dict[str, str] = field(default_factory=dict)


def examine(
    model: Model,
    rows: dict[str, "Dataset"],
    prompts: dict[str, list[dict]],
    asking: Asking,
    root: Path,
    memory: Memory | None = None,
) -> Examined:
    """Everything asked of one model. EvaluationError where what the store has is damaged."""
    found = Examined()
    found.sets = {name: asking.of_answers(chosen, False) for name, chosen in prompts.items()}
    wanted_rows = {name: asking.of_rows(name, dataset) for name, dataset in rows.items()}
    wanted = [(name, drawn) for drawn in (False, True)[: 2 if asking.sampling else 1] for name in prompts]
    wanted_answers = {key: asking.of_answers(prompts[key[0]], key[1]) for key in wanted}
    remembered = memory and kept.digest(
        {"format": kept.FORMAT, "task": "memory", "answers": sorted(wanted_answers.values()), **memory.asked}
    )

    scored = {name: kept.read(root, model.digest, asked) for name, asked in wanted_rows.items()}
    answered = {key: kept.read(root, model.digest, asked) for key, asked in wanted_answers.items()}
    recalled = remembered and kept.read(root, model.digest, remembered)
    if None in (*scored.values(), *answered.values()) or (memory and recalled is None):
        with model.open() as live:
            for name in [name for name, there in scored.items() if there is None]:
                scored[name] = _score(model.name, live, name, rows[name], asking)
                kept.write(root, model.digest, wanted_rows[name], scored[name])
            for drawn in (False, True):
                missing = [key for key, there in answered.items() if there is None and key[1] == drawn]
                for key, given in _answer(model.name, live, missing, prompts, asking, drawn).items():
                    answered[key] = given
                    kept.write(root, model.digest, wanted_answers[key], given)
            if memory and recalled is None:
                recalled = [memory.look(live, _told(prompts, answered))]
                kept.write(root, model.digest, remembered, recalled)
    else:
        print(f"{model.name}: scored and answered before, as mlruns/scores/{model.digest[:12]}… has it")
    for name, there in scored.items():
        by_id = {row["row_id"]: row for row in there}  # kept in the order of who asked first
        # with today's clusters: they grow as rows come, and nobody is scored anew for that
        dataset = rows[name]
        clusters = dataset["cluster"] if "cluster" in dataset.column_names else dataset["row_id"]
        found.rows[name] = [
            by_id[row_id] | {"cluster": cluster} for row_id, cluster in zip(dataset["row_id"], clusters, strict=True)
        ]
    for (name, drawn), given in answered.items():
        (found.sampled if drawn else found.answers)[name] = given
    found.memory = recalled[0] if recalled else None
    return found


def _score(who: str, live, name: str, dataset: "Dataset", asking: Asking) -> list[dict]:
    def told(done: int, total: int) -> None:
        print(f"{who}: {done} of {total} {name} rows scored")

    return score_rows(live, dataset, asking.batch_size, asking.tokenizer.pad_token_id, told)


def _answer(who: str, live, missing: list[tuple], prompts: dict, asking: Asking, drawn: bool) -> dict[tuple, list]:
    """The answers of several sets, generated together: the more prompts, the more of like length share a batch."""
    pooled = [(key, prompt) for key in missing for prompt in prompts[key[0]]]
    given: dict[tuple, list[dict]] = {key: [] for key in missing}
    if not pooled:
        return given

    def told(done: int, total: int) -> None:
        print(f"{who}: {done} of {total} {'drawn ' if drawn else ''}answers")

    made = answer_all(
        live,
        asking.tokenizer,
        [prompt["messages"] for _, prompt in pooled],
        asking.max_new_tokens,
        sampling=asking.sampling if drawn else None,
        progress=told,
    )
    for (key, prompt), answer in zip(pooled, made, strict=True):
        given[key].append({"id": prompt["id"], **answer, **texts.figures(answer["text"], prompt["reference"])})
    return given


def _told(prompts: dict[str, list[dict]], answered: dict[tuple, list[dict]]) -> list[dict]:
    """Everything a model said, drawn answers too, with what it was asked."""
    return [
        {"set": name, "id": f"{name}/{prompt['id']}", "question": prompt["question"], "text": answer["text"]}
        for (name, _), given in answered.items()
        for prompt, answer in zip(prompts[name], given, strict=True)
    ]
