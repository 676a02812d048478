"""The Great Expectations suite: what must hold for the table of raw rows as a whole.

Row checks set single rows aside; the suite decides whether the table as a whole may go on. Every expectation has a
severity: a failed `critical` one fails the stage, a failed `warning` is shown. (GX's own `success` is False for both.)
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from numbers import Number
from typing import TYPE_CHECKING

from medtune.corpus.sift import REASONS, RETRACTED, Sifted
from medtune.params.errors import CorpusError

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.expectations.expectation import Expectation

    from medtune.params.validate import Validate

MEASURES = (
    "source",
    "columns",
    "question",
    "answer",
    "question_chars",
    "answer_chars",
    "hangul_share",
    "line_breaks",
    "near_duplicate",
    "accepted",
    "split",
)
COLUMNS = (*MEASURES, *(f"is_{name}" for name in REASONS))
MEASURED = ("question_length", "answer_length", "hangul", "line_breaks")  # reasons that a column of figures stands for
VARIETY = 0.3  # above this share of near-duplicates a warning: the corpus is smaller than it looks

# Reason -> (what should hold, what is wrong with a row for which it does not), as a newcomer would say it
PLAIN = {
    "unreadable": ("Rows can be read as a dialogue", "The row cannot be read as a dialogue"),
    "missing": ("Questions and answers are filled in", "A question or an answer is missing"),
    "question_length": ("Questions are neither short nor long", "The question is too short or too long"),
    "answer_length": ("Answers are neither short nor long", "The answer is too short or too long"),
    "hangul": ("Answers are written in Hangul", "The answer is hardly written in Hangul"),
    "unicode_form": ("Text is in Unicode form NFC", "The text is not in Unicode form NFC"),
    "control_characters": ("Text holds no invisible or lost characters", "The text holds invisible or lost characters"),
    "leaked_turn": ("No answer holds a second speaker's turn", "The answer goes on with a second speaker"),
    "template_tokens": ("No text holds markers of a prompt template", "The text holds markers of a prompt template"),
    "prompt_residue": ("No answer speaks of how it was generated", "The answer speaks of how it was generated"),
    "personal_data": (
        "No text holds a registration number, phone, e-mail or card number",
        "The text holds a registration number, phone, e-mail or card number",
    ),
    "line_breaks": ("No row is a pasted document", "The row looks like a pasted document"),
    "duplicate": ("No row repeats an earlier one word for word", "The row repeats an earlier one word for word"),
    "bridges_splits": (
        "No row is nearly the same as rows on two sides of the split",
        "The row is nearly the same as rows on two sides of the split",
    ),
    RETRACTED: ("No row was retracted", "The row was retracted (data/retracted.jsonl) and is no longer learned from"),
}

# What to do about a table that fails as a whole
MENDS = {
    "row_count": "look at what download fetched, or change validate.min_rows and max_rows",
    "good_rows": "mend or add rows, or lower validate.min_rows",
    "schema": "name the columns under download.columns, or mend the rows",
    "quarantine": "mend the rows, or raise validate.max_quarantine_share if they may be left out",
    "sides": "add rows, give that side a larger share under validate.split, or try another validate.split.salt",
}


@dataclass(frozen=True)
class Check:
    """One expectation's outcome. Shares are of the table's rows; None where the expectation is no matter of shares."""

    name: str
    says: str  # in plain words
    expectation: str  # GX's name of it
    severity: str  # critical | warning
    success: bool
    observed: str
    allowed_share: float | None
    bad_share: float | None
    bad_rows: int | None
    mend: str = ""

    @property
    def verdict(self) -> str:
        return "ok" if self.success else {"critical": "failed"}.get(self.severity, self.severity)


@dataclass(frozen=True)
class Verdict:
    checks: list[Check]

    @property
    def passed(self) -> bool:
        """Whether no critical check failed."""
        return not self.failures

    @property
    def failures(self) -> list[Check]:
        return [check for check in self.checks if check.verdict == "failed"]


def table(sifted: Sifted) -> pd.DataFrame:
    """One line per raw row, good or not, with COLUMNS; a missing measure is null. Without rows that were retracted: who
    takes a row back must not stop the pipeline by the share that may be set aside."""
    import pandas as pd

    return pd.DataFrame([row.measures() for row in sifted.rows if not row.retracted], columns=list(COLUMNS))


def judge(frame: pd.DataFrame, limits: Validate, plain_text: bool = False) -> Verdict:
    """Hold the suite against the whole table. `plain_text`: rows are text to learn from, without questions.

    CorpusError on an empty table, which GX would pass: no row violates anything.
    """
    if frame.empty:
        raise CorpusError(
            "there is not one row to validate: data/raw/rows.jsonl is empty; look at download's source in params.yaml"
        )
    # Before the import, which reads it; and again on the context below
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    config = DataContextConfig(
        # no docs site of its own, which would leave a temporary directory behind: see data_docs.py
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        analytics_enabled=False,
        progress_bars=ProgressBarsConfig(globally=False),
    )
    context = gx.get_context(mode="ephemeral", project_config=config)
    batch = (
        context.data_sources.add_pandas("raw")
        .add_dataframe_asset("rows")
        .add_batch_definition_whole_dataframe("all")
        .get_batch({"dataframe": frame})
    )
    expectations = suite(limits, plain_text)
    result = batch.validate(
        gx.ExpectationSuite(name="rows", expectations=list(expectations.values())),
        result_format={"result_format": "BASIC", "partial_unexpected_count": 0},  # counts; never a row's text
    )
    # GX groups results by column: bring them back into the suite's order, by what was asked
    outcomes = {_key(outcome.expectation_config): outcome for outcome in result.results}
    return Verdict([_check(name, asked, outcomes[_key(asked.configuration)]) for name, asked in expectations.items()])


def suite(limits: Validate, plain_text: bool = False) -> dict[str, Expectation]:
    """Name -> expectation, in the order in which a newcomer would ask. `mostly` is the share that must hold."""
    from great_expectations import expectations as gxe

    # rounded: 1 - 0.07 is a hair over 0.93, and 93 good rows of 100 would fail it
    mostly = round(1 - limits.max_quarantine_share, 9)
    shown = {"severity": "critical"}
    expectations = {
        # of the rows as they came: whether their columns hold a dialogue at all
        "schema": gxe.ExpectColumnValuesToBeInSet(
            column="is_unreadable",
            value_set=[False],
            mostly=mostly,
            description="Rows have the columns of a dialogue",
            **shown,
        ),
        "row_count": gxe.ExpectTableRowCountToBeBetween(
            min_value=limits.min_rows,
            max_value=limits.max_rows,
            description=f"Between {limits.min_rows:,} and {limits.max_rows:,} rows came in",
            **shown,
        ),
        "good_rows": gxe.ExpectColumnSumToBeBetween(
            column="accepted",
            min_value=limits.min_rows,
            description=f"At least {limits.min_rows:,} rows are good",
            **shown,
        ),
        "quarantine": gxe.ExpectColumnValuesToBeInSet(
            column="accepted",
            value_set=[1],
            mostly=mostly,
            description=f"Rows are fit to learn from; {limits.max_quarantine_share:.1%} may be set aside",
            **shown,
        ),
        "sides": gxe.ExpectColumnDistinctValuesToContainSet(
            column="split",
            value_set=["train", "test"] + ["validation"] * (limits.split.validation > 0),
            description="Every side of the split has rows",
            **shown,
        ),
        "sources": gxe.ExpectColumnValuesToBeUnique(
            column="source", description="Every row has a file and line of its own", **shown
        ),
        "answers": gxe.ExpectColumnValuesToNotBeNull(
            column="answer", mostly=mostly, description="Rows have an answer", **shown
        ),
        "answer_chars": gxe.ExpectColumnValuesToBeBetween(
            column="answer_chars",
            min_value=limits.min_answer_chars,
            max_value=limits.max_answer_chars,
            mostly=mostly,
            description=f"Answers have {limits.min_answer_chars:,} to {limits.max_answer_chars:,} characters",
            **shown,
        ),
        "hangul_share": gxe.ExpectColumnValuesToBeBetween(
            column="hangul_share",
            min_value=limits.min_hangul_share,
            max_value=1,
            mostly=mostly,
            description=f"Of an answer's letters {limits.min_hangul_share:.0%} or more are Hangul",
            **shown,
        ),
        "line_breaks": gxe.ExpectColumnValuesToBeBetween(
            column="line_breaks",
            min_value=0,
            max_value=limits.max_line_breaks,
            mostly=mostly,
            description=f"Rows have at most {limits.max_line_breaks} line breaks",
            **shown,
        ),
    }
    if not plain_text:
        expectations |= {
            "questions": gxe.ExpectColumnValuesToNotBeNull(
                column="question", mostly=mostly, description="Rows have a question", **shown
            ),
            "question_chars": gxe.ExpectColumnValuesToBeBetween(
                column="question_chars",
                min_value=limits.min_question_chars,
                max_value=limits.max_question_chars,
                mostly=mostly,
                description=f"Questions have {limits.min_question_chars:,} to {limits.max_question_chars:,} characters",
                **shown,
            ),
        }
    for name in REASONS:
        if name not in MEASURED and name != "unreadable":  # that one is the schema
            expectations[name] = gxe.ExpectColumnValuesToBeInSet(
                column=f"is_{name}", value_set=[False], mostly=mostly, description=PLAIN[name][0], **shown
            )
    expectations |= {
        "same_columns": gxe.ExpectColumnUniqueValueCountToBeBetween(
            column="columns", min_value=1, max_value=1, severity="warning", description="All rows have the same fields"
        ),
        "variety": gxe.ExpectColumnValuesToBeInSet(
            column="near_duplicate",
            value_set=[False],
            mostly=round(1 - VARIETY, 9),
            severity="warning",
            description=f"At most {VARIETY:.0%} of the rows are nearly the same as an earlier one",
        ),
    }
    return expectations


def _key(configuration: object) -> tuple[str, str]:
    """Type and column tell the expectations of this suite apart, but for the two on `accepted`, whose types differ."""
    return configuration.type, configuration.kwargs.get("column", "")


def _check(name: str, asked: Expectation, outcome: object) -> Check:
    if outcome.exception_info and _raised(outcome.exception_info):
        raise RuntimeError(f"expectation {name} could not be computed: {outcome.exception_info}")
    result = outcome.result
    bad, count = result.get("unexpected_count"), result.get("element_count")
    share = bad / count if bad is not None and count else None
    mostly = asked.configuration.kwargs.get("mostly")
    return Check(
        name=name,
        says=asked.description,
        expectation=asked.configuration.type,
        severity=str(getattr(asked.severity, "value", asked.severity)),
        success=bool(outcome.success),
        observed=_observed(result, bad, count),
        allowed_share=None if mostly is None else round(1 - mostly, 9),
        bad_share=share,
        bad_rows=bad,
        mend=MENDS.get(name, MENDS["quarantine"]),
    )


def _observed(result: dict, bad: int | None, count: int | None) -> str:
    if bad is not None:
        return f"{bad:,} of {count:,} rows break it" if bad else "no row breaks it"
    if "missing_count" in result and "unexpected_count" not in result:  # of the values that a set must contain
        return f"{result['missing_count']} of them have none" if result["missing_count"] else "all have"
    value = result.get("observed_value")
    if isinstance(value, list):
        return f"{len(value)} columns"
    return f"{value:,.0f}" if isinstance(value, Number) else ""


def _raised(info: dict) -> bool:
    """Whether GX could not compute an expectation; it nests one such record per metric."""
    if "raised_exception" in info:
        return bool(info["raised_exception"])
    return any(_raised(part) for part in info.values() if isinstance(part, dict))
