"""JSON as every --json prints it: what any program can read, also where a figure came to nothing."""

import json
import math
from typing import Any


def to_json(data: Any) -> str:
    """The data as JSON, indented, Korean as it is. NaN and infinity are no JSON: they become null."""
    return json.dumps(_finite(data), ensure_ascii=False, indent=2, allow_nan=False)


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, list | tuple) else data
