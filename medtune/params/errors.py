"""Errors that are meant for the user: one sentence each, naming the file, row or key and the mend.

Kept apart from the typed sections, so that corpus and engine import without pydantic.
"""


class UserError(Exception):
    """Stops a stage or a command. Stages print its text, without a traceback, and exit with status 1."""


class RecipeError(UserError):
    """The recipe cannot be run as written."""


class CorpusError(UserError):
    """Rows, files or splits that cannot be used as they are."""


class EngineError(UserError):
    """A base, an adapter or a machine that cannot do what the recipe asks."""


class RegistryError(UserError):
    """The tracking store or the registry is not as it must be."""


class EvaluationError(UserError):
    """Suites, scores or reviews that cannot be used as they are."""
