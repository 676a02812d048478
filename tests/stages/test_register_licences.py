"""Licences through the register stage: the gate's finding, the tags of both halves, a waiver, a model that goes on."""

import json
from pathlib import Path

from registry_checkout import Checkout, checkout, fresh_store, make_checkout, tiny_adapter

from medtune.registry import tags
from medtune.tracking.store import connect, open_store
from stages.register import main

__all__ = ["checkout", "fresh_store", "make_checkout", "tiny_adapter"]
WAIVER = (
    '[{licence: gpl-3.0, of: dataset, by: Kim Jiwon, date: "2026-11-02", reason: the authors wrote that they allow it}]'
)


def ask_for(checkout: Checkout, **values: str) -> None:
    """Set keys of register: in the checkout's recipe."""
    path = checkout.root / "params.yaml"
    lines = path.read_text(encoding="utf-8").splitlines()
    for key, value in values.items():
        (n,) = [n for n, line in enumerate(lines) if line.startswith(f"  {key}:")]
        lines[n] = f"  {key}: {value}"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def rows_under(checkout: Checkout, licence: str | None) -> None:
    path = checkout.root / "data/raw/dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"license": licence}), encoding="utf-8")


def decided(root: Path) -> tuple[str, dict, dict[str, str]]:
    """(outcome, the licence finding, tags of the newest merged version) after the stage ran."""
    main(root)
    report = json.loads((root / "reports/register.json").read_text(encoding="utf-8"))
    (found,) = [finding for finding in report["findings"] if finding["name"] == "licence"]
    client = connect(open_store(root))
    kept = [client.get_model_version(half["model"], str(half["number"])).tags for half in report["versions"].values()]
    of_licence = [{key: value for key, value in one.items() if key.startswith("medtune.licence")} for one in kept]
    assert of_licence[0] == of_licence[1]
    return report["decision"], found, kept[1]


def test_gpl_rows_are_rejected_for_commercial_use_until_somebody_answers_for_them(checkout: Checkout) -> None:
    checkout.candidate("a")
    rows_under(checkout, "GPL-3.0")
    ask_for(checkout, intended_use="commercial")
    outcome, found, kept = decided(checkout.root)
    assert (outcome, found["outcome"], found["blocks"]) == ("rejected", "failed", True)
    assert "dataset medtune-sample is gpl-3.0" in found["sentence"]
    assert kept["medtune.licence.merged"] == "gpl-3.0 AND apache-2.0"

    ask_for(checkout, waivers=WAIVER)
    outcome, found, kept = decided(checkout.root)
    assert (outcome, found["outcome"]) == ("approved", "passed")
    assert "waived by Kim Jiwon on 2026-11-02: the authors wrote that they allow it" in found["sentence"]
    assert json.loads(kept["medtune.licence.waivers"])[0]["by"] == "Kim Jiwon"
    assert kept[tags.STATUS] == "approved"


def test_a_licence_that_nobody_knows_is_inconclusive_for_commercial_use_and_fine_for_research(
    checkout: Checkout,
) -> None:
    checkout.candidate("a")
    rows_under(checkout, None)
    outcome, _, kept = decided(checkout.root)
    assert (outcome, kept["medtune.intended_use"]) == ("approved", "research")
    ask_for(checkout, intended_use="commercial")
    outcome, found, _ = decided(checkout.root)
    assert (outcome, found["outcome"]) == ("inconclusive", "undecided")


def test_a_parent_of_the_base_counts_too(checkout: Checkout) -> None:
    checkout.candidate("a")
    path = checkout.root / "data/base.json"
    parents = [{"id": "upstage/SOLAR-10.7B-Instruct-v1.0", "license": "cc-by-nc-4.0"}]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"parents": parents}), encoding="utf-8")
    ask_for(checkout, intended_use="commercial")
    outcome, found, kept = decided(checkout.root)
    assert outcome == "rejected"
    assert "parent upstage/SOLAR-10.7B-Instruct-v1.0 is cc-by-nc-4.0" in found["sentence"]
    assert json.loads(kept["medtune.licence.parents"]) == {"upstage/SOLAR-10.7B-Instruct-v1.0": "cc-by-nc-4.0"}


def test_a_candidate_that_goes_on_from_a_version_inherits_what_that_one_carries(checkout: Checkout) -> None:
    checkout.candidate("a")
    rows_under(checkout, "cc-by-nc-4.0")
    assert decided(checkout.root)[0] == "approved"
    checkout.candidate("b", nll=0.5)
    path = checkout.root / "params.yaml"
    text = path.read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("  init: base")]
    path.write_text(text.replace(line, "  init: 1"), encoding="utf-8")
    ask_for(checkout, intended_use="commercial")
    outcome, found, _ = decided(checkout.root)
    assert outcome == "rejected"
    assert "parent medgpt-ko-adapter/1 is cc-by-nc-4.0" in found["sentence"]
