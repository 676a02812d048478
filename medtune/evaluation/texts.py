"""What an answer looks like as Korean text: how near to a reference, how varied, in which scripts, looping or not.

Everything here is counted from the text alone and in one process the same every time. Figures of a set are means over
its answers, but for distinct_n and the shares of scripts, which are ratios of sums over the whole set.
"""

import re
import unicodedata
from functools import cache
from typing import TYPE_CHECKING

from medtune.params.errors import EvaluationError

if TYPE_CHECKING:
    from kiwipiepy import Kiwi

VERSION = 1  # a change that moves a figure counts this up: kept figures then count as another set
# A span of 2 to 40 characters that stands four times in a row
LOOP = re.compile(r"(.{2,40}?)\1{3,}", re.DOTALL)
SCRIPTS = ("hangul", "latin", "han", "kana", "other")
# Particles and endings whose form follows the sound before them: one morpheme, two spellings
ALLOMORPHS = {
    ("가", "JKS"): "이",
    ("가", "JKC"): "이",
    ("는", "JX"): "은",
    ("를", "JKO"): "을",
    ("와", "JKB"): "과",
    ("와", "JC"): "과",
    ("로", "JKB"): "으로",
    ("나", "JX"): "이나",
    ("어", "EC"): "아",
    ("여", "EC"): "아",
    ("어서", "EC"): "아서",
    ("여서", "EC"): "아서",
    ("어야", "EC"): "아야",
    ("여야", "EC"): "아야",
    ("어도", "EC"): "아도",
    ("여도", "EC"): "아도",
    ("었", "EP"): "았",
    ("였", "EP"): "았",
    ("시", "EP"): "으시",
    ("면", "EC"): "으면",
    ("니까", "EC"): "으니까",
    ("세요", "EF"): "으세요",
    ("ᆸ니다", "EF"): "습니다",
    ("ᆫ", "ETM"): "은",
    ("ᆯ", "ETM"): "을",
}
UNSPOKEN = ("SF", "SP", "SS", "SE", "SO", "SW")  # kiwi's tags of punctuation and signs, by their first two letters


def figures(text: str, reference: str | None) -> dict:
    """Figures of one answer: chrfpp and rouge_l (None without a reference), looped, answer_chars, hangul_share."""
    return {
        "chrfpp": None if reference is None else chrfpp(text, reference),
        "rouge_l": None if reference is None else rouge_l(text, reference),
        "looped": loops(text),
        "answer_chars": len(text),
        "hangul_share": shares(scripts(text))["hangul"],
    }


def summarise(answers: list[dict]) -> dict:
    """Figures of a set of answers, each {"text", "ended", and what figures() gives}; nothing but the count if empty.

    answers; ended_share, loop_share (shares of answers); mean_chars; chrfpp (0 to 100) and rouge_l (0 to 1), means over
    the answers with a reference, left out where none has one; distinct_1, distinct_2; hangul_share and
    other_script_share (neither Hangul nor Latin) of all letters, and language_mix with the share of every script. A
    share of nothing is None.
    """
    if not answers:
        return {"answers": 0}
    count = len(answers)
    summary = {
        "answers": count,
        "ended_share": sum(answer["ended"] for answer in answers) / count,
        "loop_share": sum(answer["looped"] for answer in answers) / count,
        "mean_chars": sum(answer["answer_chars"] for answer in answers) / count,
    }
    for name in ("chrfpp", "rouge_l"):
        known = [answer[name] for answer in answers if answer[name] is not None]
        if known:
            summary[name] = sum(known) / len(known)
    texts = [answer["text"] for answer in answers]
    spoken = [morphemes(text) for text in texts]
    counted = [scripts(text) for text in texts]
    mix = shares({name: sum(one[name] for one in counted) for name in SCRIPTS})
    foreign = None if mix["hangul"] is None else mix["han"] + mix["kana"] + mix["other"]
    return summary | {
        "distinct_1": distinct(spoken, 1),
        "distinct_2": distinct(spoken, 2),
        "hangul_share": mix["hangul"],
        "other_script_share": foreign,
        "language_mix": mix,
    }


def chrfpp(text: str, reference: str) -> float:
    """chrF++ of one sentence, 0 to 100: F2 over character 1- to 6-grams and word 1- and 2-grams, by sacrebleu.

    Popović, chrF++: words helping character n-grams (WMT 2017). Compares characters, and so works for Korean, where
    ROUGE's usual tokenizer deletes every letter. An empty answer has 0.
    """
    return _chrf().sentence_score(text, [reference]).score


def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L of morphemes, 0 to 1: F1 of the longest common subsequence. 0 where either has no morpheme.

    Lin, ROUGE: A Package for Automatic Evaluation of Summaries (2004), section 3.1, with beta = 1. Morphemes and not
    words, since a Korean word carries its particles: 병원에 and 병원을 share 병원.
    """
    ours, theirs = morphemes(text), morphemes(reference)
    common = _longest_common(ours, theirs)
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def distinct(sequences: list[list[str]], n: int) -> float | None:
    """Distinct n-grams over all n-grams of a set of sequences, 0 to 1; None where there is none.

    Li et al., A Diversity-Promoting Objective Function for Neural Conversation Models (NAACL 2016). It falls with the
    length of a set, so that only sets of the same prompts and length compare.
    """
    grams = [tuple(words[i : i + n]) for words in sequences for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def loops(text: str) -> bool:
    """Whether an answer repeats itself: the same 2 to 40 characters four times in a row."""
    return bool(LOOP.search(text))


def scripts(text: str) -> dict[str, int]:
    """Letters of a text by script: hangul, latin, han, kana, other. Digits, signs and white space are no letters."""
    counts = dict.fromkeys(SCRIPTS, 0)
    for letter in text:
        if letter.isalpha():
            counts[_script(letter)] += 1
    return counts


def shares(counts: dict[str, int]) -> dict[str, float | None]:
    """Counts by script as shares of all letters; None each where there is no letter."""
    letters = sum(counts.values())
    return {name: count / letters if letters else None for name, count in counts.items()}


def morphemes(text: str) -> list[str]:
    """Morphemes in order as form/tag, punctuation left out, in a normal form.

    Composed (NFC) and lower case; tags without kiwi's mark of irregular verbs (VV-I is VV); a particle or ending that
    only follows the sound before it in one spelling (이 for 가, 을 for 를). The tag stays, so that 이 the tooth and 이
    the particle are two.
    """
    words = []
    for token in _kiwi().tokenize(unicodedata.normalize("NFC", text)):
        tag = token.tag.partition("-")[0]
        if tag[:2] in UNSPOKEN:
            continue
        form = token.form.lower()
        words.append(f"{ALLOMORPHS.get((form, tag), form)}/{tag}")
    return words


def _script(letter: str) -> str:
    # By ranges and not by unicodedata.name, which is ten times slower: letters that Korean models write
    code = ord(letter)
    if 0xAC00 <= code <= 0xD7FF or 0x1100 <= code <= 0x11FF or 0x3130 <= code <= 0x318F or 0xA960 <= code <= 0xA97F:
        return "hangul"
    if code < 0x250 or 0x1E00 <= code <= 0x1EFF or 0xFF21 <= code <= 0xFF5A:
        return "latin"
    if 0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0xF900 <= code <= 0xFAFF or 0x20000 <= code <= 0x3FFFF:
        return "han"
    if 0x3040 <= code <= 0x30FF or 0x31F0 <= code <= 0x31FF or 0xFF66 <= code <= 0xFF9F:
        return "kana"
    return "other"


def _longest_common(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence; a row of the table at a time."""
    row = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for j, other in enumerate(b, 1):
            diagonal, row[j] = row[j], diagonal + 1 if word == other else max(row[j], row[j - 1])
    return row[-1]


@cache
def _chrf():
    from sacrebleu.metrics import CHRF

    return CHRF(word_order=2)


@cache
def _kiwi() -> "Kiwi":
    """One analyser a process (1 s to start), on one thread: the same cuts every time."""
    try:
        from kiwipiepy import Kiwi
    except ImportError:
        raise EvaluationError("kiwipiepy is missing, which cuts Korean into morphemes; run `make setup`") from None
    return Kiwi(num_workers=1)
