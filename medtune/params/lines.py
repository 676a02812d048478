"""Where in params.yaml a key stands, so that a sentence about it can name the line."""

from pathlib import Path


def place(path: Path, *keys: str) -> str:
    """`params.yaml, line 114` of a dotted key, or of the deepest parent that is there; the path alone where none is."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        node = YAML(typ="rt", pure=True).load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError):
        return str(path)
    line = None
    for key in keys:
        try:
            key = int(key) if isinstance(node, list) else key
            line = node.lc.item(key)[0] if isinstance(node, list) else node.lc.key(key)[0]
            node = node[key]
        except (AttributeError, KeyError, IndexError, TypeError, ValueError):
            break
    return str(path) if line is None else f"{path}, line {line + 1}"
