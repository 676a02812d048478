"""A kill between any two writes of a registration leaves the old champion or the new one, and a rerun converges.

The writes are enumerated by wrapping what makes them: MLflow's client, the ledger, and MLflow's aliases beneath it.
"""

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from registry_checkout import Checkout, made
from soak import every

from medtune.params.recipe import load_recipe
from medtune.registry import aliases, promotion, tags
from medtune.registry.champion import champion_dir
from medtune.registry.ledger import Ledger, open_ledger
from medtune.registry.standing import champion
from medtune.tracking.store import connect, open_store
from stages.register import main

WRITES = ("create_registered_model", "create_model_version", "update_model_version", "set_")
# the moment; the manifest, which lists MLmodel with the run's id (champion_dir holds it to the files); the row of the
# ledger, since a look that was taken before a kill stays taken
OWN_TO_A_CHECKOUT = {tags.DECIDED_AT, tags.MANIFEST, tags.JUDGED}
MODELS = ("medgpt-ko", "medgpt-ko-adapter")


class Killed(BaseException):
    """As final as SIGKILL for anything that would catch an Exception."""


class Counting:
    """Counts every write to ledger and registry, and ends the process before write number `at` (from 0)."""

    def __init__(self, root: Path, at: int | None, die: Callable[[], None]) -> None:
        self.client, self.at, self.die, self.writes = connect(open_store(root)), at, die, []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        return self.counted(name, method, lambda arguments: arguments[0]) if name.startswith(WRITES) else method

    def counted(self, name: str, method: Callable, what: Callable[[tuple], str]) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            if len(self.writes) == self.at:
                self.die()
            self.writes.append((name, what(args)))
            return method(*args, **kwargs)

        return call


def raise_killed() -> None:
    raise Killed


def really_die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run(root: Path, at: int | None, die: Callable[[], None] = raise_killed) -> list:
    counting = Counting(root, at, die)
    with pytest.MonkeyPatch.context() as patch:
        # args of the ledger's method: (self, event, model, …); of the alias: (uri, model, alias, number)
        patch.setattr(Ledger, "append", counting.counted("ledger", Ledger.append, lambda args: args[1]))
        counted = counting.counted("alias", aliases.write_alias, lambda args: f"{args[2]} {args[1]}")
        patch.setattr(promotion.aliases, "write_alias", counted)
        main(root, counting)
    return counting.writes


def registry(root: Path) -> dict:
    client, ledger = connect(open_store(root)), open_ledger(root)
    seen: dict[str, Any] = {}
    for name in MODELS:
        versions = client.search_model_versions(f"name='{name}'")
        seen[name] = (
            {key: int(number) for key, number in client.get_registered_model(name).aliases.items()},
            {
                int(v.version): {key: value for key, value in v.tags.items() if key not in OWN_TO_A_CHECKOUT}
                for v in versions
            },
            {int(v.version): bool(v.description) for v in versions},
        )
    seen["ledger"] = [(event.event, event.version) for event in ledger.events()]
    return seen


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_adapter: Path, fresh_store: Path) -> Checkout:
    """Champion `a` is registered, and the better candidate `b` is about to be. Tests copy it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        checkout = made(tmp_path_factory.mktemp("kill") / "start", tiny_base, tiny_adapter, fresh_store)
        checkout.candidate("a", nll=2.0)
        main(checkout.root)
        checkout.candidate("b", nll=1.9)
    return checkout


@pytest.fixture(scope="module")
def undisturbed(start: Checkout) -> tuple[list, dict]:
    """The writes of a registration that nobody kills, and what the registry says after it."""
    root = copy(start, start.root.parent / "calm")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return run(root, None), registry(root)


@pytest.fixture
def contested(start: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return replace(start, root=copy(start, tmp_path / "contested"))


def copy(checkout: Checkout, root: Path) -> Path:
    shutil.copytree(checkout.root, root)
    return root


def after(root: Path, calm: dict, promoted: int) -> None:
    """Between kill and rerun there is a whole champion; the rerun ends where an undisturbed run does."""
    recipe = load_recipe(root / "params.yaml")
    assert champion(open_ledger(root), "medgpt-ko").body["number"] == promoted
    # MLflow's alias may lag by the moment between ledger and alias; it names a champion in any case
    there = {name: connect(open_store(root)).get_registered_model(name).aliases for name in MODELS}
    assert {int(aliased["champion"]) for aliased in there.values()} <= {1, promoted}
    assert (champion_dir(root, recipe) / "model.safetensors").exists()
    run(root, None)
    assert registry(root) == calm
    assert run(root, None) == []  # settled: nothing is written any more
    assert open_ledger(root).verify() == len(calm["ledger"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kill_at_every_write(contested: Checkout, tmp_path: Path, undisturbed: tuple[list, dict]) -> None:
    """Every sixth one here, and those around the promotion; all with MEDTUNE_SOAK=1."""
    writes, calm = undisturbed
    assert calm["medgpt-ko"][0] == {"champion": 2, "challenger": 2}
    print(f"{len(writes)} writes to ledger and registry")
    assert len(writes) > 20
    crowned = writes.index(("ledger", "promoted"))
    # the one write that makes the champion; MLflow's aliases and the word that all is done come after it
    assert writes[crowned + 1 :] == [
        ("alias", "challenger medgpt-ko-adapter"),
        ("alias", "challenger medgpt-ko"),
        ("alias", "champion medgpt-ko-adapter"),
        ("alias", "champion medgpt-ko"),
        ("set_model_version_tag", "medgpt-ko"),
    ]
    for at in every(6, len(writes), crowned - 1, crowned, crowned + 1):
        root = copy(contested, tmp_path / f"kill-{at}")
        with pytest.raises(Killed):
            run(root, at)
        after(root, calm, promoted=2 if at > crowned else 1)
        shutil.rmtree(root)


@pytest.mark.parametrize("from_end", [5, 6, 20])
def test_sigkill(contested: Checkout, from_end: int, undisturbed: tuple[list, dict]) -> None:
    writes, calm = undisturbed
    child = multiprocessing.get_context("fork").Process(
        target=run, args=(contested.root, len(writes) - from_end, really_die)
    )
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    after(contested.root, calm, promoted=2 if from_end <= 5 else 1)


def test_kill_of_the_first_registration_leaves_no_champion_or_a_whole_one(
    make_checkout: Callable[[str], Checkout],
) -> None:
    calm = make_checkout("calm")
    calm.candidate("a")
    writes = run(calm.root, None)
    crowned = writes.index(("ledger", "promoted"))
    for at in every(16, len(writes), crowned, crowned + 1):
        checkout = make_checkout(f"first-{at}")
        checkout.candidate("a")
        with pytest.raises(Killed):
            run(checkout.root, at)
        assert (champion(open_ledger(checkout.root), "medgpt-ko") is None) == (at <= crowned)
        run(checkout.root, None)
        assert registry(checkout.root) == registry(calm.root)


def test_leftovers_of_a_kill_while_linking_are_cleared(contested: Checkout) -> None:
    version = contested.candidate("b", nll=1.9)
    stale = contested.root / f"mlruns/artifacts/versions/.{version}.making"
    (stale / "merged").mkdir(parents=True)
    (stale / "merged/half.safetensors").write_bytes(b"half")
    main(contested.root)
    assert not stale.exists()
    assert champion(open_ledger(contested.root), "medgpt-ko").body["number"] == 2
