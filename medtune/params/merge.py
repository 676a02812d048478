"""merge: what the adapter is folded into, how it is stored, how its answers are drawn."""

import re
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from medtune.params.section import Section


class Generation(Section):
    """Written to the merged model's generation_config.json; `medtune ask` draws its answers by it."""

    temperature: PositiveFloat = 0.2
    top_k: NonNegativeInt = 50
    top_p: float = Field(default=0.92, gt=0, le=1)
    repetition_penalty: float = Field(default=1.2, ge=1)
    max_new_tokens: PositiveInt = 256


class Merge(Section):
    into: Literal["dequantised", "original", "quantised"] = "dequantised"
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    max_shard_size: str = "4GB"
    certificate_rows: PositiveInt = 16
    generation: Generation = Generation()

    @field_validator("max_shard_size")
    @classmethod
    def _size(cls, size: str) -> str:
        if not re.fullmatch(r"\d+(MB|GB)", size):
            raise ValueError("write a size such as 4GB or 500MB")
        return size
