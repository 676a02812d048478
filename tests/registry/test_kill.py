"""A kill between any two calls to the registry leaves the old champion or the new one, and a rerun converges."""

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from registry_checkout import Checkout

from medtune.params.recipe import load_recipe
from medtune.registry import tags
from medtune.registry.champion import aliased, champion_dir
from medtune.tracking.store import connect, open_store
from stages.register import main

WRITES = ("create_registered_model", "create_model_version", "update_model_version", "set_")
# the moment; and the manifest, which lists MLmodel with the run's id (champion_dir holds it to the files)
OWN_TO_A_CHECKOUT = {tags.DECIDED_AT, tags.MANIFEST}
MODELS = ("medgpt-ko", "medgpt-ko-adapter")


class Killed(BaseException):
    """As final as SIGKILL for anything that would catch an Exception."""


class Counting:
    """A real client that counts its writes and ends the process before write number `at` (from 0)."""

    def __init__(self, client: Any, at: int | None, die: Callable[[], None]) -> None:
        self.client, self.at, self.die, self.writes = client, at, die, []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        if not name.startswith(WRITES):
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            if len(self.writes) == self.at:
                self.die()
            self.writes.append((name, args[0]))
            return method(*args, **kwargs)

        return call


def raise_killed() -> None:
    raise Killed


def really_die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run(root: Path, at: int | None, die: Callable[[], None] = raise_killed) -> list:
    client = Counting(connect(open_store(root)), at, die)
    main(root, client)
    return client.writes


def registry(root: Path) -> dict:
    client = connect(open_store(root))
    seen = {}
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
    return seen


@pytest.fixture
def contested(make_checkout: Callable[[str], Checkout]) -> Checkout:
    """Champion `a` is registered, and the better candidate `b` is about to be."""
    checkout = make_checkout("contested")
    checkout.candidate("a", nll=2.0)
    main(checkout.root)
    checkout.candidate("b", nll=1.9)
    return checkout


def copy(checkout: Checkout, name: str) -> Path:
    root = checkout.root.parent / name
    shutil.copytree(checkout.root, root)
    return root


def after(root: Path, calm: dict, promoted: int) -> None:
    """Between kill and rerun there is a whole champion; the rerun ends where an undisturbed run does."""
    recipe = load_recipe(root / "params.yaml")
    champion = aliased(connect(open_store(root)), "medgpt-ko", tags.CHAMPION)
    assert int(champion.version) == promoted
    assert (champion_dir(root, recipe) / "model.safetensors").exists()
    run(root, None)
    assert registry(root) == calm
    before = registry(root)
    assert run(root, None) == []  # settled: nothing is written any more
    assert registry(root) == before


@pytest.mark.slow
def test_kill_at_every_write(contested: Checkout) -> None:
    calm_root = copy(contested, "calm")
    writes = run(calm_root, None)
    calm = registry(calm_root)
    assert calm["medgpt-ko"][0] == {"champion": 2, "challenger": 2}
    print(f"{len(writes)} registry writes")
    assert len(writes) > 20
    # the one write that changes the champion is the merged model's alias, the last but one of all
    assert writes[-2:] == [("set_registered_model_alias", "medgpt-ko"), ("set_model_version_tag", "medgpt-ko")]
    for at in range(len(writes)):
        root = copy(contested, f"kill-{at}")
        with pytest.raises(Killed):
            run(root, at)
        after(root, calm, promoted=2 if at == len(writes) - 1 else 1)
        shutil.rmtree(root)


@pytest.mark.parametrize("from_end", [1, 2, 3, 20])
def test_sigkill(contested: Checkout, from_end: int) -> None:
    calm_root = copy(contested, "calm")
    count = len(run(calm_root, None))
    child = multiprocessing.get_context("fork").Process(target=run, args=(contested.root, count - from_end, really_die))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    after(contested.root, registry(calm_root), promoted=2 if from_end == 1 else 1)


def test_kill_of_the_first_registration_leaves_no_champion_or_a_whole_one(
    make_checkout: Callable[[str], Checkout],
) -> None:
    calm = make_checkout("calm")
    calm.candidate("a")
    count = len(run(calm.root, None))
    for at in range(0, count, 5):
        checkout = make_checkout(f"first-{at}")
        checkout.candidate("a")
        with pytest.raises(Killed):
            run(checkout.root, at)
        assert aliased(connect(open_store(checkout.root)), "medgpt-ko", tags.CHAMPION) is None
        run(checkout.root, None)
        assert registry(checkout.root) == registry(calm.root)


def test_leftovers_of_a_kill_while_linking_are_cleared(contested: Checkout) -> None:
    version = contested.candidate("b", nll=1.9)
    stale = contested.root / f"mlruns/artifacts/versions/.{version}.making"
    (stale / "merged").mkdir(parents=True)
    (stale / "merged/half.safetensors").write_bytes(b"half")
    main(contested.root)
    assert not stale.exists()
    assert int(aliased(connect(open_store(contested.root)), "medgpt-ko", tags.CHAMPION).version) == 2
