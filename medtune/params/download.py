"""download: where the rows come from and which column is what."""

import re
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from medtune.params.section import Section


class Columns(Section):
    """Names of columns. Left out, they are found by the habits named in medtune/corpus/dialogue.py."""

    instruction: str | None = None
    input: str | None = None
    output: str | None = None
    system: str | None = None
    messages: str | None = None
    text: str | None = None


class Download(Section):
    source: Literal["sample", "file", "hub"]
    path: str = Field(min_length=1)
    id: str | None = None
    revision: str | None = None
    pattern: str = "*"
    license: str | None = None
    format: Literal["auto", "alpaca", "sharegpt", "messages", "text"] = "auto"
    columns: Columns = Columns()
    limit: PositiveInt | None = None
    attempts: PositiveInt = 5

    @model_validator(mode="after")
    def _complete(self) -> "Download":
        if self.source == "hub":
            if not self.id:
                raise ValueError("source: hub needs id, such as mncai/MedGPT-5k-ko")
            if not re.fullmatch(r"[0-9a-f]{40}|pin", self.revision or ""):
                raise ValueError(
                    f"revision must be the 40-hex commit of {self.id} (a branch such as 'main' moves under you); "
                    "copy it from the dataset's Files and versions page"
                )
        elif self.id or self.revision:
            raise ValueError(f"id and revision belong to source: hub, and this is source: {self.source}; remove them")
        if self.format == "text" and not self.columns.text:
            raise ValueError("format: text needs columns.text, the column to learn from")
        if self.columns.messages and (self.columns.instruction or self.columns.output):
            raise ValueError("columns.messages holds whole dialogues; remove columns.instruction and columns.output")
        return self
