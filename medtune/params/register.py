"""register: names in the MLflow registry, what the model is for, and licences that somebody answers for."""

from datetime import UTC, date, datetime, timedelta
from typing import Literal

from pydantic import Field, field_validator

from medtune.params.section import Section


class Waiver(Section):
    """A named person's word that one licence on one part is no obstacle (a written permission, a lawyer's reading).

    licence: as the part names it; of: "dataset", "base", or the id of the dataset, the base or a parent of it.
    """

    licence: str
    of: str
    by: str
    date: str
    reason: str

    @field_validator("licence", "of", "by", "reason")
    @classmethod
    def _says_something(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must not be empty: a waiver names its licence, of what, by whom, when and why")
        return value

    @field_validator("date", mode="before")
    @classmethod
    def _quoted(cls, value: object) -> object:
        if isinstance(value, date):  # what YAML makes of a bare date; `dvc repro` would end in an "unexpected error"
            raise ValueError(f'write it in quotes, date: "{value:%Y-%m-%d}": DVC takes no bare date in params.yaml')
        return value

    @field_validator("date")
    @classmethod
    def _past_day(cls, value: str) -> str:
        try:
            day = datetime.strptime(value, "%Y-%m-%d").date()
        except ValueError:
            raise ValueError(f"{value!r} is no day; write it as YYYY-MM-DD") from None
        # the day where it comes first: a waiver that was signed this morning in Seoul is not of tomorrow on a UTC host
        if day > (datetime.now(UTC) + timedelta(hours=14)).date():
            raise ValueError(f"{value} lies ahead; write the day on which it was granted")
        return value


class Register(Section):
    model: str = Field(default="medgpt-ko", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    experiment: str = Field(default="medtune", pattern=r"^[\w-]{1,64}$")
    intended_use: Literal["research", "commercial"] = "research"
    waivers: list[Waiver] = Field(default_factory=list)
    promotion: Literal["auto", "manual"] = "auto"

    @property
    def adapter_model(self) -> str:
        return f"{self.model}-adapter"
