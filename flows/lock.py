"""The pipeline's lock, as the flows take it: medtune/tracking/pipeline_lock.py, which `medtune sweep` takes too."""

from medtune.tracking.pipeline_lock import LOCK, PipelineBusy, pipeline_lock

__all__ = ["LOCK", "PipelineBusy", "pipeline_lock"]
