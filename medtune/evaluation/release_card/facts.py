"""The card's lists of names and values: rows, digests, training, merge, environment, policy."""

from collections.abc import Mapping
from typing import Any

from medtune.evaluation.release_card.wording import counts, flat, mean, number, share, size, with_unit

Facts = list[tuple[str, str]]


def rows(data: Mapping[str, Any]) -> Facts:
    dataset, found, tokens = data["data"]["dataset"], data["data"]["validate"], data["data"]["tokenize"]
    return [
        ("Dataset", number(dataset.get("id"))),
        ("Revision", number(dataset.get("revision"))),
        ("Rows that came in", number(found.get("rows_in"))),
        ("Kept", number(found.get("rows_out"))),
        ("Quarantined", number(found.get("quarantined"))),
        ("Why", counts(found.get("reasons"))),
        ("Near-duplicate clusters", number(found.get("clusters"))),
        ("Near-duplicates", number(found.get("near_duplicates"))),
        ("Split by cluster", counts(found.get("splits"))),
        ("Template", number(tokens.get("template"))),
        ("Longest sample, tokens", number(tokens.get("max_length"))),
        ("Answers cut to fit", number(tokens.get("truncated_rows"))),
        ("Rows left out as too long", number(tokens.get("dropped_rows"))),
        ("Canaries in the recipe", number(data["data"]["canaries_asked"])),
        *flat({key: value for key, value in tokens.items() if key.startswith("canar")}),
    ]


def digests(data: Mapping[str, Any]) -> Facts:
    return [
        ("Version", number(data["version"])),
        ("Candidate", number(data["candidate"])),
        ("Base", number(data["base"].get("fingerprint"))),
        ("Rows", number(data["data"]["validate"].get("data_digest"))),
        ("Tokens", number(data["data"]["tokenize"].get("tokens_digest"))),
        ("Test rows", number(data["evaluation"].get("test_digest"))),
        *((f"Suite {suite['suite']}", number(suite["digest"])) for suite in data["safety"]),
    ]


def training(data: Mapping[str, Any]) -> Facts:
    found = data["training"]
    lora, settings = found["settings"].get("lora") or {}, found["settings"].get("train") or {}
    batch = settings.get("batch_size")
    return [
        ("Steps", number(found.get("steps"))),
        ("Epochs", number(found.get("epochs"))),
        ("Time", with_unit(found.get("seconds"), "{:,.1f}", "s")),
        ("Speed", with_unit(found.get("tokens_per_second"), "{:,.0f}", "tokens a second")),
        ("Peak memory", size(found.get("peak_memory_bytes"))),
        ("Engine", number(found.get("engine"))),
        ("Trained parameters", number(found.get("trainable_parameters"))),
        ("All parameters", number(found.get("total_parameters"))),
        ("LoRA", f"r {lora.get('r')}, alpha {lora.get('alpha')}, {lora.get('variant', 'lora')}" if lora else "–"),
        ("Learning rate", number(settings.get("learning_rate"))),
        ("Samples a step", f"{batch} × {settings.get('gradient_accumulation', 1)}" if batch else "–"),
        ("Optimizer", number(settings.get("optimizer"))),
        ("Seed", number(settings.get("seed"))),
        ("Kept step", number(found.get("kept_step"))),
    ]


def merge(data: Mapping[str, Any]) -> Facts:
    found = data["merge"]
    compared = f"{number(found.get('rows'))} rows, {number(found.get('tokens'))} tokens"
    return [
        ("Merged into", number(found.get("into"))),
        ("Stored as", number(found.get("stored_dtype"))),
        ("KL divergence, mean", number(found.get("kl_mean"), "{:.2e}")),
        ("KL divergence, largest", number(found.get("kl_max"), "{:.2e}")),
        ("Largest logit difference", number(found.get("max_logit_difference"), "{:.2e}")),
        ("Same first choice", number(found.get("top1_agreement"), "{:.2%}")),
        ("Compared on", compared if found.get("rows") is not None else "–"),
        ("Size", size(found.get("bytes"))),
        ("Time", with_unit(found.get("seconds"), "{:,.1f}", "s")),
    ]


def environment(data: Mapping[str, Any]) -> Facts:
    found = data["environment"]
    named = ("device", "dtype", "git_commit", "git_dirty", "python", "system", "packages")
    return [
        ("Trained on", number(found.get("device"))),
        ("Numbers", number(found.get("dtype"))),
        ("Git commit", number(found.get("git_commit"))),
        ("Files differ from it", {"true": "yes", "false": "no"}.get(str(found.get("git_dirty")).lower(), "–")),
        ("MLflow run", number(data["run_id"])),
        ("Python", number(found.get("python"))),
        ("System", number(found.get("system"))),
        *(found.get("packages") or {}).items(),
        *flat({key: value for key, value in found.items() if key not in named}),
    ]


def memorisation(data: Mapping[str, Any]) -> Facts:
    """What stands beside the shares: exposure and its p-value, the longest copied span; candidate, then base."""
    names = {
        "canaries": "Secrets planted",
        "p_value": "Chance of ranks so low by luck",
        "mean_exposure": "Exposure, mean, bits",
        "max_exposure": "Exposure, largest, bits",
        "longest": "Longest copied span, characters",
        "span": "Copied means, characters",
        "answers": "Answers looked at",
    }
    found = data["memorisation"]["figures"]
    candidate, base = found.get("candidate") or {}, found.get("base") or {}
    told = []
    for key, name in names.items():
        ours, control = number(candidate.get(key)), number(base.get(key))
        told.append((name, ours if ours == control or control == "–" else f"{ours} (base {control})"))
    return told


def review(data: Mapping[str, Any]) -> Facts:
    """What clinicians preferred and how far they agree; reports/review.json of medtune/evaluation/review."""
    found = data["review"]
    preference, harmful = found.get("preference") or {}, found.get("harmful") or {}
    other = (found.get("models") or {}).get("other") or "the other model"
    other = other if isinstance(other, str) else other.get("name") or "the other model"
    known = [
        ("Reviewers", number(found.get("reviewers"))),
        ("Pairs reviewed", number(found.get("items_reviewed"))),
        ("Votes", number(found.get("votes"))),
        (f"Candidate preferred over {other}", share(preference)),
        ("Ties", number(preference.get("ties"))),
        ("Share of votes, equal as a half", mean(found.get("score"))),
        ("Candidate's answer called harmful", share(harmful.get("candidate"))),
        ("The other's answer called harmful", share(harmful.get("other"))),
        ("Agreement, Krippendorff's alpha", number(found.get("agreement"))),
        ("Votes for the left side", share(found.get("left"))),
    ]
    return known if preference else flat(found)


def checks(data: Mapping[str, Any]) -> list[dict[str, str]]:
    """The policy's checks, a line each: what is asked of which figure."""
    told = ("figure", "blocks", "why")
    found = []
    for name, check in (data["policy"].get("checks") or {}).items():
        asks = ", ".join(
            f"{key.replace('_', ' ')} {number(value)}"
            for key, value in check.items()
            if key not in told and value is not None and value is not False
        )
        found.append(
            {
                "name": name,
                "figure": number(check.get("figure")),
                "asks": asks or "–",
                "blocks": number(check.get("blocks", True)),
                "why": check.get("why") or "",
            }
        )
    return found


def policy(data: Mapping[str, Any]) -> Facts:
    """What the policy says beside its checks."""
    return flat({key: value for key, value in data["policy"].items() if key not in ("checks", "note")})
