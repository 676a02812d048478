"""What every section of params.yaml shares: frozen, strict, and errors that name the key and the mend."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from medtune.params.lines import place
from medtune.params.names import nearest


class Section(BaseModel):
    """One mapping of the recipe. Unknown keys are refused, values are never coerced across kinds ("4" is no 4)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)


def explain(error: ValidationError, model: type[BaseModel], where: str, path: Path | None = None) -> str:
    """A pydantic error as sentences: file (with its line where `path` is that file), dotted key, what is wrong, the
    nearest known name."""
    lines = []
    file = where
    for item in error.errors():
        loc = [str(part) for part in item["loc"]]
        where = place(path, *loc) if path else file
        key = ".".join(loc)
        if item["type"] == "extra_forbidden":
            owner = _model_at(model, loc[:-1])
            hint = nearest(loc[-1], _keys(owner)) if owner else ""
            lines.append(f"{where}: unknown key '{key}'; {hint}")
        elif item["type"] == "missing":
            lines.append(f"{where}: key '{key}' is missing; `medtune recipe show sample` shows a whole recipe")
        elif item["type"] == "literal_error":
            expected = item["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
            lines.append(f"{where}: {key}: {item['input']!r} is not a choice; {nearest(str(item['input']), expected)}")
        else:
            said = item["msg"].removeprefix("Value error, ")
            prefix = f"{where}: {key}: " if key else f"{where}: "
            shown = "" if item["type"] == "value_error" else f" (it is {item['input']!r})"
            lines.append(f"{prefix}{said}{shown}")
    return "\n".join(lines)


def _keys(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a section by the names that the file uses."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _model_at(model: type[BaseModel], path: list[str]) -> type[BaseModel] | None:
    """The section class that a dotted path leads to; None where the path passes through a plain mapping of values."""
    for name in path:
        field = _keys(model).get(name) if model else None
        if field is None:  # a key of a dict[str, Section]: the value's class was chosen one step before
            continue
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
    return model
