"""gate: the checks that stand between a candidate and the champion."""

from pydantic import Field, model_validator

from medtune.params.section import Section


class Check(Section):
    """One figure of the evidence against one bound. Names of figures: medtune/registry/gate.py."""

    figure: str = Field(min_length=1)
    at_most: float | None = None
    at_least: float | None = None
    below: float | None = None
    above: float | None = None
    blocks: bool = True
    why: str = ""

    @model_validator(mode="after")
    def _one_bound(self) -> "Check":
        bounds = [name for name in ("at_most", "at_least", "below", "above") if getattr(self, name) is not None]
        if len(bounds) != 1:
            raise ValueError("give one of at_most, at_least, below, above")
        return self


class Gate(Section):
    checks: dict[str, Check] = Field(min_length=1)
    not_worse_than_champion: bool = True
    note: str = ""
