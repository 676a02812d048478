"""lora: the shape of the adapter."""

from typing import Literal

from pydantic import Field, PositiveInt, field_validator

from medtune.params.section import Section


class Lora(Section):
    r: PositiveInt
    alpha: PositiveInt
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: list[str] | Literal["all-linear"]
    variant: Literal["lora", "rslora", "dora"] = "lora"

    @field_validator("targets")
    @classmethod
    def _named_once(cls, targets: list[str] | str) -> list[str] | str:
        if isinstance(targets, list) and (not targets or len(set(targets)) != len(targets)):
            raise ValueError("name each target module once, or write all-linear")
        return targets
