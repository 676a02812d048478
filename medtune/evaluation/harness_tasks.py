"""Which of lm-evaluation-harness's 13,000 tasks a name means, and what their code is.

suite_names("ko*")
manager, names = find("kormedmcqa")
"""

import fnmatch
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from medtune.params.errors import EvaluationError
from medtune.params.names import nearest

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

NAME = "lm-evaluation-harness"


def suite_names(pattern: str | None = None) -> list[str]:
    """What `--suite` takes: the harness's groups, or every group, tag and task that a pattern (`ko*`) matches."""
    manager = _manager()
    return sorted(manager.all_groups if pattern is None else fnmatch.filter(manager.all_tasks, pattern))


def available() -> None:
    """EvaluationError where the extra is not installed."""
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        raise EvaluationError(f"{NAME} is not installed; run: pip install 'medtune[eval]'") from None


def version() -> str:
    """The installed harness's."""
    from importlib import metadata

    return metadata.version("lm_eval")


def _manager(suite: str | None = None) -> "TaskManager":
    """The harness's index. All of it takes some seconds; a suite is first looked for in the folder of its name."""
    available()
    import lm_eval.tasks
    from lm_eval.tasks import TaskManager

    own = Path(lm_eval.tasks.__file__).parent / (suite or "*").split("_")[0]
    if own.is_dir():
        manager = TaskManager(include_path=own, include_defaults=False)
        if suite in manager.all_tasks and _whole(suite, manager):
            return manager
    return _everything()


@cache
def _everything() -> "TaskManager":
    from lm_eval.tasks import TaskManager

    return TaskManager()


def find(suite: str) -> tuple["TaskManager", list[str]]:
    """The index and the names in it that `suite` means; a pattern means the tasks it matches, never a group twice."""
    manager = _manager(suite)
    if suite in manager.all_tasks:
        return manager, [suite]
    names = sorted(fnmatch.filter(manager.all_subtasks, suite))
    if not names:
        raise EvaluationError(
            f"{NAME} {version()} has no suite '{suite}'; {nearest(suite, manager.all_tasks)[:200]} "
            "`medtune eval --list` names the groups"
        )
    return manager, names


def _children(name: str, manager: "TaskManager") -> list[str] | None:
    """Names below a group or a tag; None for a task."""
    entry = manager.task_index.get(name)
    if entry is None:
        return []
    if entry.kind.name == "TAG":
        return sorted(entry.tags)
    if entry.kind.name != "GROUP":
        return None
    children = (entry.cfg or {}).get("task") or []
    children = [children] if isinstance(children, str) else children
    return [item if isinstance(item, str) else str(item.get("task") or item.get("group")) for item in children]


def _whole(name: str, manager: "TaskManager") -> bool:
    """Whether all that a group names is in this index."""
    children = _children(name, manager)
    return name in manager.task_index and all(_whole(child, manager) for child in children or [])


def leaves(names: list[str], manager: "TaskManager") -> dict[str, tuple[Path, dict]]:
    """Tasks under these names: their YAML file, and what it says with its includes."""
    found: dict[str, tuple[Path, dict]] = {}
    for name in names:
        children = _children(name, manager)
        if children is not None:
            found |= leaves(children, manager)
        elif (entry := manager.task_index[name]).yaml_path:
            found[name] = (entry.yaml_path, dict(entry.cfg or {}))
    return found


def code_digest(path: Path) -> str:
    """sha256 over a task's YAML file, what it includes, and the Python files beside them: prompt, filter and metric."""
    from lm_eval.tasks._yaml_loader import load_yaml

    files: set[Path] = set()
    waiting = [path.resolve()]
    while waiting:
        file = waiting.pop()
        if file in files:
            continue
        files.add(file)
        files |= {code.resolve() for code in file.parent.glob("*.py")}
        include = load_yaml(file, resolve_func=False, recursive=False).get("include") or []
        waiting += [(file.parent / name).resolve() for name in ([include] if isinstance(include, str) else include)]
    return digest(sorted((file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files))


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
