"""What a killed flow leaves at data/incoming: the list that hides later files from DVC and the stages."""

from pathlib import Path

from medtune.corpus.frozen import LIST, frozen_names, thaw
from medtune.params.errors import CorpusError
from medtune.registry.doctor_trouble import Examination, Trouble
from medtune.tracking.holder import busy
from medtune.tracking.pipeline_lock import pipeline_lock


def check_incoming(seen: Examination) -> list[Trouble]:
    """A list of files that stands although no flow runs: `dvc repro` by hand would not see what came since."""
    try:
        sentence = left_list(seen.root)
    except CorpusError as error:
        return [Trouble("incoming_ignored", str(error), f"move its lines to .dvcignore, then remove {LIST}")]
    if sentence is None:
        return []
    return [Trouble("incoming_hidden", sentence, "take it away: `medtune doctor`", lambda: _take_away(seen.root))]


def left_list(root: Path) -> str | None:
    """What is hidden by a list that a killed flow left, a sentence; None where none stands, or its flow runs still.
    CorpusError where data/.dvcignore is none of a flow's."""
    if frozen_names(root) is None or busy(root) is not None:
        return None
    return (
        f"a flow that was killed has left {LIST}: DVC and the stages do not see files that came to data/incoming after "
        "it began"
    )


def _take_away(root: Path) -> str:
    with pipeline_lock(root):  # a flow that has begun meanwhile has written its own
        thaw(root)
    return f"{LIST} is removed"
