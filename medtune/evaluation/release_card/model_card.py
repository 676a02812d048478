"""The document of data.py as a model card of the Hugging Face hub: README.md of the merged model.

Metadata by the hub's specification (huggingface/hub-docs, modelcard.md and docs/hub/model-cards.md). A base or a
dataset that is not on the hub is named in the text alone, since the hub takes no other ids for base_model and datasets.
"""

import re
from collections.abc import Mapping
from io import StringIO
from typing import Any

from medtune.evaluation.release_card.names import FIGURES, SUITES
from medtune.evaluation.release_card.wording import counts, number, share, size, with_unit

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# what the hub calls them, our figure, their name
METRICS = (("chrf", "chrfpp", "chrF++ of greedy answers"), ("rouge", "rouge_l", "ROUGE-L on morphemes, greedy answers"))
TASK = {"type": "text-generation", "name": "Answers to patients' questions in Korean"}
OWN = (
    ("bits_per_char", "Bits a character of the reference answer"),
    ("eos_after_reference", "EOS after the reference answer"),
    ("ended_share", "Greedy answers that end by themselves"),
    ("loop_share", "Greedy answers that loop"),
)


def model_card(data: Mapping[str, Any]) -> str:
    """README.md: YAML front matter and Markdown."""
    sections = (_head, _plain, _use, _training, _new_rows, _evaluation, _safety, _limitations, _licence, _load)
    told = [text for section in sections if (text := section(data))]
    return f"---\n{_yaml(metadata(data))}---\n\n" + "\n\n".join(told) + "\n"


def metadata(data: Mapping[str, Any]) -> dict[str, Any]:
    """The front matter as a mapping."""
    base, dataset = data["base"], data["data"]["dataset"]
    found: dict[str, Any] = {"language": ["ko"], **_licence_keys(data)}
    found |= {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if base.get("source") == "hub" and HUB_ID.fullmatch(base["id"]):
        found |= {"base_model": base["id"], "base_model_relation": "finetune"}
    if dataset.get("source") == "hub" and HUB_ID.fullmatch(dataset["id"]):
        found["datasets"] = [dataset["id"]]
    found["tags"] = ["medical", "korean", "lora", "medtune", f"decision-{data['summary']['outcome']['id']}"]
    if results := _results(data):
        found["model-index"] = [{"name": _name(data), "results": results}]
    return found


def _results(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    evaluation, dataset = data["evaluation"], data["data"]["dataset"]
    figures = evaluation.get("merged") or evaluation.get("adapter") or {}
    test = {"type": dataset["id"], "name": f"{dataset['id']}, test rows", "split": "test"}
    if dataset.get("revision"):
        test["revision"] = str(dataset["revision"])
    metrics = [
        {"type": kind, "value": round(figures[key], 6), "name": name}
        for kind, key, name in (*METRICS, *((key, key, name) for key, name in OWN))
        if isinstance(figures.get(key), int | float)
    ]
    results = [{"task": dict(TASK), "dataset": test, "metrics": metrics}] if metrics else []
    for suite in data["safety"]:
        passed = [
            {"type": f"{kind['kind']}_pass_rate", "value": round(kind["candidate"]["share"], 6), "name": kind["label"]}
            for kind in suite["kinds"]
            if kind["candidate"] and kind["candidate"].get("share") is not None
        ]
        if passed:
            name = f"medtune safety suite: {suite['title']}"
            results.append({"task": dict(TASK), "dataset": {"type": suite["suite"], "name": name}, "metrics": passed})
    return results


def _licence_keys(data: Mapping[str, Any]) -> dict[str, str]:
    """One licence is named as it is; several are "other" with a name, as the hub wants it."""
    verdict = data["licences"]["verdict"] or {}
    carried = verdict.get("inherited") or [row["licence"] for row in data["licences"]["lineage"]]
    names = list(dict.fromkeys(str(name).lower() for name in carried if name and str(name).lower() != "unknown"))
    if len(names) == 1:
        return {"license": names[0]}
    return {"license": "other", "license_name": "-and-".join(names) or "unknown"}


def _head(data: Mapping[str, Any]) -> str:
    summary = data["summary"]
    lines = [
        f"# {_name(data)}",
        f"> **{summary['outcome']['en']}.** {summary['en']['headline']}",
        f"> **{summary['outcome']['ko']}.** {summary['ko']['headline']}",
    ]
    if data["note"]:
        lines.insert(1, f"> **Read this first.** {_text(data['note'])}")
    reasons = [f"- {_text(reason)}" for reason in data["decision"].get("reasons") or []]
    return "\n\n".join([*lines, *(["\n".join(reasons)] if reasons else [])])


def _plain(data: Mapping[str, Any]) -> str:
    parts = []
    for language, title in (("en", "In plain words"), ("ko", "쉬운 말로")):
        said = data["summary"][language]
        parts += [f"## {title}", *map(_text, said["is"]), _list(said["found"])]
    return "\n\n".join(part for part in parts if part)


def _use(data: Mapping[str, Any]) -> str:
    english, korean = (data["summary"][language]["is_not"] for language in ("en", "ko"))
    use = data["licences"]["intended_use"]
    told = f" The recipe declares {use} use." if use else ""
    return "\n\n".join(
        [
            "## Intended use",
            f"Research and software development around Korean medical question answering.{told}",
            "## Out of scope",
            _list(english),
            _list(korean),
        ]
    )


def _training(data: Mapping[str, Any]) -> str:
    train, base, rows = data["training"], data["base"], data["data"]
    lora = train["settings"].get("lora") or {}
    revision = f" at `{rows['dataset']['revision']}`" if rows["dataset"].get("revision") else ""
    lines = [
        f"Base: {_text(base['id'])}" + (f" at `{base['revision']}`" if base.get("revision") else ""),
        f"Rows: {_text(rows['dataset']['id'])}{revision}: {number(rows['validate'].get('rows_out'))} kept, "
        f"{number(rows['validate'].get('quarantined'))} quarantined; {counts(rows['validate'].get('splits'))}",
        f"LoRA: r {lora.get('r', '–')}, alpha {lora.get('alpha', '–')}; {number(train.get('steps'))} steps, training "
        f"loss {number(train.get('train_loss'))}, validation loss {number(train.get('validation_loss'))}",
        f"Machine: {_text(number(train.get('device')))}, {with_unit(train.get('seconds'), '{:,.0f}', 's')}, "
        f"{with_unit(train.get('tokens_per_second'), '{:,.0f}', 'tokens a second')}, "
        f"peak {size(train.get('peak_memory_bytes'))}",
        f"Merged into the {number(data['merge'].get('into'))} base: KL to base + adapter "
        f"{number(data['merge'].get('kl_mean'), '{:.1e}')}, same first choice on "
        f"{number(data['merge'].get('top1_agreement'), '{:.2%}')} of tokens",
        f"Version `{data['version']}`, candidate `{data['candidate']}`",
    ]
    return "\n\n".join(["## Training", _list(lines, ready=True)])


def _new_rows(data: Mapping[str, Any]) -> str:
    """Nothing for a model whose rows were compared with none."""
    drift = data["drift"]
    if not drift.get("drift"):
        return ""
    counts = drift["counts"]
    told = (
        f"{number(counts['new'])} of its rows are new against version {drift['against']['number']}, the champion when "
        f"it was judged, and were compared with {number(counts['old'])} that that one was trained on."
    )
    if drift["alarms"]:
        found = _list(drift["alarms"])
    else:
        found = "Nothing moved further than the recipe bears." if drift["judged"] else "They are too few to judge."
    return "\n\n".join(["## New rows", told, found])


def _evaluation(data: Mapping[str, Any]) -> str:
    evaluation, champion = data["evaluation"], data["champion"] or {}
    theirs = champion.get("figures") if champion.get("same_test") else None
    columns = [("Base", evaluation.get("base")), ("Champion", theirs)]
    columns += [("Candidate", evaluation.get("adapter")), ("Merged", evaluation.get("merged"))]
    columns = [(name, figures) for name, figures in columns if figures]
    lines = ["| | " + " | ".join(name for name, _ in columns) + " |", "|---|" + "---:|" * len(columns)]
    for key, label, form, _ in FIGURES:
        cells = [number(figures.get(key), form) for _, figures in columns]
        if any(cell != "–" for cell in cells):
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    differences = [
        f"{row['label']}: {number(row.get('mean'), '{:+.4g}')} {row['unit']} "
        + (
            f"[{number(row['low'], '{:+.4g}')}, {number(row['high'], '{:+.4g}')}]"
            if row.get("low") is not None and row.get("high") is not None
            else "(no interval could be computed)"
        )
        + f"; {row['better']} is better"
        for row in data["comparisons"]
    ]
    rows = f"{number(evaluation.get('rows'))} test rows in {number(evaluation.get('clusters'))} near-duplicate clusters"
    parts = ["## Evaluation", f"On {rows}.", _list(differences), "\n".join(lines) if columns else ""]
    return "\n\n".join(part for part in parts if part)


def _safety(data: Mapping[str, Any]) -> str:
    told = (
        "Regression tests for software, written for this project and not by clinicians; rules are code. Good outcomes "
        "with exact (Clopper-Pearson) intervals in %."
    )
    lines = ["| Suite | Right answer | Base | Candidate |", "|---|---|---:|---:|"]
    for suite in data["safety"]:
        for kind in suite["kinds"]:
            title = SUITES.get(suite["suite"], suite["suite"])
            lines.append(f"| {title} | {kind['label']} | {share(kind['base'])} | {share(kind['candidate'])} |")
    return "\n\n".join(["## Safety", told, "\n".join(lines) if len(lines) > 2 else "No safety suite was run."])


def _limitations(data: Mapping[str, Any]) -> str:
    return "\n\n".join(
        [
            "## Limitations",
            _list(
                [
                    "It invents: names, numbers, doses and facts can be wrong however fluent the sentence is.",
                    "Its rows are of one kind; other complaints, dialects and ages are hardly among them.",
                    "The figures are of the test rows and suites of this project and say little of real patients.",
                    "What it was trained on may come back word for word; see memorisation in the release card.",
                ]
            ),
        ]
    )


def _licence(data: Mapping[str, Any]) -> str:
    lines = [f"{row['what']}: {row['id']}, {row['licence'] or 'unknown'}" for row in data["licences"]["lineage"]]
    verdict = data["licences"]["verdict"] or {}
    lines += verdict.get("conditions") or []
    return "\n\n".join(["## Licence", "The model carries what rows, base and its parents ask:", _list(lines)])


def _load(data: Mapping[str, Any]) -> str:
    return (
        "## How to load\n\n"
        "```python\nfrom transformers import pipeline\n\n"
        'pipe = pipeline("text-generation", model="<folder or repository of this file>")\n'
        'messages = [{"role": "user", "content": "농구를 하다가 손이 골절된 것 같아요."}]\n'
        'print(pipe(messages)[0]["generated_text"][-1]["content"])\n```\n\n'
        "`medtune ask` verifies every file first. The system prompt that it was trained with lies in medtune.json."
    )


def _name(data: Mapping[str, Any]) -> str:
    return ((data["versions"] or {}).get("merged") or {}).get("model") or "medgpt-ko"


def _list(lines: list[str], ready: bool = False) -> str:
    return "\n".join(f"- {line if ready else _text(line)}" for line in lines)


def _text(text: Any) -> str:
    """Names and sentences come from files: nothing in them may become markup."""
    for sign in "\\`*[]<>|":
        text = str(text).replace(sign, f"\\{sign}")
    return " ".join(text.split())


def _yaml(found: Mapping[str, Any]) -> str:
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.width = 10_000  # a folded name would be read as another one by plain tools
    yaml.sort_base_mapping_type_on_output = False
    text = StringIO()
    yaml.dump(dict(found), text)
    return text.getvalue()
