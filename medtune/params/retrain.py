"""retrain: when new rows are worth a new model, where they come from, and how far they may lie from the old ones."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from medtune.params.section import Section


class Drift(Section):
    """How far new rows may lie from those that the champion learned before somebody looks.

    ks: Kolmogorov-Smirnov's D over lengths, 0 to 1; psi: population stability index over words and specialties;
    unseen: share of the words of new rows that the old ones never had; duplicates: share of new rows that are nearly
    an old one; rows: fewer new rows than this are not judged. All but duplicates also ask p < 0.01.
    """

    ks: float = Field(default=0.2, gt=0, le=1)
    psi: float = Field(default=0.25, gt=0)
    unseen: float = Field(default=0.3, gt=0, le=1)
    duplicates: float = Field(default=0.5, gt=0, le=1)
    rows: PositiveInt = 30
    action: Literal["warn", "hold"] = "warn"


class Retrain(Section):
    min_new_rows: PositiveInt = 50
    quiet_seconds: NonNegativeInt = 20
    follow_hub: bool = True
    prefix: str | None = None
    approval_days: PositiveInt = 7
    drift: Drift = Drift()

    @field_validator("prefix")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value is not None and not ("://" in value and value.partition("://")[2]):
            raise ValueError(f"{value!r} is no place that fsspec knows: write s3://bucket/folder, or file:///folder")
        if value is not None and "@" in value.partition("://")[2].partition("/")[0]:
            raise ValueError(
                "no key or password in the recipe, which git and MLflow keep: use AWS_ACCESS_KEY_ID, AWS_PROFILE …"
            )
        return value
