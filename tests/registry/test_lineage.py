"""`medtune lineage`: the chain as text, as a SLSA provenance statement, and rows looked up in it."""

import json
import shutil
from datetime import UTC, datetime
from typing import Any

import pytest
from registry.told_ledger import MODEL, digest, life, registered, version_of
from registry_checkout import Checkout

from medtune.params.errors import RegistryError
from medtune.registry.ledger import open_ledger, read_ledger
from medtune.registry.lineage import find_row, lineage, render, render_row, training_rows
from medtune.registry.manifest import manifest_digest
from medtune.registry.provenance import statement
from medtune.registry.version_record import read_record
from medtune.registry.versions import version_path
from medtune.tracking.store import connect, open_store

# What the specifications require, by path; "*" is every item of an array.
# https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md and https://slsa.dev/spec/v1.0/provenance
REQUIRED = {
    "_type": str,
    "subject": list,
    "subject.*.digest": dict,
    "predicateType": str,
    "predicate": dict,
    "predicate.buildDefinition": dict,
    "predicate.buildDefinition.buildType": str,
    "predicate.buildDefinition.externalParameters": dict,
    "predicate.runDetails": dict,
    "predicate.runDetails.builder": dict,
    "predicate.runDetails.builder.id": str,
}


def at(tree: Any, path: str) -> list[Any]:
    """Every value at a dotted path; KeyError where one is missing."""
    found = [tree]
    for part in path.split("."):
        found = [item for one in found for item in one] if part == "*" else [one[part] for one in found]
    return found


def with_rows(checkout: Checkout, name: str, **sidecar: Any) -> str:
    """A version in the ledger with a folder of its own, as `keep_version` leaves one."""
    from medtune.registry.manifest import write_manifest

    version = version_of(name)
    folder = version_path(checkout.root, version)
    for part, source in (("adapter", checkout.tiny_adapter), ("merged", checkout.tiny_base)):
        shutil.copytree(source, folder / part)
        record = {
            "candidate": digest(name),
            "base": {"source": "hub", "id": "nlpai-lab/KULLM3", "revision": "a" * 40, "quantization": "nf4"},
            "identity": {"tokens": digest("tokens"), "code": digest("code")},
            "recipe": {
                "lora": {"r": 8, "alpha": 16, "targets": ["q_proj", "v_proj"]},
                "train": {"learning_rate": 2e-4},
            },
            "template": "chat",
            "system": None,
            "max_length": 512,
            **({"merge": {"into": "dequantised", "dtype": "bfloat16"}} if part == "merged" else {}),
            **sidecar,
        }
        (folder / part / "medtune.json").write_text(json.dumps(record))
    splits = {"train": [digest(f"row {n}") for n in range(5)], "validation": [], "test": [digest("row t")]}
    (folder / "rows.json").write_text(
        json.dumps({"data": digest("data"), "tokens": digest("tokens"), "splits": splits})
    )
    write_manifest(folder, version, digest("content"))
    return version


@pytest.fixture
def told(checkout: Checkout) -> tuple[Checkout, str]:
    """Version 4 goes on from version 1; the ledger knows its manifest."""
    ledger, _ = life(checkout.root)
    version = with_rows(checkout, "d")
    folder = version_path(checkout.root, version)
    rows = next(item["sha256"] for item in json.loads((folder / "manifest.json").read_text())["files"]
                if item["path"] == "rows.json")  # fmt: skip
    registered(ledger, "d", 4, manifest=manifest_digest(folder), rows=rows, parent=version_of("a"))
    return checkout, version


def test_the_chain_as_text(told: tuple[Checkout, str]) -> None:
    checkout, version = told
    text = render(lineage(checkout.root, read_ledger(checkout.root), MODEL, "4"))
    order = [
        text.index(f"o {name}") for name in ("rows", "data", "tokens", "adapter", "merged", "decision", "champion")
    ]
    assert order == sorted(order)
    for part in (
        "medtune-sample at v1, licence CC0-1.0",
        f"version {digest('data')[:12]}: train 5, validation 0, test 1 rows",
        f"{digest('tokens')[:12]}, template chat, at most 512 tokens",
        f"candidate {digest('d')[:12]}, medgpt-ko-adapter version 14",
        "base tiny at 1, licence Apache-2.0",
        "goes on from version 1",
        "code of commit 555555555555",
        "lora: r 8, alpha 16, targets q_proj,v_proj",
        "train: learning_rate 0.0002",
        "adapter/adapter_model.safetensors",
        f"version {version[:12]}, into the dequantised base, kept as bfloat16",
        "none: it was never judged",
        "never",
        "cannot be told: the MLflow run",  # this ledger's run is in no MLflow
    ):
        assert part in text, part


def test_override_and_decisions_are_told(checkout: Checkout) -> None:
    ledger, _ = life(checkout.root)
    told = lineage(checkout.root, ledger, MODEL, "2")
    text = render(told)
    assert text.startswith(f"medgpt-ko version 2 ({version_of('b')[:12]})  OVERRIDE\n")
    assert "rejected by the gate" in text
    assert "promoted OVERRIDE by Kim" in text
    assert "NO  not_worse: -0.0123 [-0.02, -0.004], worse by less than 0.02" in text
    assert "its recipe and its rows" in text  # there is no folder of it: what is left is the ledger
    assert "RETRACTED since: 1 of its rows" in render(lineage(checkout.root, ledger, MODEL, "1"))


def test_the_statement_has_what_the_specifications_require(told: tuple[Checkout, str]) -> None:
    checkout, version = told
    made = statement(lineage(checkout.root, read_ledger(checkout.root), MODEL, version[:8]))
    for path, kind in REQUIRED.items():
        values = at(made, path)
        assert values, path
        assert all(isinstance(value, kind) and value for value in values), path
    assert made["_type"] == "https://in-toto.io/Statement/v1"
    assert made["predicateType"] == "https://slsa.dev/provenance/v1"
    definition, details = made["predicate"]["buildDefinition"], made["predicate"]["runDetails"]
    described = made["subject"] + definition["resolvedDependencies"] + details["byproducts"]
    for item in described:  # a ResourceDescriptor has an address, a digest or its content
        assert item.keys() & {"uri", "digest", "content"}, item
        for value in item.get("digest", {}).values():
            assert set(value) <= set("0123456789abcdef"), item

    files = json.loads((version_path(checkout.root, version) / "manifest.json").read_text())["files"]
    told_files = {item["path"]: item["sha256"] for item in files if item["path"] != "rows.json"}
    assert {item["name"]: item["digest"]["sha256"] for item in made["subject"]} == told_files
    needed = {item["name"]: item for item in definition["resolvedDependencies"]}
    assert needed["base"]["digest"]["medtuneBase"] == digest("base")
    assert needed["source"]["digest"] == {"gitCommit": "5" * 40}
    assert needed["parent"]["digest"] == {"medtuneVersion": version_of("a")}
    assert needed["data/valid/rows.jsonl"]["digest"] == {"sha256": digest("data")}
    assert needed["data/tokens"]["digest"] == {"medtuneTokens": digest("tokens")}
    assert needed["dataset"]["annotations"]["license"] == "CC0-1.0"
    assert definition["externalParameters"]["recipe"]["lora"]["r"] == 8
    assert details["metadata"] == {"invocationId": f"{4:032x}"}  # times are MLflow's, and it has no such run
    assert {"rows.json", "manifest.json", "reports/evaluate.json"} <= {item["name"] for item in details["byproducts"]}


def test_in_totos_own_types_read_it(told: tuple[Checkout, str]) -> None:
    """The package of the in-toto project, which model-signing brings: an unknown or ill-typed field is an error."""
    json_format = pytest.importorskip("google.protobuf.json_format")
    from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
    from in_toto_attestation.v1.statement import Statement

    checkout, version = told
    ledger = open_ledger(checkout.root)
    made = statement(lineage(checkout.root, ledger, MODEL, version))
    parsed = json_format.ParseDict(made, statement_pb2.Statement())
    Statement.copy_from_pb(parsed).validate()
    provenance = json_format.ParseDict(made["predicate"], Provenance())
    for item in (*provenance.build_definition.resolved_dependencies, *provenance.run_details.byproducts):
        ResourceDescriptor.copy_from_pb(item).validate()
    assert provenance.run_details.builder.id == "urn:medtune:builder:local"
    again = json_format.MessageToDict(provenance)
    assert (
        again["buildDefinition"]["resolvedDependencies"] == made["predicate"]["buildDefinition"]["resolvedDependencies"]
    )


def test_without_its_files_there_is_no_statement(told: tuple[Checkout, str]) -> None:
    checkout, version = told
    ledger = read_ledger(checkout.root)
    manifest = version_path(checkout.root, version) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"bytes": ', '"bytes": 1', 1))
    with pytest.raises(RegistryError, match=r"cannot be named.*manifest.json is not the one that was registered"):
        statement(lineage(checkout.root, ledger, MODEL, version))
    shutil.rmtree(manifest.parent)
    with pytest.raises(RegistryError, match=r"cannot be named.*is missing"):
        statement(lineage(checkout.root, ledger, MODEL, version))
    assert "cannot be told" in render(lineage(checkout.root, ledger, MODEL, version))


def test_rows_are_listed_and_looked_up(told: tuple[Checkout, str]) -> None:
    checkout, version = told
    ledger = read_ledger(checkout.root)
    assert training_rows(checkout.root, ledger, MODEL, "4") == [digest(f"row {n}") for n in range(5)]
    found = find_row(checkout.root, ledger, MODEL, "4", digest("row 2")[:9].upper())
    assert (found["split"], found["row"], found["retracted"]) == ("train", digest("row 2"), False)
    assert render_row(found) == f"row {digest('row 2')[:12]} is in the train split of version 4 ({version[:12]})"
    assert find_row(checkout.root, ledger, MODEL, "4", digest("row t"))["split"] == "test"
    assert "is not in" in render_row(find_row(checkout.root, ledger, MODEL, "4", digest("another")))
    with pytest.raises(RegistryError, match="'abc' is no row id"):
        find_row(checkout.root, ledger, MODEL, "4", "abc")
    with pytest.raises(RegistryError, match=r"version 1 .* has no rows\.json"):  # registered before it was kept
        training_rows(checkout.root, ledger, MODEL, "1")
    rows = version_path(checkout.root, version) / "rows.json"
    rows.write_text(rows.read_text().replace(digest("row 2"), digest("row x")))
    with pytest.raises(RegistryError, match="not the file that was registered"):
        find_row(checkout.root, ledger, MODEL, "4", digest("row 2"))


def test_of_a_real_registration(crowned: Checkout) -> None:
    (version,) = crowned.versions
    ledger = read_ledger(crowned.root)
    told = lineage(crowned.root, ledger, MODEL, "1")
    assert json.loads(json.dumps(told, default=str))["version"] == version
    assert told["unknown"] == []
    # what is read from MLflow's tables is what its own client says
    run = connect(open_store(crowned.root)).get_run(told["run"]["run_id"])
    assert told["run"]["params"] == run.data.params
    assert told["run"]["status"] == run.info.status == "FINISHED"
    started = datetime.fromisoformat(told["run"]["started"])
    assert started == datetime.fromtimestamp(run.info.start_time / 1000, UTC)
    made = statement(told)
    assert made["predicate"]["runDetails"]["metadata"]["invocationId"] == run.info.run_id
    assert made["predicate"]["runDetails"]["metadata"]["finishedOn"].endswith("Z")
    record = read_record(crowned.root, _standing(ledger))
    assert record.run.artifact("reports/evaluate.json") == (crowned.root / "reports/evaluate.json").read_bytes()
    assert record.run.artifact("reports/none.json") is None
    # a checkout that moved has its runs where it lies now
    moved = crowned.root.with_name("moved")
    crowned.root.rename(moved)
    assert read_record(moved, _standing(read_ledger(moved))).run.artifact("params.yaml") is not None


def test_files_that_were_sent_away_are_read_where_they_lie(crowned: Checkout) -> None:
    """A version whose files are in its run's artifacts, as registry/remote.py names them there."""
    from medtune.registry import remote

    (version,) = crowned.versions
    ledger = read_ledger(crowned.root)
    here = lineage(crowned.root, ledger, MODEL, "1")
    run = read_record(crowned.root, _standing(ledger)).run
    target = run.place / remote.FOLDER / version / here["manifest"][:16]
    target.parent.mkdir(parents=True)
    version_path(crowned.root, version).rename(target)
    there = lineage(crowned.root, ledger, MODEL, "1")
    assert statement(there) == statement(here)
    assert (there["unknown"], there["data"]["path"]) == ([], None)
    row = json.loads((target / "rows.json").read_text())["splits"]["test"][0]
    assert find_row(crowned.root, ledger, MODEL, "1", row)["split"] == "test"


def test_a_store_that_does_not_answer_is_named(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, _ = life(checkout.root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody listens there
    told = lineage(checkout.root, ledger, MODEL, "3")
    assert any("does not answer" in sentence for sentence in told["unknown"])
    assert told["run"] == {"run_id": f"{3:032x}"}
    assert "approved by the gate" in render(told)


def test_the_commands(told: tuple[Checkout, str], monkeypatch: pytest.MonkeyPatch) -> None:
    import typer
    from typer.testing import CliRunner

    from medtune.commands import history as commands

    app = typer.Typer()
    for command in (commands.history, commands.lineage, commands.compare):
        app.command()(command)
    monkeypatch.chdir(told[0].root)

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, arguments)

    assert len(json.loads(run("history", "--limit", "3", "--json").stdout)) == 3
    assert "there was no champion" in run("history", "--at", "2020-01-01").stdout
    assert "leave --version and --limit out" in str(run("history", "--at", "2020-01-01", "--limit", "1").exception)
    assert json.loads(run("lineage", "4", "--json").stdout)["_type"] == "https://in-toto.io/Statement/v1"
    assert run("lineage", "4", "--rows").stdout.split() == [digest(f"row {n}") for n in range(5)]
    assert "is in the test split" in run("lineage", "4", "--row", digest("row t")).stdout
    page = told[0].root / "page.html"
    done = run("compare", "1", "4", "--html", str(page))
    assert "every answer side by side" in done.stdout, done
    assert page.read_text().rstrip().endswith("</html>")
    assert json.loads(run("compare", "1", "4", "--json").stdout)["b"]["number"] == 4


def _standing(ledger: Any) -> Any:
    from medtune.registry.standing import resolve

    return resolve(ledger, MODEL, "1")
