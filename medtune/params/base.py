"""base: which pretrained model is tuned, from where, and how it is quantised."""

import re
from typing import Literal

from pydantic import Field, model_validator

from medtune.params.section import Section


class Parent(Section):
    """A model that the base was made from. license: as its card names it; "unknown" where it names none."""

    id: str = Field(min_length=1)
    license: str = Field(min_length=1)


class Base(Section):
    source: Literal["hub", "path", "package", "mlflow"]
    id: str = Field(min_length=1)
    revision: str | None = None
    sha256: str | None = None
    license: str | None = None
    parents: list[Parent] = Field(default_factory=list)
    quantization: Literal["nf4", "none"] = "nf4"
    double_quant: bool = True
    quant_storage: Literal["uint8", "bfloat16"] = "uint8"

    @model_validator(mode="after")
    def _parents_differ(self) -> "Base":
        names = [parent.id for parent in self.parents]
        for name in names:
            if name == self.id or names.count(name) > 1:
                raise ValueError(
                    f"parents: {name} is {'the base itself' if name == self.id else 'named twice'}; name each model "
                    "that the base was made from once"
                )
        return self

    @model_validator(mode="after")
    def _pinned(self) -> "Base":
        if self.source == "hub" and not re.fullmatch(r"[0-9a-f]{40}|pin", self.revision or ""):
            raise ValueError(
                f"revision must be the 40-hex commit of {self.id} (a branch such as 'main' moves under you); "
                "copy it from the model's Files and versions page"
            )
        if self.source == "package" and not (self.revision and re.fullmatch(r"[0-9a-f]{64}", self.sha256 or "")):
            raise ValueError("a base from a package needs revision (the package's version) and sha256 (of its file)")
        if self.source == "mlflow" and not (self.revision or "").isdigit():
            raise ValueError(
                "revision must be a version number of the registered model (an alias would move under you)"
            )
        if self.quantization == "none" and self.quant_storage != "uint8":
            raise ValueError("quant_storage says how NF4 words are stored; leave it out with quantization: none")
        return self
