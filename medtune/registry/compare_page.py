"""compare_versions' record as one self-contained page in the look of the release card: answers are read, not tabled.

    write_page(Path("compare.html"), compare(…))

Style, search and escaping are the card's (evaluation/release_card/page.py): no request leaves the page, and the content
security policy names script and style by their digests.
"""

import os
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from medtune.evaluation.release_card.names import SETS
from medtune.evaluation.release_card.self_contained import fitting, policy
from medtune.evaluation.release_card.wording import moment, number
from medtune.params.errors import RegistryError
from medtune.registry.compare_tables import measured, paired_sentence, telling
from medtune.registry.history_at import figure

CARD = "medtune.evaluation.release_card"
CUTS = (4000, 1200, 600, 300, 150, 80)  # characters of an answer that are shown
VERDICTS = {"worse": "B is worse", "differs": "differs", "better": "B is better", "same": "same words"}


def write_page(path: Path, told: Mapping[str, Any]) -> Path:
    """Write the page, whole or not at all. RegistryError where the file cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(page(told), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise RegistryError(
            f"{path} cannot be written ({error.strerror}); name a file in a folder that is there"
        ) from None
    return path


def page(told: Mapping[str, Any]) -> str:
    """The page. Its bytes depend on `told` alone."""
    return fitting(lambda cut: _render(told, cut), CUTS)


def _render(told: Mapping[str, Any], cut: int) -> str:
    from markupsafe import Markup

    style = _card("card.css") + _own("compare.css")
    script = _card("card.js")
    return (
        _environment()
        .get_template("compare.html.j2")
        .render(
            t=told,
            style=Markup(style),
            script=Markup(script),
            policy=policy(style, script),
            figures=measured(told["figures"]),
            judged=telling(told["figures"]["judged"]),
            paired=paired_sentence(told),
            cut=cut,
            sets=SETS,
            verdicts=VERDICTS,
            count={name: sum(pair["verdict"] == name for pair in told["answers"]) for name in VERDICTS},
            finding=lambda found: "–" if found is None else figure(found).replace(f"{found['name']}: ", "", 1),
        )
    )


def _card(name: str) -> str:
    return files(CARD).joinpath("templates", name).read_text(encoding="utf-8")


def _own(name: str) -> str:
    return files(__package__).joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _environment() -> Any:
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(__package__, "templates"), PackageLoader(CARD, "templates")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, moment=moment)
    return environment
