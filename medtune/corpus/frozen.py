"""While a flow runs, DVC and the download stage see the same files of data/incoming, and none that is being copied.

    with frozen(root, newcomers.whole):
        ...                      # dvc add data/incoming, dvc status, dvc repro

A file that arrives in the middle would else be hashed by DVC as read, though the stage never saw it; and `dvc add` of a
half-copied one would link it into the cache, where its writer goes on writing. So the flow lists the whole files in
data/.dvcignore, all others ignored: DVC goes by its patterns, incoming_files() by the list in its second line. A flow
that is killed leaves the list to the next one, which writes its own; until then both still see the same.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from medtune.corpus.records import write_text
from medtune.params.errors import CorpusError

LIST = Path("data/.dvcignore")
_HEAD = "# A flow that runs lets DVC and the download stage see these files of data/incoming and no others\n"


@contextmanager
def frozen(root: Path, names: Iterable[str]) -> Iterator[None]:
    """Nothing but `names` of data/incoming is seen by DVC and the stages until the block ends. The caller holds the
    pipeline's lock: there is one list. CorpusError where data/.dvcignore is somebody's own."""
    frozen_names(root)
    listed = sorted(names)
    patterns = "".join(f"!/incoming/{_escaped(name)}\n" for name in listed)
    write_text(root / LIST, f"{_HEAD}# {json.dumps(listed)}\n/incoming/*\n{patterns}")
    try:
        yield
    finally:
        thaw(root)


def thaw(root: Path) -> bool:
    """Take the list away; whether there was one. For a flow that was killed."""
    there = (root / LIST).exists()
    (root / LIST).unlink(missing_ok=True)
    return there


def frozen_names(root: Path) -> frozenset[str] | None:
    """The files that may be seen, None where no list stands. CorpusError for a list that is none of ours."""
    try:
        lines = (root / LIST).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    try:
        if lines[0] != _HEAD.strip():
            raise ValueError
        return frozenset(json.loads(lines[1].removeprefix("# ")))
    except (IndexError, ValueError, TypeError):
        raise CorpusError(
            f"{LIST} was not written by a flow; move what it says to .dvcignore beside dvc.yaml"
        ) from None


def _escaped(name: str) -> str:
    """A name as a pattern of gitignore's that nothing else matches."""
    return "".join(f"\\{c}" if c in "\\*?[" else c for c in name)
