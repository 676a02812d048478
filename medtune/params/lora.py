"""lora: the shape of the adapter."""

from typing import Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from medtune.params.section import Section


class Lora(Section):
    r: PositiveInt
    alpha: PositiveInt
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: list[str] | Literal["all-linear"]
    variant: Literal["lora", "rslora", "dora"] = "lora"
    init: Literal["default", "loftq", "pissa"] = "default"

    @field_validator("targets")
    @classmethod
    def _named_once(cls, targets: list[str] | str) -> list[str] | str:
        if isinstance(targets, list) and (not targets or len(set(targets)) != len(targets)):
            raise ValueError("name each target module once, or write all-linear")
        return targets

    @model_validator(mode="after")
    def _begins_somewhere(self) -> "Lora":
        if self.variant == "dora" and self.init != "default":
            raise ValueError(
                f"init: {self.init} and variant: dora do not go together: DoRA takes its magnitudes from the base "
                f"before {self.init} changes the sum; write init: default, or variant: lora or rslora"
            )
        return self
