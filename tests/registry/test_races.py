"""Registrations and promotions at one time: one version, and the worse never replaces the better."""

import contextlib
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clean_processes import pool
from registry_checkout import Checkout, digest
from soak import limit

from medtune.registry import aliases, promotion, tags
from medtune.registry.gate import Decision
from medtune.registry.ledger import Ledger, open_ledger
from medtune.registry.registrar import Half, Registration, register
from medtune.registry.standing import Standing, champion, standings
from medtune.tracking.store import connect, open_store
from stages.register import main

MODEL, ADAPTER_MODEL = "medgpt-ko", "medgpt-ko-adapter"
NLL = {"old": 2.0, "good": 1.9, "better": 1.8}
INTERLEAVINGS = limit(200, few=12)


def registration(name: str) -> Registration:
    return Registration(
        version=digest(f"version {name}"),
        run_id="",
        adapter=Half(ADAPTER_MODEL, f"/versions/{name}/adapter", ""),
        merged=Half(MODEL, f"/versions/{name}/merged", ""),
        identity={tags.MANIFEST: digest(f"manifest {name}")},
        describe=lambda decision, adapter: decision.outcome,
        licences={},
        record={"manifest": digest(f"manifest {name}"), "content": digest(name), "files": "local"},
        evaluation={"evaluation": digest(f"evaluation {name}"), "test": digest("test")},
    )


def judge(name: str) -> Callable[[Standing | None], Decision]:
    """By the figure alone: a gate that is always right, so that only the order of writes is at test."""
    names = {digest(f"version {known}"): known for known in NLL}

    def decide(rival: Standing | None) -> Decision:
        better = rival is None or NLL[name] < NLL[names[rival.version]]
        return Decision("approved" if better else "rejected", [f"{name} against {rival and names[rival.version]}"])

    return decide


class Schedule:
    """Two threads, of which one runs at a time: before each write both wait, and the seed draws who goes on."""

    def __init__(self, seed: int) -> None:
        self.random, self.condition = random.Random(seed), threading.Condition()
        self.parked: set[int] = set()
        self.chosen: int | None = None
        self.running, self.order = 2, []

    def step(self, what: str) -> None:
        me = threading.get_ident()
        with self.condition:
            self.parked.add(me)
            self._draw()
            assert self.condition.wait_for(lambda: self.chosen == me, timeout=60), what
            self.parked.remove(me)
            self.chosen = None
            self.order.append((me, what))

    def ended(self) -> None:
        with self.condition:
            self.running -= 1
            self._draw()

    def _draw(self) -> None:
        if self.parked and len(self.parked) == self.running:
            self.chosen = self.random.choice(sorted(self.parked))
            self.condition.notify_all()


class Cut(BaseException):
    """The process ends here."""


def approved_and_cut(root: Path, name: str) -> None:
    """Registered and approved against the champion of now, and killed just before the promotion."""
    append = Ledger.append

    def cut(self: Ledger, event: str, *args: Any, **kwargs: Any) -> Any:
        if event == "promoted":
            raise Cut
        return append(self, event, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "append", cut)
        with pytest.raises(Cut):
            register(root, connect(open_store(root)), open_ledger(root), registration(name), f"key {name}", judge(name))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_retrains_in_every_order(tmp_path: Path, fresh_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both were judged against the old champion and approved; whoever comes second is judged against the first.

    Without the ledger's lock, which would have one wait for the other: what holds is the compare-and-swap alone.
    """
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    start = tmp_path / "start"
    (start / "mlruns").mkdir(parents=True)
    shutil.copy(fresh_store, start / "mlruns/mlflow.db")
    register(start, connect(open_store(start)), open_ledger(start), registration("old"), "key old", judge("old"))
    for name in ("good", "better"):
        approved_and_cut(start, name)
    assert champion(open_ledger(start), MODEL).version == digest("version old")

    append, write_alias = Ledger.append, aliases.write_alias
    orders, second_champions, worse_rejected = set(), set(), 0
    for seed in range(INTERLEAVINGS):
        root = tmp_path / f"{seed}"
        shutil.copytree(start, root)
        schedule, failed = Schedule(seed), []

        def stepping(method: Callable, name: str, schedule: Schedule = schedule) -> Callable:
            def call(*args: Any, **kwargs: Any) -> Any:
                schedule.step(name)
                return method(*args, **kwargs)

            return call

        def retrain(
            name: str, root: Path = root, failed: list = failed, schedule: Schedule = schedule, stepping: Any = stepping
        ) -> None:
            try:
                client, ledger = connect(open_store(root)), open_ledger(root)
                register(root, client, ledger, registration(name), f"key {name}", stepping(judge(name), "judge"))
            except BaseException as error:
                failed.append(error)
            finally:
                schedule.ended()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Ledger, "lock", lambda self, model: contextlib.nullcontext())
            patch.setattr(Ledger, "append", stepping(append, "ledger"))
            patch.setattr(promotion.aliases, "write_alias", stepping(write_alias, "alias"))
            threads = [threading.Thread(target=retrain, args=(name,)) for name in ("good", "better")]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(120)
        assert not failed, (seed, failed)
        ledger, best = open_ledger(root), digest("version better")
        crowned = [event.version for event in ledger.events(MODEL, kinds={"promoted"})][1:]
        assert champion(ledger, MODEL).version == best, seed
        assert crowned in ([best], [digest("version good"), best]), seed
        # without the lock the last alias written may be the slower one's: the next write, or doctor, puts it right
        promotion.project(root, ledger, MODEL, ADAPTER_MODEL)
        shown = connect(open_store(root)).get_registered_model(MODEL).aliases
        assert int(shown["champion"]) == standings(ledger, MODEL)[best].number, seed
        worse_rejected += sum(event.event == "rejected" for event in ledger.events(MODEL))
        second_champions.add(crowned[0])
        names = {ident: number for number, ident in enumerate(dict.fromkeys(i for i, _ in schedule.order))}
        orders.add(tuple((names[ident], what) for ident, what in schedule.order))
        shutil.rmtree(root)
    print(f"{INTERLEAVINGS} interleavings, {len(orders)} of them different; the worse one rejected in {worse_rejected}")
    assert len(second_champions) == 2  # both orders came up
    assert len(orders) > INTERLEAVINGS // 4


def _register(root: Path) -> int:
    main(root)
    return len(open_ledger(root).events(MODEL, kinds={"registered"}))


def test_five_registrations_at_one_time_make_one_version(checkout: Checkout) -> None:
    checkout.candidate("a")
    with pool(5) as five:
        assert [future.result(300) for future in [five.submit(_register, checkout.root) for _ in range(5)]] == [1] * 5
    client, ledger = connect(open_store(checkout.root)), open_ledger(checkout.root)
    for model in (MODEL, ADAPTER_MODEL):
        assert [int(v.version) for v in client.search_model_versions(f"name='{model}'")] == [1]
    experiment = client.get_experiment_by_name("medtune").experiment_id
    assert len(client.search_runs([experiment])) == 1
    kinds = [event.event for event in ledger.events(MODEL)]
    assert sorted(kinds) == sorted(set(kinds))  # nothing twice
    assert champion(ledger, MODEL).body["number"] == 1
    assert ledger.verify() == len(kinds)


def test_eight_clients_on_a_fresh_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pool(8) as eight:
        list(eight.map(_begin, [tmp_path] * 8, range(8)))
    ledger = open_ledger(tmp_path)
    assert ledger.verify() == 8
    assert {event.body["client"] for event in ledger.events()} == set(range(8))


def _begin(root: Path, number: int) -> None:
    connect(open_store(root)).search_registered_models()
    open_ledger(root).append("waiver", MODEL, body={"client": number})
