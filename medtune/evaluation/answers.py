"""Free answers to a fixed set of questions: do they end, do they loop, how near are they to a reference."""

import json
import re
from pathlib import Path

from medtune.params.errors import CorpusError

# A span of 2 to 40 characters that stands four times in a row
LOOP = re.compile(r"(.{2,40}?)\1{3,}", re.DOTALL)


def read_questions(path: Path, limit: int | None) -> list[dict]:
    """{"question", "reference"} a line; CorpusError names file and line of one that is not."""
    questions = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise CorpusError(f"evaluate.questions: {path} cannot be read ({error}); give a UTF-8 JSONL file") from None
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            questions.append({"question": str(row["question"]), "reference": str(row["reference"])})
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise CorpusError(
                f'{path} line {number} is not {{"question": …, "reference": …}} ({error}); mend the line'
            ) from None
    if not questions:
        raise CorpusError(f"{path} holds no question; give at least one")
    return questions[:limit]


def loops(text: str) -> bool:
    """Whether an answer repeats itself: the same 2 to 40 characters four times in a row."""
    return bool(LOOP.search(text))


def summarise(answers: list[dict], references: list[str]) -> dict:
    """ended_share, loop_share, mean_chars, and chrfpp: chrF++ (0 to 100) against the references.

    chrF++ is chrF with word bigrams: Popović, chrF++: words helping character n-grams (WMT 2017), by sacrebleu. It
    compares characters, and so works for Korean, where ROUGE's usual tokenizer deletes every letter.
    """
    from sacrebleu.metrics import CHRF

    texts = [answer["text"] for answer in answers]
    return {
        "answers": len(texts),
        "ended_share": sum(answer["ended"] for answer in answers) / len(answers),
        "loop_share": sum(loops(text) for text in texts) / len(texts),
        "mean_chars": sum(map(len, texts)) / len(texts),
        "chrfpp": CHRF(word_order=2).corpus_score(texts, [references]).score,
    }
