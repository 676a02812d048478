"""What doctor's checks share: a trouble as they report it, and the registry as they see it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from medtune.params.recipe import Recipe
from medtune.registry import tags
from medtune.registry.ledger import Event, Ledger
from medtune.registry.standing import Standing, champion, standings

HOUR = 3600  # younger than this may be the work of a registration that is running now


@dataclass(frozen=True)
class Trouble:
    """code: for programs; sentence: what was found; mend: what sets it right, by a person where there is no `repair`.

    `repair` sets it right and returns a sentence that says what was done. A warning asks for nothing today and leaves
    the exit status alone.
    """

    code: str
    sentence: str
    mend: str
    repair: Callable[[], str] | None = None
    warning: bool = False


def local_path(root: Path) -> Path:
    """The SQLite file of a checkout whose tracking is left at its default."""
    return (root / "mlruns/mlflow.db").resolve()


@dataclass
class Examination:
    """The registry of one checkout. What is read is kept until `refresh`, so that checks agree with each other.

    ledger and client are None where nothing was registered yet; looking makes neither.
    """

    root: Path
    recipe: Recipe
    uri: str
    ledger: Ledger | None
    client: Any | None
    deep: bool = False
    tell: Callable[[str], None] = print
    age: float = HOUR
    trusted: bool = True  # the ledger's chain holds: what it says may be written elsewhere

    @property
    def models(self) -> tuple[str, str]:
        """The merged and the adapter model."""
        return self.recipe.register_.model, self.recipe.register_.adapter_model

    @cached_property
    def standings(self) -> dict[str, Standing]:
        return standings(self.ledger, self.models[0]) if self.ledger else {}

    @cached_property
    def champion(self) -> Event | None:
        return champion(self.ledger, self.models[0]) if self.ledger else None

    @cached_property
    def versions(self) -> dict[str, dict[int, Any]]:
        """MLflow's versions by model and number; deleted ones are not among them."""
        return {model: _versions(self.client, model) if self.client else {} for model in self.models}

    def refresh(self) -> None:
        for name in ("standings", "champion", "versions"):
            self.__dict__.pop(name, None)

    def locked(self) -> AbstractContextManager[None]:
        """Nobody registers or promotes meanwhile; where nothing was registered there is nobody to keep out."""
        return self.ledger.lock(self.models[0]) if self.ledger else nullcontext()

    def missing(self, standing: Standing) -> list[tuple[str, int]]:
        """Halves of a registered version that MLflow lacks, as (model, number)."""
        numbers = zip(self.models, (standing.number, standing.adapter_number), strict=True)
        return [(model, number) for model, number in numbers if not self._is(model, number, standing.version)]

    def _is(self, model: str, number: int, digest: str) -> bool:
        """A number is given anew once a whole registered model was deleted: only the digest tells whose it is."""
        found = self.versions[model].get(number)
        return found is not None and found.tags.get(tags.VERSION, digest) == digest


def _versions(client: Any, model: str) -> dict[int, Any]:
    found, token = {}, None
    while True:
        page = client.search_model_versions(f"name='{model}'", max_results=1000, page_token=token)
        found |= {int(item.version): item for item in page}
        token = page.token
        if not token:
            return found
