"""gate: the checks that stand between a candidate and the champion.

A check is one of two forms. A bound holds one figure of a report (`merge.kl_mean`) to a number. A comparison holds a
figure of every test row against the base or the champion on the same rows, with its level and its power.
"""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from medtune.params.names import nearest
from medtune.params.section import Section

# The reports that figures come from: reports/<root>.json. `review` is there once votes were imported.
ROOTS = ("validate", "tokenize", "train", "merge", "evaluate", "review")
# What lies directly under `evaluate`; deeper keys are held to the report itself (registry/gate.py)
EVALUATE = (
    "rows", "clusters", "base", "adapter", "merged", "general", "safety", "adapter_minus_base", "merged_minus_adapter",
)  # fmt: skip
# Figures of single rows, which two models can be compared by, and which way is better
COMPARED = {"nll_per_char": "lower", "chrfpp": "higher", "rouge_l": "higher"}
BOUNDS = ("at_most", "at_least", "below", "above")
# Below it the resamples of one test take longer than a cup of coffee (20 in its tail: two million of them)
SMALLEST_LEVEL = 1e-5


class Check(Section):
    """One figure against one bound, or against another model on the same rows."""

    # first, so that the figure below can be held to the form that it belongs to
    against: Literal["base", "champion"] | None = None
    figure: str = Field(min_length=1)
    at_most: float | None = None
    at_least: float | None = None
    below: float | None = None
    above: float | None = None
    direction: Literal["lower", "higher"] | None = None
    margin: float | None = Field(default=None, gt=0)
    level: float | None = Field(default=None, gt=0, lt=0.5)
    blocks: bool = True
    why: str = ""

    @field_validator("figure")
    @classmethod
    def _known(cls, figure: str, info: ValidationInfo) -> str:
        if info.data.get("against"):
            if figure not in COMPARED:
                raise ValueError(f"{figure!r} is no figure of single rows; {nearest(figure, COMPARED)}")
            return figure
        if figure in COMPARED:
            raise ValueError(f"{figure!r} is a figure of single rows; write against: base or against: champion with it")
        root, _, rest = figure.partition(".")
        if root not in ROOTS or not rest:
            raise ValueError(
                f"{figure!r} names no figure of a report; write <stage>.<key>, such as merge.kl_mean; "
                f"{nearest(root, ROOTS)}"
            )
        key = rest.split(".")[0]
        if key in ("adapter_minus_base", "merged_minus_adapter"):
            raise ValueError(
                f"{figure!r} is the result of a comparison, and a bound on it would know neither looks nor power; "
                "write figure: nll_per_char with against: base, direction and margin"
            )
        if root == "evaluate" and key not in EVALUATE:
            raise ValueError(f"{figure!r}: there is no evaluate.{key}; {nearest(key, EVALUATE)}")
        return figure

    @model_validator(mode="after")
    def _one_form(self) -> "Check":
        bounds = [name for name in BOUNDS if getattr(self, name) is not None]
        if self.against is None:
            if len(bounds) != 1:
                raise ValueError("give one of at_most, at_least, below, above (or against: base | champion)")
            if self.direction or self.margin:
                raise ValueError("direction and margin belong to a comparison; add against: base | champion")
            if self.level and bounds[0] not in ("at_most", "at_least"):
                raise ValueError(f"a level asks on which side of the bound a share is; write at_least for {bounds[0]}")
            return self
        if bounds:
            raise ValueError(f"{bounds[0]} is a bound, and a check with against: {self.against} has a margin instead")
        if self.direction is None or self.margin is None:
            raise ValueError(
                "a comparison needs direction (lower or higher is better) and margin (the difference that matters)"
            )
        if self.direction != COMPARED[self.figure]:
            raise ValueError(f"{COMPARED[self.figure]} is better for {self.figure}; write direction: "
                             f"{COMPARED[self.figure]}")  # fmt: skip
        return self

    @property
    def bound(self) -> str:
        """The name of the bound of a check that is no comparison."""
        return next(name for name in BOUNDS if getattr(self, name) is not None)


class Gate(Section):
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    looks: int = Field(default=20, ge=1)
    power: float = Field(default=0.8, gt=0, lt=1)
    checks: dict[str, Check] = Field(min_length=1)
    note: str = ""

    @model_validator(mode="after")
    def _within_reach(self) -> "Gate":
        for name, check in self.comparisons.items():
            if check.level and check.level > self.alpha:
                raise ValueError(
                    f"checks.{name}.level ({check.level:g}) is above gate.alpha ({self.alpha:g}), which the looks at a "
                    "test set share; lower it or leave it out"
                )
            smallest = self.level_of(check) / self.looks / len(self.comparisons)
            if smallest < SMALLEST_LEVEL:
                raise ValueError(
                    f"checks.{name}: its level is {smallest:.2g} after {self.looks} looks and {len(self.comparisons)} "
                    f"comparisons, and {SMALLEST_LEVEL:g} is the least that is resampled for; lower looks"
                )
        return self

    @property
    def comparisons(self) -> dict[str, Check]:
        return {name: check for name, check in self.checks.items() if check.against}

    def level_of(self, check: Check) -> float:
        """The level of a comparison over all looks."""
        return check.level or self.alpha
