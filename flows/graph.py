"""The graph as dvc.yaml tells it: stages in an order in which each comes after what it needs."""

import sys
from pathlib import Path

from medtune.params.errors import UserError

DVC = (sys.executable, "-m", "dvc")


def read_graph(root: Path) -> dict[str, set[str]]:
    """Stage -> the stages it directly needs, in topological order (as in dvc.yaml where that leaves a choice)."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            graph = repo.index.graph  # an edge leads from a stage to what it needs
            # a file that someone put under DVC by itself (`dvc add`) is a stage too, one without name and command
            named = [stage for stage in repo.index.stages if getattr(stage, "name", None)]
            needs = {stage.name: {s.name for s in graph.successors(stage) if s in named} for stage in named}
            written = [stage.name for stage in named]
    except DvcException as error:
        raise UserError(f"dvc.yaml cannot be read as a graph: {error}; `dvc dag` says more") from error
    order: dict[str, set[str]] = {}
    while len(order) < len(needs):  # DVC has refused cycles, so each round finds one
        name = next(name for name in written if name not in order and needs[name] <= order.keys())
        order[name] = needs[name]
    return order


def changed_stages(root: Path) -> set[str]:
    """The stages that `dvc status` lists: their code, params, data or outs differ from dvc.lock."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        # in this process, which has DVC loaded for the graph: another Python takes seconds to load it again
        with Repo(str(root)) as repo:
            # a name in DVC's status leads from where this process stands, which need not be the checkout
            names = {
                stage.addressing: getattr(stage, "name", None) or stage.path_in_repo for stage in repo.index.stages
            }
            return {names[name] for name in repo.status()}
    except (DvcException, OSError) as error:
        raise UserError(f"`dvc status` failed: {error}") from error


def and_downstream(graph: dict[str, set[str]], changed: set[str]) -> list[str]:
    """`changed` and every stage after one of them, in the graph's order."""
    due: set[str] = set()
    for name, needs in graph.items():
        if name in changed or needs & due:
            due.add(name)
    return [name for name in graph if name in due]
