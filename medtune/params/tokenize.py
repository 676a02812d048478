"""tokenize: the prompt template and the longest sample."""

from typing import Literal

from pydantic import Field

from medtune.params.section import Section


class Tokenize(Section):
    template: Literal["chat", "alpaca-ko", "kullm", "doctor", "text"]
    system: str | None = None
    max_length: int = Field(ge=16)
    overflow: Literal["truncate", "drop"] = "truncate"
