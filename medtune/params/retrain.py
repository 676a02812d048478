"""retrain: when new rows are worth a new model."""

from pydantic import PositiveInt

from medtune.params.section import Section


class Retrain(Section):
    min_new_rows: PositiveInt = 50
