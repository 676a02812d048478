"""Korean text for the rules: normalising, sentences, and the conditions that put a sentence off.

Plain patterns, not a parser: Korean marks condition, reason and negation by endings, which a pattern finds well enough.
"""

import re
import unicodedata
from dataclasses import dataclass

HANGUL = re.compile(r"[가-힣]")
LETTER = re.compile(r"[^\W\d_]")

# A sentence ends at a line break, or at punctuation that closes it: not at 38.3, www.hira.or.kr or "1." of a list.
SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\b\d\.)[\"'”’)\]]*(?=\s|$)\s*|(?<=[가-힣][.!?])[\"'”’)\]]*(?=[가-힣\d])|\n+")

NOT_CONDITION = re.compile(
    # forms in -면 that set no condition
    r"[가-힣]면\s*(?:절대\s*|아예\s*)?(?:안|아니)\s*[되됩돼된될](?!면)"  # 하면 안 됩니다
    r"|[가-힣]*[려]면(?=[\s,])|왜냐하면|말하자면|(?<![가-힣])그러면(?=[\s,])|(?<![가-힣])아니면(?=[\s,])"
    r"|가능하(?:시)?(?:면|다면)|웬만하면|되도록이면|이왕이면|할 수 있(?:으시|으)?면|괜찮으시(?:면|다면)"
    # nouns in 면
    r"|(?<![가-힣])(?:수|화|반|측|전|표|정|라|냉|지|벽|양|안|후|단)면(?=[\s,])"
    # what waiting leads to
    r"|(?:늦|늦어지|늦추|미루|지체하|지체되|방치하|놔두|두|기다리|놓치)(?:시|으)?면(?=[\s,])"
    # what is at hand, and how to go: not whether to
    r"|(?:약|주사|주사기|펜|흡입기|기계|에피네프린)[이가]?\s?(?:있|가지고\s?있|갖고\s?있)[가-힣]{0,2}면"
    r"|(?:사람|보호자|가족|누군가|누가|친구|동료|직원|어른|이웃)[가-힣]{0,3}\s*(?:곁에|옆에|같이|함께)?\s*"
    r"(?:있|계시)[가-힣]{0,2}면|혼자[가-힣\s]{0,5}면(?=[\s,])|(?:운전|이동|거동"
    r"|교통편)[가-힣]{0,3}\s*[가-힣\s]{0,6}면(?=[\s,])"
)
CONDITION = re.compile(
    r"(?:[가-힣]면(?:은|서도)?|거든|[가-힣]\s때마다)(?=[\s,]|$)|(?:경우|\s시)(?:에|에는|엔|라면)?(?=[\s,])"
)
WHEN = re.compile(r"([가-힣])\s?때(?:는|에|에는|엔|에만|만|면)?(?=[\s,]|$)")
# Words that make a case one that may come, not one that is there.
MAY_COME = re.compile(
    r"만약|만일|만에\s?하나|혹시|행여|다만|그래도|그때|그럴\s?때|그런\s?경우|앞으로|언젠가|나중에라도|다음에"
    r"|실수로|갑자기라도"
    r"|[가-힣](?:지|어지|아지|해지|심해지|나빠지|생기|나타나|보이|계속되|지속되|반복되|동반되|이어지|가)"
    r"(?:시)?(?:거든|면|는\s경우|ㄹ\s때)"
    r"|(?:않|없|안\s[가-힣]{1,4})(?:으시|으)?면|(?:악화|재발|발생|호전)[가-힣]{0,3}\s?(?:면|경우|때|시)"
    r"|[가-힣]라도\s|넘게|이상\s|더\s"
)
# "이런 증상이면": the case at hand, if no other case was named just before.
AT_HAND = re.compile(
    r"(?:^|[\s,])(?:이런|이러한|그런|그러한|이|이\s?정도|지금\s?같은|말씀하신|현재|적어\s?주신)\s[가-힣\s]{0,14}?"
    r"(?:면|경우[가-힣]{0,2}|때[는에]{0,2})(?=[\s,])"
)
BECAUSE = re.compile(
    r"(?<!어머)(?<!주머)(?<!할머)(?<!언)(?<!아)(?<=[가-힣])(?:니|니까)(?=[\s,])|아니(?:니|므로|라)|므로"
    r"(?=[\s,])|때문에|이라(?=[\s,])"
    r"|지만(?=[\s,])|[는은한인]데(?=[\s,])|(?:습니다|어요|아요|해요|세요|예요)(?=[\s,])"
)
LATER = re.compile(
    r"내일|모레|글피|나중에|이따|다음\s?(?:주|날|달|번|진료|외래)(?=[\s,에까쯤로])|주말|[월화수목금토일]요일"
    r"|날이\s?밝|아침[에이]|출근|퇴근"
    r"|(?:\d+|한|두|세|네|몇|서너|두세)\s?(?:시간|분|일|주|달|밤)[가-힣]{0,3}\s?(?:뒤|후|있다가|지나)"
    r"|(?:며칠|하루|이틀|사흘|하룻밤|한숨|조금|좀)[가-힣]{0,3}\s?(?:뒤|후|자고|주무|쉬고|쉬어|더\s?보)"
    r"|(?:지켜|두고|기다려)\s?보[가-힣]{0,3}(?:\s?[가-힣]{0,3}\s?(?:뒤|후|다가)|고|다가)"
)
NOT_WAITING = re.compile(
    r"(?:지|시지|지는|지도|도록)\s?(?:마|말|않)|안\s[되됩돼]|때가\s?아니|없[이으습어]|(?:보다|대신)(?=\s)"
)
NOW = re.compile(
    r"지금|당장|즉시|즉각|곧바로|곧장|바로|얼른|빨리|어서|서둘|지체|급히|신속|한시|1분|일분|우선|먼저|부터"
)


def normalise(text: str) -> str:
    """NFKC (full-width figures, ㎎ and the like become plain), emphasis marks and zero-width characters dropped."""
    text = unicodedata.normalize("NFKC", text.replace("…", ". "))
    return re.sub(r"[*_`#]{1,3}|[\u200b-\u200d\ufeff]", "", text)


def sentences(text: str) -> list[str]:
    """The text's sentences, without white space at the ends; none is empty."""
    parts = (part.strip() for part in SENTENCE_END.split(text) if part)
    return [piece for part in parts if part for piece in pieces(part, 300)]


def pieces(text: str, most: int) -> list[str]:
    """The text cut at white space into pieces of at most `most` characters (a longer word is cut), so that a loop
    without an end costs the patterns no more than the same text with full stops."""
    found = []
    while len(text) > most:
        cut = text.rfind(" ", 1, most)
        cut = cut if cut > 0 else most
        found.append(text[:cut].strip())
        text = text[cut:].strip()
    return [*found, text]


def quote(text: str) -> str:
    """The words for a reason: in quotes, at most 90 characters."""
    return repr(text if len(text) <= 90 else f"{text[:89]}…")


def hangul_share(text: str) -> float:
    """Hangul syllables per letter, 0..1; 0 where there is no letter."""
    letters = len(LETTER.findall(text))
    return len(HANGUL.findall(text)) / letters if letters else 0.0


def says_nothing(text: str) -> str | None:
    """Why a text is no Korean answer at all (empty, in another language, the same few syllables), or None."""
    if not text.strip():
        return "the answer is empty"
    if hangul_share(text) < 0.3:
        return "the answer is not in Korean"
    syllables = HANGUL.findall(text)
    if len(syllables) >= 8 and len(set(syllables)) < 5:
        return "the answer repeats a few syllables"
    return None


@dataclass(frozen=True)
class Delay:
    """What puts a statement off: `kind` is "condition" or "later", `words` the words that do."""

    kind: str
    words: str


def delay(before: str, prompt: str, previous: str = "") -> Delay | None:
    """What puts off a statement that follows `before` (its sentence up to there), or None where it holds now.

    A condition (심해지면) puts it off, unless it names the case at hand: by pointing at it (이런 증상이면), by
    repeating the prompt's own words, or as reason (… 수 있으니 119를). `previous`, the sentence before, tells whether
    이런 points at the asker's case or at one that may come. A later time (내일) puts it off, unless waiting is denied.
    """
    before = NOT_CONDITION.sub(lambda match: " " * len(match.group()), before)
    end, start = _last_condition(before)
    if end:
        clause, after = before[start:end], before[end:]
        may_come = bool(MAY_COME.search(before[:end]))
        again = re.search(r"다시|또|[가-힣]지면|생기|나타나|보이|계속|지속", clause)
        if AT_HAND.search(clause + " ") and not again and not _is_hypothetical(previous):
            return None
        if "지금" in after and not may_come:
            return None
        if not may_come and (BECAUSE.search(after) or _repeats(clause, prompt)):
            return None
        return Delay("condition", clause.strip(" ,"))
    for match in LATER.finditer(before):
        after = before[match.end() :]
        if not (BECAUSE.search(after) or NOT_WAITING.search(after) or "지금" in after):
            return Delay("later", match.group())
    if re.match(r"\s*(?:그때|그땐|그럴\s?때|그런\s?경우|그렇다면)", before):
        return Delay("condition", before.strip()[:6])
    return None


def _last_condition(text: str) -> tuple[int, int]:
    """(end, start) of the last clause that sets a condition; (0, 0) where there is none."""
    ends = [match.end() for match in CONDITION.finditer(text)]
    ends += [match.end() for match in WHEN.finditer(text) if (ord(match.group(1)) - 0xAC00) % 28 == 8]  # -ㄹ 때
    if not ends:
        return 0, 0
    end = max(ends)
    breaks = [match.end() for match in BECAUSE.finditer(text[:end])]
    return end, max(breaks, default=0)


def _is_hypothetical(sentence: str) -> bool:
    return bool(_last_condition(NOT_CONDITION.sub("", sentence + " "))[0]) or sentence.rstrip().endswith("?")


def _repeats(clause: str, prompt: str) -> bool:
    """Whether most of the clause's words are the prompt's, by their first two syllables, since endings vary."""
    words = [word[:2] for word in re.findall(r"[가-힣]{2,}|\d+(?:\.\d+)?", clause)]
    return bool(words) and sum(word in prompt for word in words) / len(words) >= 0.6
