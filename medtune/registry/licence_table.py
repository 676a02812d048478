"""The table of licences, and the many ways of writing their names.

    normalise("CC BY-NC 4.0")[0].id              # cc-by-nc-4.0
    normalise(["mit", "Apache License, Version 2.0"])

Names are those of the Hugging Face hub (https://huggingface.co/docs/hub/repositories-licenses), which follow SPDX
(https://spdx.org/licenses) in lower case; free forms, URLs, lists and SPDX expressions are brought to them. What each
grants is a reading of its text by engineers, strict where the text leaves room, and no legal advice.
"""

import re
from dataclasses import dataclass
from typing import Any

YES, CONDITIONS, NO, UNKNOWN = "yes", "with conditions", "no", "unknown"


@dataclass(frozen=True)
class Licence:
    """commercial: whether it may be used so: YES, CONDITIONS, NO or UNKNOWN; copyleft: how far it reaches ("none",
    "weak": the work itself, "strong": all that it becomes part of); adapted: whether what is made from it may be
    shared; asks: what whoever uses or passes on the model must do; restricts: it forbids uses or users, which a strong
    copyleft does not allow to add; medical: medical advice is among them; source: where to read it."""

    id: str
    commercial: str
    copyleft: str = "none"
    attribution: bool = True
    adapted: bool = True
    asks: str = ""
    restricts: bool = False
    medical: bool = False
    source: str = ""


CC = "https://creativecommons.org/licenses/"
LLAMA = (
    "its acceptable use policy holds (among others: no unlicensed practice of medicine); a licence of Meta's own is "
    "needed above 700 million monthly users"
)
NAMED = "; a model that is passed on is named 'Llama …' and shown as 'Built with {}'"
SAME = "what is adapted from it is shared under the same licence, if it is shared"
UNSHARED = "what is adapted from it, as a model may be, is shared with nobody"
KOGL = "https://www.kogl.or.kr/info/license.do"
SPDX = "https://spdx.org/licenses/"
HUB = "https://huggingface.co/docs/hub/repositories-licenses"
RAIL = "https://huggingface.co/blog/open_rail"


def _family(pattern: str, commercial: str, source: str, **facts: Any) -> tuple[re.Pattern, dict[str, Any]]:
    return re.compile(pattern), {"commercial": commercial, "source": source, **facts}


# pattern over the normalised name -> what it grants. The first that matches wholly counts.
FAMILIES = (
    _family(r"cc0(-1\.0)?|pddl(-1\.0)?|unlicense|0bsd|wtfpl|public-domain", YES, SPDX, attribution=False),
    _family(
        r"mit(-0)?|apache-(1\.1|2\.0)|bsd(-[234]-clause(-clear)?)?|isc|zlib|ncsa|bsl-1\.0|afl-3\.0|ecl-2\.0|ms-pl|"
        r"artistic-2\.0|postgresql|python-2\.0|openmdw(-1\.0)?|etalab-2\.0|cdla-permissive-[12]\.0",
        YES,
        SPDX,
    ),
    _family(r"odc-by(-1\.0)?|c-uda(-1\.0)?", YES, "https://opendatacommons.org/licenses/by/"),
    _family(r"cc-by(-[1-4]\.\d)?", YES, CC + "by/4.0/"),
    _family(r"cc-by-sa(-[1-4]\.\d)?", CONDITIONS, CC + "by-sa/4.0/", copyleft="weak", asks=SAME),
    _family(r"cc-by-nd(-[1-4]\.\d)?", CONDITIONS, CC + "by-nd/4.0/", adapted=False, restricts=True, asks=UNSHARED),
    _family(r"cc-by-nc(-[1-4]\.\d)?", NO, CC + "by-nc/4.0/", restricts=True),
    _family(r"cc-by-nc-sa(-[1-4]\.\d)?", NO, CC + "by-nc-sa/4.0/", restricts=True, copyleft="weak", asks=SAME),
    _family(r"cc-by-nc-nd(-[1-4]\.\d)?", NO, CC + "by-nc-nd/4.0/", adapted=False, restricts=True, asks=UNSHARED),
    _family(r"agpl(-[13]\.0)?|sspl-1\.0|eupl-1\.[12]|osl-3\.0", CONDITIONS, SPDX, copyleft="strong", asks="who gets it "
            "or uses it over a network may ask for all of it under the same licence"),
    _family(r"gpl(-[123]\.0)?", CONDITIONS, SPDX, copyleft="strong", asks="whoever gets it may ask for all of it "
            "under the same licence, and no further restriction may be put on it"),
    _family(r"lgpl(-(2\.0|2\.1|3\.0))?|mpl-[12]\.\d|epl-[12]\.0|cddl-1\.[01]|lgpl-lr|gfdl(-1\.[123])?", CONDITIONS,
            SPDX, copyleft="weak", asks="changes to the work itself are passed on under the same licence"),
    _family(r"odbl(-1\.0)?|cdla-sharing-1\.0", CONDITIONS, "https://opendatacommons.org/licenses/odbl/",
            copyleft="weak", asks="an adapted database is shared under the same licence, if it is shared"),
    _family(r"llama2", CONDITIONS, "https://ai.meta.com/llama/license/", restricts=True, asks=LLAMA + "; its outputs "
            "improve no other model"),
    _family(r"llama3", CONDITIONS, "https://llama.meta.com/llama3/license/", restricts=True,
            asks=LLAMA + NAMED.format("Meta Llama 3") + "; its outputs improve no other model"),
    _family(r"llama3\.[123]|llama4", CONDITIONS, "https://www.llama.com/license/", restricts=True,
            asks=LLAMA + NAMED.format("Llama")),
    _family(r"gemma", CONDITIONS, "https://ai.google.dev/gemma/terms", restricts=True, asks="its prohibited use policy "
            "holds and is passed on (among others: no unlicensed practice of medicine)"),
    _family(r"(bigscience-|creativeml-|bigcode-)?openrail(-m|\+\+)?|bigscience-bloom-rail-1\.0", CONDITIONS, RAIL,
            restricts=True, medical=True, asks="its use restrictions hold and are passed on; most versions forbid "
            "medical advice and the interpretation of medical results"),
    _family(r"kogl-1", YES, KOGL),
    _family(r"kogl-2", NO, KOGL, restricts=True),
    _family(r"kogl-3", CONDITIONS, KOGL, adapted=False, restricts=True, asks=UNSHARED),
    _family(r"kogl-4", NO, KOGL, adapted=False, restricts=True, asks=UNSHARED),
    _family(r"apple-amlr|intel-research|fair-nc-research|non-commercial|research-only", NO, HUB, restricts=True),
)  # fmt: skip
# what a misspelt name is compared with
_NAMES = """
    apache-2.0 mit bsd-2-clause bsd-3-clause isc cc0-1.0 cc-by-4.0 cc-by-sa-4.0 cc-by-nc-4.0 cc-by-nc-sa-4.0
    cc-by-nc-nd-4.0 cc-by-nd-4.0 gpl-2.0 gpl-3.0 lgpl-3.0 agpl-3.0 mpl-2.0 llama2 llama3 llama3.1 llama3.2 llama3.3
    llama4 gemma openrail bigscience-openrail-m bigscience-bloom-rail-1.0 creativeml-openrail-m odc-by odbl pddl
    cdla-permissive-2.0 unlicense kogl-1 unknown
    """
KNOWN = tuple(_NAMES.split())

# free form -> hub's form, in this order, over lower case
SPELLINGS = (
    (r"https?://(www\.)?creativecommons\.org/publicdomain/zero/([\d.]+).*", r"cc0-\2"),
    (r"https?://(www\.)?creativecommons\.org/licenses/([a-z-]+)/([\d.]+).*", r"cc-\2-\3"),
    (r"https?://(www\.)?apache\.org/licenses/license-([\d.]+\d).*", r"apache-\2"),
    (r"https?://\S*/(licenses?/)?([^/\s]+?)(\.html|\.txt|\.md)?/?$", r"\2"),
    (r"public domain", "publicdomain"),
    (r'"?new"? or "?revised"?', " "),
    (r"공공누리", "kogl "),
    (r"제?\s*(\d)\s*유형", r" \1 "),
    (r"korea open government licen[sc]e", "kogl"),
    (r"\bkogl\b.*?type", "kogl "),
    (r"creative commons( legal code)?", "cc"),
    (r"gnu affero general public", "agpl"),
    (r"gnu (lesser|library) general public", "lgpl"),
    (r"gnu general public", "gpl"),
    (r"mozilla public", "mpl"),
    (r"non-? ?commercial|noncommercial", "nc"),
    (r"attribution", "by"),
    (r"share-? ?alike", "sa"),
    (r"no-? ?deriv(ative)?s?( works)?", "nd"),
    (r"\bcc ?zero\b|\bcc 0\b", "cc0"),
    (r"\b(meta|the|licen[sc]es?|version|agreement|international|unported|generic|universal|public|community|software|"
     r"foundation|terms of use|deed|new|revised|simplified)\b", " "),
    (r"(?<![a-z])v(?=\d)|(?<=gpl)v(?=\d)", " "),
    (r"(-or-later|-only|\bor later\b|\bonly\b|(?<!\+)\+)(?=\s|$)", ""),
    (r"[\s_/,()'\"]+", "-"),
    (r"-{2,}", "-"),
)  # fmt: skip
# the folded name, where it is short of a version or written together
REPAIRS = (
    (r"(?:cc-)?(by(?:-nc)?(?:-sa|-nd)?)((?:-\d\.\d)?)", r"cc-\1\2"),
    (r"apache-?2?", "apache-2.0"),
    (r"(a?l?gpl|mpl)-?([123])", r"\1-\2.0"),
    (r"(a?l?gpl)-?([123]\.\d)", r"\1-\2"),
    (r"(cc-by[a-z-]*)-([1-4])", r"\1-\2.0"),
    (r"cc-?0(-1(\.0)?)?", "cc0-1.0"),
    (r"(meta-)?llama-?([234](?:\.\d)?)(\.0)?", r"llama\2"),
    (r"bsd-?([234])(-clause)?", r"bsd-\1-clause"),
    (r"([234])-clause-bsd", r"bsd-\1-clause"),
    (r"kogl-?([1-4]).*", r"kogl-\1"),
    (r"odc-by.*|open-data-commons-by.*", "odc-by"),
    (r"x11|expat", "mit"),
    (r"publicdomain", "public-domain"),
    (r"nc", "non-commercial"),
    (r"research(-use)?", "research-only"),
)


def named(text: str) -> Licence:
    """The licence of one name. One that the table lacks has commercial UNKNOWN and its folded name as id ("unknown"
    where nothing, `other` or the like is said)."""
    if brackets := re.fullmatch(r"([^()]+)\(([^()]+)\)\s*", text):  # "The MIT License (MIT)": both must say the same
        outer, inner = named(brackets[1]), named(brackets[2])
        if outer.commercial != UNKNOWN and outer.id == inner.id:
            return outer
    name = text.strip().lower()
    for pattern, form in SPELLINGS:
        name = re.sub(pattern, form, name)
    name = name.strip("-. ")
    for pattern, form in REPAIRS:
        if match := re.fullmatch(pattern, name):
            name = match.expand(form)
    for pattern, facts in FAMILIES:
        if pattern.fullmatch(name):
            return Licence(name, **facts)
    return Licence("unknown" if name in ("", "other", "none", "unknown", "null", "cc") else name, UNKNOWN)


def normalise(said: object) -> list[Licence]:
    """All licences that hold for what a card or a recipe says: a name, a list of names, or an SPDX expression.

    "A AND B" and lists hold together; of "A OR B" the freest is taken, as whoever gets the work may choose.
    """
    if isinstance(said, list | tuple):
        found = [licence for item in said for licence in normalise(item)] or [named("")]
        return list({licence.id: licence for licence in found}.values())
    text = re.sub(r"\s+WITH\s+\S*exception\S*", "", str(said or ""))  # SPDX: an exception takes nothing away
    held = [
        min((named(choice) for choice in re.split(r"\s+OR\s+", part)), key=_weight)
        for part in re.split(r"\s+AND\s+|\s*[;&]\s*|,\s*(?![vV]ersion)(?=[A-Za-z])", _unwrapped(text))
    ]
    return list({licence.id: licence for licence in held}.values())


def _unwrapped(text: str) -> str:
    text = text.strip()
    return text[1:-1] if text.startswith("(") and text.endswith(")") and text.count("(") == 1 else text


def _weight(licence: Licence) -> tuple[int, bool]:
    return (YES, CONDITIONS, NO, UNKNOWN).index(licence.commercial), licence.copyleft != "none"
