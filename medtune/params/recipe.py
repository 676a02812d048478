"""The whole recipe: params.yaml as one typed, frozen object.

recipe = load_recipe(Path("params.yaml"))
recipe.train.learning_rate
"""

from copy import deepcopy
from functools import lru_cache
from pathlib import Path

from pydantic import Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from medtune.params.base import Base
from medtune.params.download import Download
from medtune.params.errors import RecipeError
from medtune.params.evaluate import Evaluate
from medtune.params.gate import Gate
from medtune.params.lora import Lora
from medtune.params.merge import Merge
from medtune.params.names import nearest
from medtune.params.register import Register
from medtune.params.retrain import Retrain
from medtune.params.section import Section, explain
from medtune.params.tokenize import Tokenize
from medtune.params.train import Train
from medtune.params.validate import Validate

PARAMS = Path("params.yaml")


class Recipe(Section):
    """Sections in the order of the stages. Wrong combinations across sections are refused here, before any work."""

    base: Base
    download: Download
    # pydantic's BaseModel has a method named validate; the alias keeps the section's name in the file
    validate_: Validate = Field(alias="validate")
    tokenize: Tokenize
    lora: Lora
    train: Train
    merge: Merge
    evaluate: Evaluate
    gate: Gate
    register_: Register = Field(alias="register")
    retrain: Retrain

    @model_validator(mode="after")
    def _fits_together(self) -> "Recipe":
        problems = []
        if self.merge.into in ("dequantised", "quantised") and self.base.quantization == "none":
            problems.append(
                f"merge.into: {self.merge.into} names an NF4 base, but base.quantization: none trains on the original "
                "weights; write merge.into: original"
            )
        if self.train.eval_steps and self.validate_.split.validation == 0:
            problems.append(
                "train.eval_steps asks for a validation loss, but validate.split.validation is 0; "
                "give validation a share (0.05, say) or remove eval_steps, keep: best and early_stopping_patience"
            )
        if (self.tokenize.template == "text") != (self.download.format == "text"):
            problems.append("tokenize.template: text and download.format: text go together; set both or neither")
        if self.train.sharding != "none" and self.base.quantization == "nf4" and self.base.quant_storage != "bfloat16":
            problems.append("train.sharding: fsdp shards no integer weights; write base.quant_storage: bfloat16")
        if self.lora.init == "loftq" and self.base.quantization == "none":
            problems.append(
                "lora.init: loftq begins at the error of the quantisation, and base.quantization: none has no error; "
                "write base.quantization: nf4, or lora.init: default or pissa"
            )
        if self.lora.init == "pissa" and self.base.quantization == "nf4":
            problems.append(
                "lora.init: pissa takes a part out of the base's weights, and what is left of them would be other NF4 "
                "words than the base's, so that the adapter would fit no base that can be named; write "
                "base.quantization: none, or lora.init: loftq"
            )
        if self.train.init != "base" and self.lora.init != "default":
            problems.append(
                f"train.init: {self.train.init} goes on from a version's weights, which lora.init: {self.lora.init} "
                "would replace; write lora.init: default, or train.init: base"
            )
        if self.lora.init != "default" and self.train.sharding != "none":
            problems.append(
                f"lora.init: {self.lora.init} needs each weight whole on one device, and train.sharding: fsdp splits "
                "them; write lora.init: default"
            )
        parts = ["dataset", "base", self.base.id, self.download.id or self.download.path]
        parts += [parent.id for parent in self.base.parents]
        if self.train.init != "base":
            parts.append(f"{self.register_.adapter_model}/{self.train.init}")
        problems += [
            f"register.waivers.{n}.of: {waiver.of!r} is no part of this model; {nearest(waiver.of, parts)}"
            for n, waiver in enumerate(self.register_.waivers)
            if waiver.of not in parts
        ]
        for name, check in self.gate.checks.items():
            if check.against is None and check.blocks and (why := self._never_there(check.figure)):
                problems.append(f"gate.checks.{name} blocks by {check.figure}, which no evaluation will hold: {why}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _never_there(self, figure: str) -> str | None:
        """Why this recipe's evaluation cannot hold a figure, with the mend; None where it can."""
        suite = figure.removeprefix("evaluate.safety.").split(".")[0]
        if figure.startswith("evaluate.general."):
            suite = "general"
        if suite == "memorisation":
            planted = figure.endswith((".secrets_kept", ".unexposed", ".p_value"))
            return (
                "tokenize.canaries is 0; plant some, or write blocks: false"
                if planted and not self.tokenize.canaries
                else None
            )
        known = ("red_flags", "dosage", "identities", "general")
        if suite in known and suite not in self.evaluate.suites:
            return f"evaluate.suites lacks {suite}; add it, or write blocks: false"
        return None


def parse_recipe(data: object, where: str = "params.yaml", path: Path | None = None) -> Recipe:
    """A recipe from plain data (what YAML gives). RecipeError names every wrong key, its line in `path`, its mend."""
    if not isinstance(data, dict):
        raise RecipeError(f"{where}: a recipe is a mapping of sections; `medtune recipe show sample` shows one")
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError(explain(error, Recipe, where, path)) from None


def read_yaml(path: Path) -> object:
    """The file's plain data; RecipeError names file, line and column where it is no YAML."""
    try:
        return deepcopy(_parsed(path.read_text(encoding="utf-8")))  # whoever gets it may change it
    except FileNotFoundError:
        raise RecipeError(f"{path} is missing; `medtune recipe use sample` writes one") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise RecipeError(f"{path}{place}: not valid YAML: {getattr(error, 'problem', error)}") from None


@lru_cache(maxsize=8)
def _parsed(text: str) -> object:
    """Of a text once: a registration asks for the same few hundred lines up to five times."""
    # YAML 1.2, as DVC reads it: PyYAML's 1.1 takes 2e-4 for a string
    return YAML(typ="safe", pure=True).load(text)


def load_recipe(path: Path = PARAMS) -> Recipe:
    """The typed recipe of a file, ready to run; RecipeError says file, key and mend."""
    recipe = parse_recipe(read_yaml(path), str(path), path)
    for key, section in (("base", recipe.base), ("download", recipe.download)):
        if section.revision == "pin":
            raise RecipeError(
                f"{path}: {key}.revision is still 'pin'; `medtune recipe use NAME` asks the hub for the commit of "
                f"{section.id} and writes it down, or write its 40 hex digits yourself"
            )
    return recipe
