"""promote, reject, rollback, retire: what is refused, what is written, and what MLflow shows afterwards."""

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from registry_checkout import ROOT, Checkout, copied

from medtune.params.errors import RegistryError
from medtune.params.recipe import load_recipe
from medtune.registry import promotion
from medtune.registry.adopt import adopt
from medtune.registry.champion import champion_dir
from medtune.registry.ledger import Ledger, open_ledger
from medtune.registry.standing import champion, standings
from medtune.tracking.store import connect, open_store
from stages.register import main

MODEL = "medgpt-ko"


@pytest.fixture(scope="module")
def registered_three(champion_template: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Made once; every test gets a copy."""
    checkout = copied(champion_template, tmp_path_factory.mktemp("three") / "checkout")
    for name, nll in (("b", 1.9), ("c", 1.95)):
        checkout.candidate(name, nll=nll)
        main(checkout.root)
    return checkout


@pytest.fixture
def three(registered_three: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Checkout, Ledger]:
    """Versions 1 and 2 were champion in turn; 3 was rejected, being worse."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    checkout = copied(registered_three, tmp_path / "checkout")
    return checkout, open_ledger(checkout.root)


def aliases(root: Path) -> dict[str, dict[str, int]]:
    client = connect(open_store(root))
    return {
        name: {key: int(number) for key, number in client.get_registered_model(name).aliases.items()}
        for name in (MODEL, f"{MODEL}-adapter")
    }


def command(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "medtune.cli", *arguments],
        cwd=root,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "MEDTUNE_ACTOR": "지민"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_gate_promotes_and_the_ledger_says_so(three: tuple[Checkout, Ledger]) -> None:
    checkout, ledger = three
    kinds = [(event.event, event.body.get("number")) for event in ledger.events(MODEL)]
    assert [kind for kind, _ in kinds if kind in ("promoted", "rejected", "approved", "registered")] == [
        *("registered", "approved", "promoted") * 2,
        *("registered", "rejected"),
    ]
    assert champion(ledger, MODEL).body["number"] == 2
    assert champion(ledger, MODEL).body["policy"] == "auto"
    assert aliases(checkout.root) == {
        MODEL: {"champion": 2, "challenger": 3},
        f"{MODEL}-adapter": {"champion": 2, "challenger": 3},
    }
    assert ledger.verify() == len(kinds)


def test_a_rejected_version_is_promoted_by_override_alone_and_marked(three: tuple[Checkout, Ledger]) -> None:
    checkout, ledger = three
    refused = command(checkout.root, "promote", "3", "--reason", "급함")
    assert refused.returncode == 1
    assert "was judged rejected" in refused.stderr
    assert champion(ledger, MODEL).body["number"] == 2

    done = command(checkout.root, "promote", "3", "--reason", "병원장이 요청", "--override")
    assert done.returncode == 0, done.stderr
    assert "OVERRIDE" in done.stdout
    now = champion(ledger, MODEL)
    assert (now.body["number"], now.body["override"], now.actor) == (3, True, "지민")
    assert standings(ledger, MODEL)[now.version].overridden
    assert aliases(checkout.root)[MODEL]["champion"] == 3
    version = connect(open_store(checkout.root)).get_model_version(MODEL, "3")
    assert version.tags["medtune.override"] == "지민: 병원장이 요청"
    assert champion_dir(checkout.root, load_recipe(checkout.root / "params.yaml")).parent.name == now.version


def test_override_needs_a_reason(three: tuple[Checkout, Ledger]) -> None:
    _, ledger = three
    with pytest.raises(RegistryError, match="--reason"):
        promotion.promote(ledger, MODEL, "3", "지민", "  ", override=True)
    assert champion(ledger, MODEL).body["number"] == 2


def test_manual_policy_waits_for_a_person(checkout: Checkout) -> None:
    checkout.params("  promotion: auto ", "  promotion: manual ")
    checkout.candidate("a")
    main(checkout.root)
    ledger = open_ledger(checkout.root)
    assert champion(ledger, MODEL) is None
    assert aliases(checkout.root)[MODEL] == {"challenger": 1}
    # the same decision under another policy promotes nothing by itself: that is a person's word
    checkout.params("  promotion: manual ", "  promotion: auto ")
    main(checkout.root)
    assert champion(ledger, MODEL) is None
    done = command(checkout.root, "promote", "1", "--reason", "검토함", "--by", "서연")
    assert done.returncode == 0, done.stderr
    assert champion(ledger, MODEL).body | {"approval": 0} == {
        "expects": None,
        "number": 1,
        "policy": "manual",
        "by": "서연",
        "reason": "검토함",
        "override": False,
        "approval": 0,
    }
    assert aliases(checkout.root) == {
        MODEL: {"champion": 1, "challenger": 1},
        f"{MODEL}-adapter": {"champion": 1, "challenger": 1},
    }
    again = command(checkout.root, "promote", "1", "--reason", "검토함")
    assert "is the champion already" in again.stdout


def test_rollback_and_back(three: tuple[Checkout, Ledger]) -> None:
    checkout, ledger = three
    done = command(checkout.root, "rollback", "--reason", "환자 불만")
    assert done.returncode == 0, done.stderr
    assert champion(ledger, MODEL).body["number"] == 1
    assert aliases(checkout.root)[MODEL]["champion"] == 1
    assert aliases(checkout.root)[f"{MODEL}-adapter"]["champion"] == 1
    # registering the candidate that is at hand again moves nothing: going back is a person's word
    main(checkout.root)
    assert champion(ledger, MODEL).body["number"] == 1
    assert command(checkout.root, "rollback", "--reason", "다시", "--to", "2").returncode == 0
    assert champion(ledger, MODEL).body["number"] == 2
    never = command(checkout.root, "rollback", "--reason", "x", "--to", "3")
    assert "was never champion" in never.stderr


def test_rollback_imports_no_mlflow_and_needs_no_server(
    three: tuple[Checkout, Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout, ledger = three
    code = (
        "import sys; sys.argv = ['medtune', 'rollback', '--reason', 'x']\n"
        "import medtune.cli\n"
        "try: medtune.cli.main()\n"
        "finally: print(sorted({name.partition('.')[0] for name in sys.modules} & {'mlflow', 'torch', 'prefect'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=checkout.root,
        env={
            "PYTHONPATH": str(ROOT),
            "PATH": "/usr/bin:/bin",
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
            "MEDTUNE_LEDGER_URI": f"sqlite:///{checkout.root}/mlruns/mlflow.db",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert "does not answer" in done.stdout
    assert champion(ledger, MODEL).body["number"] == 1
    assert aliases(checkout.root)[MODEL]["champion"] == 2  # lags, and follows with the next write
    told = promotion.project(checkout.root, ledger, MODEL, f"{MODEL}-adapter")
    assert len(told) == 2  # of both models
    assert all("points to version 2, the ledger says version 1: put back" in sentence for sentence in told)
    assert aliases(checkout.root)[MODEL]["champion"] == 1


def test_rollback_passes_over_damaged_and_retired_champions(three: tuple[Checkout, Ledger]) -> None:
    checkout, ledger = three
    checkout.candidate("d", nll=1.7)
    main(checkout.root)
    assert champion(ledger, MODEL).body["number"] == 4
    damaged = standings(ledger, MODEL)
    two = next(item for item in damaged.values() if item.number == 2)
    weights = checkout.root / f"mlruns/artifacts/versions/{two.version}/merged/model.safetensors"
    weights.unlink()
    done = command(checkout.root, "rollback", "--reason", "느림")
    assert done.returncode == 0, done.stderr
    assert "passed over" in done.stdout
    assert "model.safetensors is missing" in done.stdout
    assert champion(ledger, MODEL).body["number"] == 1


def test_without_an_earlier_champion_nothing_is_rolled_back(crowned: Checkout) -> None:
    done = command(crowned.root, "rollback", "--reason", "x")
    assert done.returncode == 1
    assert "no earlier champion" in done.stderr
    assert champion(open_ledger(crowned.root), MODEL).body["number"] == 1


@pytest.mark.parametrize("verb", ["reject", "retire"])
def test_the_champion_is_never_taken_away(three: tuple[Checkout, Ledger], verb: str) -> None:
    checkout, ledger = three
    refused = command(checkout.root, verb, "2", "--reason", "x")
    assert refused.returncode == 1
    assert "is the champion" in refused.stderr
    assert command(checkout.root, verb, "1", "--reason", "오래됨").returncode == 0
    with pytest.raises(RegistryError, match=r"was judged rejected|was retired"):
        promotion.promote(ledger, MODEL, "1", "x", "y")
    assert champion(ledger, MODEL).body["number"] == 2


def test_unevaluated_versions_are_not_promoted(checkout: Checkout) -> None:
    ledger = open_ledger(checkout.root)
    ledger.append("registered", MODEL, "a" * 64, {"numbers": {"merged": 1, "adapter": 1}, "manifest": "m"})
    with pytest.raises(RegistryError, match="never evaluated"):
        promotion.promote(ledger, MODEL, "1", "x", "y")


def test_damaged_files_are_not_promoted(three: tuple[Checkout, Ledger]) -> None:
    checkout, ledger = three
    three_ = next(item for item in standings(ledger, MODEL).values() if item.number == 3)
    config = checkout.root / f"mlruns/artifacts/versions/{three_.version}/merged/config.json"
    text = config.read_text()
    config.unlink()
    config.write_text(text.replace("llama", "lLama"))
    done = command(checkout.root, "promote", "3", "--reason", "x", "--override")
    assert done.returncode == 1
    assert "config.json" in done.stderr
    assert champion(ledger, MODEL).body["number"] == 2


def test_a_registry_from_before_the_ledger_is_taken_over(crowned: Checkout, tmp_path: Path) -> None:
    elsewhere = f"sqlite:///{tmp_path}/new.db"
    with pytest.MonkeyPatch.context() as patch:  # MLflow as it was, and a ledger that knows nothing yet
        patch.setenv("MEDTUNE_LEDGER_URI", elsewhere)
        main(crowned.root)
        ledger = open_ledger(crowned.root)
        now = champion(ledger, MODEL)
        assert (now.body["number"], now.body["by"]) == (1, "adopted")
        crowned.candidate("b", nll=1.9)
        main(crowned.root)
        assert champion(ledger, MODEL).body["number"] == 2
        assert promotion.drift(f"sqlite:///{crowned.root}/mlruns/mlflow.db", ledger, MODEL, f"{MODEL}-adapter") == []


def test_a_kill_while_a_registry_is_taken_over_is_gone_on_with(
    crowned: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowned.candidate("b", nll=1.9)
    main(crowned.root)
    client, append = connect(open_store(crowned.root)), Ledger.append

    class Killed(BaseException):
        pass

    def take_over(at: int | None) -> list[tuple]:
        """Killed before write number `at`, and called again; what the ledger says in the end."""
        monkeypatch.setenv("MEDTUNE_LEDGER_URI", f"sqlite:///{tmp_path}/{at}.db")
        ledger, writes = open_ledger(crowned.root), []

        def counting(self: Ledger, *args: Any, **kwargs: Any) -> Any:
            if len(writes) == at:
                raise Killed
            writes.append(args)
            return append(self, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "append", counting)
            if at is not None:
                with pytest.raises(Killed):
                    adopt(client, ledger, MODEL, f"{MODEL}-adapter")
        adopt(client, ledger, MODEL, f"{MODEL}-adapter")
        assert champion(ledger, MODEL).body["number"] == 2
        return [(event.event, event.version) for event in ledger.events()]

    calm = take_over(None)
    assert len(calm) == 6
    for at in range(len(calm)):
        assert take_over(at) == calm, at


def test_a_persons_no_outlives_the_gates_next_yes(three: tuple[Checkout, Ledger]) -> None:
    checkout, ledger = three
    assert command(checkout.root, "rollback", "--reason", "환자 불만").returncode == 0
    assert command(checkout.root, "reject", "2", "--reason", "다시는 안 됨").returncode == 0
    # b again, under a gate with another word in it: a new decision
    checkout.params("alpha: 0.05", "alpha: 0.04")
    checkout.candidate("b", nll=1.9)
    main(checkout.root)
    assert champion(ledger, MODEL).body["number"] == 1
    two = next(item for item in standings(ledger, MODEL).values() if item.number == 2)
    assert two.decision.event == "rejected"
    assert "다시는 안 됨" in two.decision.body["reasons"][0]
    # and nobody goes back to it
    refused = command(checkout.root, "rollback", "--reason", "x", "--to", "2")
    assert refused.returncode == 1
    assert "was judged rejected" in refused.stderr


def test_what_a_person_rolled_back_is_not_brought_back_by_the_gate(three: tuple[Checkout, Ledger]) -> None:
    checkout, ledger = three
    assert command(checkout.root, "rollback", "--reason", "환자 불만").returncode == 0
    checkout.params("alpha: 0.05", "alpha: 0.04")
    checkout.candidate("b", nll=1.9)
    main(checkout.root)
    two = next(item for item in standings(ledger, MODEL).values() if item.number == 2)
    assert two.decision.event == "approved"
    assert champion(ledger, MODEL).body["number"] == 1


def test_an_approval_while_champion_is_no_claim_later(crowned: Checkout) -> None:
    crowned.params("alpha: 0.05", "alpha: 0.04")
    main(crowned.root)  # judged again while it is champion: against nobody
    crowned.candidate("b", nll=1.9)
    main(crowned.root)
    ledger = open_ledger(crowned.root)
    assert champion(ledger, MODEL).body["number"] == 2
    looks = len(ledger.events(kinds={"looked"}))
    crowned.candidate("a", nll=2.0)
    main(crowned.root)
    assert champion(ledger, MODEL).body["number"] == 2
    assert len(ledger.events(kinds={"looked"})) == looks


def test_an_alias_that_was_moved_back_is_drift_and_written_down(three: tuple[Checkout, Ledger]) -> None:
    checkout, ledger = three
    connect(open_store(checkout.root)).set_registered_model_alias(MODEL, "champion", "1")
    (sentence,) = promotion.project(checkout.root, ledger, MODEL, f"{MODEL}-adapter")
    assert "points to version 1, the ledger says version 2: put back" in sentence
    (event,) = ledger.events(kinds={"alias_drift"})
    assert event.body == {"alias": "champion", "model": MODEL, "found": 1, "should": 2}
    assert aliases(checkout.root)[MODEL]["champion"] == 2
    assert promotion.project(checkout.root, ledger, MODEL, f"{MODEL}-adapter") == []


def test_only_two_aliases_are_ours(three: tuple[Checkout, Ledger]) -> None:
    checkout, _ = three
    recipe = load_recipe(checkout.root / "params.yaml")
    for alias in ("Champion", "production", ""):
        with pytest.raises(RegistryError, match="there are champion and challenger"):
            champion_dir(checkout.root, recipe, alias)


def test_an_edited_ledger_serves_nobody_and_promotes_nobody(three: tuple[Checkout, Ledger]) -> None:
    checkout, _ = three
    with sqlite3.connect(checkout.root / "mlruns/mlflow.db") as database:
        database.execute("DROP TRIGGER medtune_ledger_no_UPDATE")
        database.execute("UPDATE medtune_ledger SET actor = 'somebody' WHERE seq = 2")
    recipe = load_recipe(checkout.root / "params.yaml")
    with pytest.raises(RegistryError, match=r"ledger row 2 .*was edited"):
        champion_dir(checkout.root, recipe)
    with pytest.raises(RegistryError, match=r"ledger row 2 .*was edited"):
        main(checkout.root)
    refused = command(checkout.root, "promote", "1", "--reason", "x")
    assert "ledger row 2" in refused.stderr
    assert refused.returncode == 1
    # going back must work in an emergency, and says what it knows
    done = command(checkout.root, "rollback", "--reason", "x")
    assert done.returncode == 0, done.stderr
    assert "warning: ledger row 2" in done.stderr


def test_one_retired_between_look_and_write_is_not_gone_back_to(three: tuple[Checkout, Ledger]) -> None:
    _, ledger = three

    def retired_meanwhile(standing: Any) -> None:
        promotion.retire(ledger, MODEL, "1", "서연", "오래됨")

    with pytest.raises(RegistryError, match="was retired by 서연: it is not gone back to"):
        promotion.rollback(ledger, MODEL, "지민", "x", check=retired_meanwhile)
    assert champion(ledger, MODEL).body["number"] == 2
