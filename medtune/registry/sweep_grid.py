"""What a sweep is to try: `lora.r=4,8,16` `train.learning_rate=1e-4,2e-4` as typed, checked combinations.

Everything that is wrong is told here, before anything is queued. Only what leaves the validation rows and their tokens
as they are may vary: validation losses are else of different things, and the smallest says nothing.
"""

import hashlib
import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from typing import Any

from ruamel.yaml import YAML

from medtune.params.errors import RecipeError
from medtune.params.recipe import Recipe, parse_recipe
from medtune.params.recipes import _set
from medtune.tracking.runs import flatten

SECTIONS = ("base", "download", "validate", "tokenize", "lora", "train")  # what makes a candidate
VARIED = ("lora", "train")
ALSO = ("base.quantization", "base.double_quant", "base.quant_storage")
SEED = "train.seed"
MANY = 64  # combinations that nobody types by mistake: more ask for --yes


@dataclass(frozen=True)
class Trial:
    """One combination. id: 8 hex digits over its values, the same in every run; params: dotted key -> plain value."""

    id: str
    params: dict[str, Any]

    @property
    def overrides(self) -> list[str]:
        """As `medtune recipe use` takes them (JSON is YAML)."""
        return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in self.params.items()]

    @property
    def settings(self) -> list[str]:
        """As `dvc exp run -S` takes them: Hydra's grammar; `++` also sets a key that params.yaml leaves out."""
        return [f"++{key}={_hydra(value)}" for key, value in self.params.items()]

    def __str__(self) -> str:
        return " ".join(f"{key}={show(value)}" for key, value in self.params.items())


@dataclass(frozen=True)
class Grid:
    """trials: each combination once, in the order written; repeated: how many said the same as an earlier one;
    fixed: dotted key -> value of everything else that makes a candidate."""

    keys: tuple[str, ...]
    trials: tuple[Trial, ...]
    repeated: int
    fixed: dict[str, Any]

    @property
    def name(self) -> str:
        """sweep-<8 hex>: the same combinations over the same recipe go on where they stopped."""
        told = [sorted(trial.id for trial in self.trials), self.fixed]
        return f"sweep-{_digest(told)}"


def read_grid(text: str, words: Sequence[str], where: str = "params.yaml") -> Grid:
    """The combinations of `key=a,b,c` words over a recipe's text. RecipeError names the word, the key and the mend."""
    axes: dict[str, list[str]] = {}
    for word in words:
        key, values = _axis(word)
        if key in axes:
            both = ",".join([*axes[key], *values])
            raise RecipeError(f"{key} stands twice; write all its values at once: {key}={both}")
        _may_vary(key)
        axes[key] = values
    if not axes:
        raise RecipeError("medtune sweep needs what to vary, such as: medtune sweep 'lora.r=4,8,16'")
    data = YAML(typ="safe", pure=True).load(text)  # once: reading it takes longer than all that follows
    trials: dict[str, Trial] = {}
    count = 0
    fixed: dict[str, Any] = {}
    for values in product(*axes.values()):
        count += 1
        overrides = [f"{key}={value}" for key, value in zip(axes, values, strict=True)]
        try:
            recipe = _with(data, overrides, where)
        except RecipeError as error:
            raise RecipeError(f"{' '.join(overrides)}: {error}") from None
        _has_validation_loss(recipe, overrides)
        flat = settings_of(recipe)
        params = {key: _value(recipe, key) for key in axes}
        trials.setdefault(_digest(params), Trial(_digest(params), params))
        fixed = {key: value for key, value in flat.items() if not _under(key, axes)}
    return Grid(tuple(axes), tuple(trials.values()), count - len(trials), fixed)


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Dotted key -> plain value of all that makes a candidate."""
    return flatten({name: section_of(recipe, name) for name in SECTIONS})


def section_of(recipe: Recipe, name: str) -> dict[str, Any]:
    return recipe.model_dump(mode="json", by_alias=True)[name]


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """`key old → new` of every key that is not the same in both."""
    keys = sorted(one.keys() | other.keys())
    return [f"{key} {show(one.get(key))} → {show(other.get(key))}" for key in keys if one.get(key) != other.get(key)]


def show(value: object) -> str:
    """A value as people write it in a recipe, at most 40 characters."""
    text = f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
    text = value if isinstance(value, str) else text
    return text if len(text) <= 40 else f"{text[:37]}…"


def _axis(word: str) -> tuple[str, list[str]]:
    key, equals, values = word.partition("=")
    key = key.strip()
    if not equals or not key:
        raise RecipeError(f"'{word}' is no key=values; write for example 'lora.r=4,8,16'")
    parts = _split(values)
    if any(not part.strip() for part in parts):
        raise RecipeError(f"'{word}' has an empty value; write for example {key}=4,8 (null where none is meant)")
    return key, [part.strip() for part in parts]


def _split(values: str) -> list[str]:
    """At commas outside brackets and quotes, so that a list may be a value."""
    parts, depth, quote = [""], 0, ""
    for sign in values:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        else:
            depth += (sign in "[{") - (sign in "]}")
            if sign == "," and depth <= 0:
                parts.append("")
                continue
        parts[-1] += sign
    return parts


def _may_vary(key: str) -> None:
    section = key.partition(".")[0]
    if (section in VARIED and key != section) or key in ALSO:
        return
    if key in VARIED:
        example = "lora.r" if key == "lora" else "train.epochs"
        raise RecipeError(f"{key} is a section; name a key in it, such as {example}")
    if section in SECTIONS:
        raise RecipeError(
            f"{key} changes which rows or tokens the validation loss is measured on, so that losses could not be "
            f"compared; a sweep varies {', '.join(f'{name}.*' for name in VARIED)} and {', '.join(ALSO)}"
        )
    if section in Recipe.model_json_schema()["properties"]:
        raise RecipeError(
            f"{key} changes nothing about training, and a sweep stops before {section}; it varies "
            f"{', '.join(f'{name}.*' for name in VARIED)} and {', '.join(ALSO)}"
        )
    raise RecipeError(f"{key} is no key of the recipe; a sweep varies {', '.join(f'{name}.*' for name in VARIED)}")


def _has_validation_loss(recipe: Recipe, overrides: list[str]) -> None:
    train, said = recipe.train, " ".join(overrides)
    if not train.eval_steps:
        raise RecipeError(
            f"{said}: train.eval_steps is null, and a sweep compares validation losses; set train.eval_steps"
        )
    if train.max_steps and train.eval_steps > train.max_steps:
        raise RecipeError(
            f"{said}: train.eval_steps ({train.eval_steps}) comes after the last step ({train.max_steps}), so that "
            "there would be no validation loss to compare; lower train.eval_steps"
        )


def _value(recipe: Recipe, key: str) -> Any:
    section, *rest = key.split(".")
    value: Any = section_of(recipe, section)
    for name in rest:
        value = value[name]
    return value


def _under(key: str, axes: dict[str, list[str]]) -> bool:
    return any(key == axis or key.startswith(f"{axis}.") for axis in axes)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]


def _with(data: dict[str, Any], overrides: list[str], where: str) -> Recipe:
    changed = deepcopy(data)
    for override in overrides:
        _set(changed, override)
    return parse_recipe(changed, where)


def _hydra(value: Any) -> str:
    """https://hydra.cc/docs/advanced/override_grammar/basic/"""
    if isinstance(value, list):
        return f"[{','.join(map(_hydra, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_hydra(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    return json.dumps(value)
