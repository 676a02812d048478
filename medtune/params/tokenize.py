"""tokenize: the prompt template, the longest sample, and the canaries that are planted."""

from typing import Literal

from pydantic import Field

from medtune.params.section import Section


class Tokenize(Section):
    template: Literal["chat", "alpaca-ko", "kullm", "doctor", "text"]
    system: str | None = None
    max_length: int = Field(ge=16)
    overflow: Literal["truncate", "drop"] = "truncate"
    # invented secrets in the training split, that evaluate looks for in the model (corpus/canaries.py); 0: none
    canaries: int = Field(default=0, ge=0, le=64)
    canary_repeats: int = Field(default=1, ge=1, le=100)
