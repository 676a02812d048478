"""evaluate: how much is scored and generated."""

from pydantic import Field, NonNegativeInt, PositiveInt

from medtune.params.section import Section


class Evaluate(Section):
    max_rows: PositiveInt | None = None
    batch_size: PositiveInt = 8
    questions: str = "data/questions.jsonl"
    max_questions: PositiveInt | None = None
    max_new_tokens: PositiveInt = 256
    bootstrap_samples: PositiveInt = 2000
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    seed: NonNegativeInt = 42
