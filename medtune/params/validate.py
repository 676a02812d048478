"""validate: what a good row is, how many bad ones are borne, and how rows are split."""

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from medtune.params.section import Section


class Split(Section):
    """Shares of near-duplicate clusters; what is left is train."""

    validation: float = Field(ge=0, lt=1)
    test: float = Field(gt=0, lt=1)
    salt: str = "medtune"

    @model_validator(mode="after")
    def _leaves_train(self) -> "Split":
        if self.validation + self.test >= 0.9:
            raise ValueError(
                f"validation + test = {self.validation + self.test:g} leaves under a tenth to train on; lower them"
            )
        return self


class Validate(Section):
    min_rows: PositiveInt
    max_rows: PositiveInt
    min_question_chars: PositiveInt = 5
    max_question_chars: PositiveInt = 2000
    min_answer_chars: PositiveInt = 10
    max_answer_chars: PositiveInt = 4000
    min_hangul_share: float = Field(default=0.5, ge=0, le=1)
    near_duplicate: float = Field(default=0.8, gt=0, lt=1)
    minhash_permutations: PositiveInt = 128
    max_quarantine_share: float = Field(default=0.05, ge=0, le=1)
    max_line_breaks: NonNegativeInt = 30
    split: Split

    @model_validator(mode="after")
    def _ordered(self) -> "Validate":
        for low, high in (
            ("min_rows", "max_rows"),
            ("min_question_chars", "max_question_chars"),
            ("min_answer_chars", "max_answer_chars"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} ({getattr(self, low)}) is above {high} ({getattr(self, high)}); swap them")
        return self
