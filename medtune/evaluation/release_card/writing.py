"""card.html, card.json and README.md on disk, all of the same facts.

write(Path("reports/card"), gather(...))
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medtune.evaluation.release_card.model_card import model_card
from medtune.evaluation.release_card.page import page


def write(folder: Path, data: Mapping[str, Any]) -> dict[str, Path]:
    """Write the three files; returns them by name. Each is whole or the old one; all are made before one is put."""
    texts = {
        "card.html": page(data),
        "card.json": json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False) + "\n",
        "README.md": model_card(data),
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for name, text in texts.items():
        temporary = folder / f".{name}.{os.getpid()}"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, folder / name)
        written[name] = folder / name
    return written
