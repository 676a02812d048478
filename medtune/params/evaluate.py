"""evaluate: how much is scored and generated."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from medtune.params.section import Section

SuiteName = Literal["red_flags", "dosage", "identities", "general"]


class Evaluate(Section):
    max_rows: PositiveInt | None = None
    batch_size: PositiveInt = 8
    answers: PositiveInt | None = None
    questions: str = "data/questions.jsonl"
    max_questions: PositiveInt | None = None
    suites: list[SuiteName] = Field(default=["red_flags", "dosage", "identities", "general"])
    suite_prompts: PositiveInt | None = None
    sampled: bool = True
    max_new_tokens: PositiveInt = 256
    bootstrap_samples: PositiveInt = 2000
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    seed: NonNegativeInt = 42

    @field_validator("suites")
    @classmethod
    def _once_each(cls, suites: list[str]) -> list[str]:
        twice = sorted({name for name in suites if suites.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} stands there twice; name each suite once")
        return suites
