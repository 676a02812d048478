"""A version goes from one registry to another, whole, once, and never by retraining."""

import json
import shutil
from pathlib import Path

import pytest
from registry.publication import ADAPTER, MODEL, files, registered, run_of, send, told
from registry_checkout import ROOT, Checkout

from medtune.corpus.retracted import RETRACTED, RetractedRow, add_retracted
from medtune.params.errors import RegistryError
from medtune.params.recipe import load_recipe
from medtune.registry import tags
from medtune.registry.champion import champion_dir, verified
from medtune.registry.doctor import doctor
from medtune.registry.ledger import open_ledger
from medtune.registry.lineage import lineage, render
from medtune.registry.promotion import project, promote, reject, retire
from medtune.registry.publish_bundle import read_bundle
from medtune.registry.publish_export import export_version
from medtune.registry.publish_import import import_bundle
from medtune.registry.retracted_rows import record
from medtune.registry.standing import champion, standings
from medtune.tracking.store import connect, open_store


@pytest.fixture(scope="module")
def dev(tmp_path_factory, tiny_base: Path, tiny_adapter: Path, fresh_store: Path) -> Checkout:
    """A registry with one version; no test writes to it."""
    root = tmp_path_factory.mktemp("publish") / "dev"
    (root / "mlruns").mkdir(parents=True)
    shutil.copy(ROOT / "params.yaml", root)
    shutil.copy(fresh_store, root / "mlruns/mlflow.db")
    checkout = Checkout(root, tiny_adapter, tiny_base)
    registered(checkout)
    return checkout


@pytest.fixture(scope="module")
def bundle(dev: Checkout) -> Path:
    return export_version(dev.root, "dev", "1", dev.root.parent / "bundle", "hanna", "rehearsed")


@pytest.fixture
def prod(make_checkout) -> Checkout:
    return make_checkout("prod")


def test_a_version_arrives_whole(make_crowned, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dev, prod = make_crowned("dev"), make_crowned("prod")
    version = registered(dev, "new", nll=1.8)  # number 2 there
    registered(prod, "own", nll=1.9)
    capsys.readouterr()
    standing = send(dev.root, prod.root, tmp_path / "bundle", "2")
    said = capsys.readouterr().out
    assert (standing.version, standing.number, standing.adapter_number) == (version, 3, 3)
    assert "version 2 of dev is version 3 of prod" in said
    assert files(prod.root, version) == files(dev.root, version)

    ours, theirs = (standings(open_ledger(checkout.root), MODEL)[version] for checkout in (prod, dev))
    for key in ("candidate", "manifest", "content", "data", "tokens", "base", "dataset", "rows", "evaluation", "test"):
        assert ours.registered.body[key] == theirs.registered.body[key], key
    origin = ours.registered.body["published"]
    assert (origin["from"], origin["number"], origin["by"], origin["reason"]) == ("dev", 2, "hanna", "rehearsed")
    assert origin["registered"]["digest"] == theirs.registered.digest
    assert origin["decided"]["digest"] == theirs.decision.digest
    assert ours.decision.event == "approved"
    assert ours.decision.body["findings"] == theirs.decision.body["findings"]
    # who it was judged against is told as it was, not as if it had been compared with this registry's champion
    assert ours.decision.body["against"] == theirs.decision.body["against"]
    assert ours.decision.body["published"] == origin

    there, here = theirs.registered.body["run_id"], ours.registered.body["run_id"]
    assert run_of(prod.root, here) == run_of(dev.root, there)
    client, source = connect(open_store(prod.root)), connect(open_store(dev.root))
    assert client.get_run(here).data.tags["medtune.published_run"] == there
    for name in (MODEL, ADAPTER):
        page, original = client.get_model_version(name, "3"), source.get_model_version(name, "2")
        assert page.tags[tags.VERSION] == version
        assert "where it is version 2" in page.description
        assert there not in page.description
        gone = {tags.DECIDED_AT, tags.JUDGED, tags.COUNTERPART, "medtune.published_from", "medtune.published_number"}
        kept = {key: value for key, value in page.tags.items() if key not in gone}
        assert kept == {key: value for key, value in original.tags.items() if key not in gone}
        assert int(client.get_registered_model(name).aliases["challenger"]) == 3
        assert int(client.get_registered_model(name).aliases["champion"]) != 3
    assert open_ledger(prod.root).verify() > 0
    report = doctor(prod.root, load_recipe(prod.root / "params.yaml"), deep=True)
    codes = {item.code for item in (*report.left, *(found for found, _ in report.repaired))}
    assert not codes & {"files_damaged", "half_registered", "alias_drift", "unregistered_folder", "leftover"}, codes
    assert "approved" in render(lineage(prod.root, open_ledger(prod.root), MODEL, "3"))
    # a person's word makes it champion, and it loads
    recipe, ledger = load_recipe(prod.root / "params.yaml"), open_ledger(prod.root)
    promote(ledger, MODEL, "3", "hanna", "compared", check=lambda item: verified(prod.root, item))
    project(prod.root, ledger, MODEL, ADAPTER)
    assert champion_dir(prod.root, recipe).parent.name == version


def test_twice_is_once(dev, prod, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import_bundle(prod.root, "prod", bundle)
    before = told(prod.root)
    export_version(dev.root, "dev", "1", bundle, "hanna", "rehearsed")
    assert "already" in capsys.readouterr().out
    export_version(dev.root, "dev", "1", tmp_path / "two", "somebody", "once more")
    import_bundle(prod.root, "prod", tmp_path / "two")
    assert "is there already: version 1 of dev is version 1 of prod" in capsys.readouterr().out
    assert told(prod.root) == before
    client = connect(open_store(prod.root))
    assert len(client.search_model_versions(f"name='{MODEL}'")) == 1
    assert len(client.search_runs([client.get_experiment_by_name("medtune").experiment_id])) == 1


def test_from_dev_by_way_of_staging(dev, prod, make_checkout, bundle: Path, tmp_path: Path) -> None:
    staging = make_checkout("staging")
    version = import_bundle(staging.root, "staging", bundle).version
    export_version(staging.root, "staging", "1", tmp_path / "two", "mina", "rehearsed twice")
    import_bundle(prod.root, "prod", tmp_path / "two")
    origin = standings(open_ledger(prod.root), MODEL)[version].registered.body["published"]
    assert (origin["from"], origin["before"]["from"], origin["before"]["before"]) == ("staging", "dev", None)
    assert files(prod.root, version) == files(dev.root, version)
    page = connect(open_store(prod.root)).get_model_version(MODEL, "1").description
    assert "**Published** from staging" in page
    assert "It was judged in dev" in page


def test_what_may_not_be_used_is_not_published(make_crowned, tmp_path: Path) -> None:
    dev = make_crowned("dev")
    registered(dev, "worse", nll=2.5)
    registered(dev, "b", nll=1.7)
    registered(dev, "c", nll=1.5)
    ledger = open_ledger(dev.root)
    reject(ledger, MODEL, "1", "mina", "sounds rude")
    retire(ledger, MODEL, "3", "mina", "too old")
    for number, why in (("1", "judged rejected"), ("2", "was judged"), ("3", "retired by mina")):
        with pytest.raises(RegistryError, match=why):
            export_version(dev.root, "dev", number, tmp_path / "bundle", "hanna", "r")
    known = standings(ledger, MODEL)
    row = json.loads((dev.root / "data/valid/rows.jsonl").read_text().splitlines()[0])["row_id"]
    touched = [
        __import__("medtune.registry.retracted_rows", fromlist=["Touched"]).Touched(list(known.values())[3], ("test",))
    ]
    record(ledger, MODEL, row, "consent", "mina", touched, [], [])
    with pytest.raises(RegistryError, match="retracted since"):
        export_version(dev.root, "dev", "4", tmp_path / "bundle", "hanna", "r")
    with pytest.raises(RegistryError, match="no version '9'"):
        export_version(dev.root, "dev", "9", tmp_path / "bundle", "hanna", "r")
    with pytest.raises(RegistryError, match="say who"):
        export_version(dev.root, "dev", "4", tmp_path / "bundle", "hanna", " ")
    assert list(tmp_path.glob("*bundle*")) == []


@pytest.mark.parametrize("where", ["file", "ledger"])
def test_rows_that_the_target_retracted(dev, prod, bundle: Path, where: str) -> None:
    row = json.loads((dev.root / "data/valid/rows.jsonl").read_text().splitlines()[0])["row_id"]
    if where == "file":
        add_retracted(prod.root / RETRACTED, [RetractedRow(row, "consent withdrawn", "mina", "2026-11-23T00:00:00Z")])
    else:
        record(open_ledger(prod.root), MODEL, row, "consent withdrawn", "mina", [], [], [])
    before = told(prod.root)
    with pytest.raises(RegistryError, match=rf"row {row[:12]} of the test split .* \(consent withdrawn\)"):
        import_bundle(prod.root, "prod", bundle)
    assert told(prod.root) == before
    assert not list((prod.root / "mlruns").glob("artifacts/versions/*"))


def test_what_the_target_put_aside_stays_aside(prod, bundle: Path) -> None:
    import_bundle(prod.root, "prod", bundle)
    retire(open_ledger(prod.root), MODEL, "1", "mina", "an incident")
    with pytest.raises(RegistryError, match=r"has this version already, and version 1 .* was retired by mina"):
        import_bundle(prod.root, "prod", bundle)


def test_a_version_of_the_same_name_with_other_bytes(make_crowned, bundle: Path) -> None:
    prod = make_crowned("prod")  # trained in both; MLmodel holds the run's id, so that the bytes differ
    assert prod.versions == [read_bundle(bundle).version]
    with pytest.raises(RegistryError, match="with other files"):
        import_bundle(prod.root, "prod", bundle)
    assert len(told(prod.root, "registered")) == 1


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("version/merged/model.safetensors", "model.safetensors"),
        ("version/manifest.json", "manifest"),
        ("version/rows.json", "rows.json"),
        ("evidence/publish.json", "publish.json"),
        ("evidence/metrics.jsonl", "metrics.jsonl"),
        ("evidence/artifacts/params.yaml", "params.yaml"),
        ("evidence/manifest.json", "manifest"),
    ],
)
def test_a_bundle_that_was_changed_on_the_way(prod, bundle: Path, tmp_path: Path, part: str, said: str) -> None:
    shutil.copytree(bundle, tmp_path / "stick")
    path = tmp_path / "stick" / part
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(RegistryError, match=f"stick.*{said}"):
        import_bundle(prod.root, "prod", tmp_path / "stick")
    assert not (prod.root / "mlruns/artifacts").exists()


def test_a_bundle_with_a_stranger_in_it(prod, bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "stick")
    (tmp_path / "stick/version/merged/more.safetensors").write_bytes(b"\0" * 16)
    with pytest.raises(RegistryError, match="does not belong"):
        import_bundle(prod.root, "prod", tmp_path / "stick")
    with pytest.raises(RegistryError, match="is no bundle of `medtune publish`"):
        import_bundle(prod.root, "prod", tmp_path / "stick/version")


def test_a_signature_travels_and_is_asked_for(make_checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medtune.registry import keys

    dev, prod = make_checkout("dev"), make_checkout("prod")
    monkeypatch.setenv("MEDTUNE_KEYS", str(tmp_path / "hanna"))
    keys.init("hanna")
    version = registered(dev)
    bundle = export_version(dev.root, "dev", "1", tmp_path / "bundle", "hanna", "r")
    monkeypatch.setenv("MEDTUNE_KEYS", str(tmp_path / "mina"))
    keys.init("mina")
    with pytest.raises(RegistryError, match=r"by none that is trusted \(mina\)"):
        import_bundle(prod.root, "prod", bundle)
    shutil.copy(tmp_path / "hanna/hanna.pub", tmp_path / "mina")
    assert read_bundle(bundle).signer == "hanna"
    standing = import_bundle(prod.root, "prod", bundle)
    assert standing.registered.body["published"]["signer"] == "hanna"
    assert standing.registered.body["signed_by"]
    assert files(prod.root, version) == files(dev.root, version)
    assert "manifest.json.sig" in files(prod.root, version)


def test_promotion_only_over_the_champion_that_it_was_judged_against(
    make_crowned, prod, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dev = make_crowned("dev")
    send(dev.root, prod.root, tmp_path / "a", promote=True)  # judged without a champion, and there is none
    ledger = open_ledger(prod.root)
    first = champion(ledger, MODEL)
    assert (first.body["number"], first.body["policy"], first.actor) == (1, "published", "hanna")
    import_bundle(prod.root, "prod", tmp_path / "a", promote=True)
    assert "champion already" in capsys.readouterr().out
    registered(dev, "b", nll=1.8)  # judged against a
    send(dev.root, prod.root, tmp_path / "b", "2", promote=True)
    assert champion(ledger, MODEL).body["number"] == 2
    registered(dev, "c", nll=1.6)  # judged against b, and then prod goes elsewhere
    registered(prod, "d", nll=1.5)
    now = champion(ledger, MODEL)
    assert now.body["number"] == 3
    with pytest.raises(RegistryError) as refused:
        send(dev.root, prod.root, tmp_path / "c", "3", promote=True)
    said = str(refused.value)
    assert "judged in dev against version 2" in said
    assert "the champion here is version 3" in said
    assert "`medtune promote 4 --by NAME --reason TEXT`" in said
    assert champion(ledger, MODEL) == now
    assert standings(ledger, MODEL)[read_bundle(tmp_path / "c").version].number == 4  # registered all the same


def test_manual_policy_of_the_target_stands(prod, bundle: Path) -> None:
    prod.params("promotion: auto", "promotion: manual")
    with pytest.raises(RegistryError, match=r"register\.promotion is manual here: version 1 .* is registered"):
        import_bundle(prod.root, "prod", bundle, promote=True)
    assert champion(open_ledger(prod.root), MODEL) is None


def test_looks_at_the_test_rows_travel(dev, prod, bundle: Path) -> None:
    there = [event.body for event in told(dev.root, "looked")]
    assert there
    import_bundle(prod.root, "prod", bundle)
    import_bundle(prod.root, "prod", bundle)
    here = [event.body for event in told(prod.root, "looked")]
    assert here == [{**body, "published": "dev"} for body in there]


def test_another_name_of_the_model(prod, bundle: Path) -> None:
    prod.params("model: medgpt-ko ", "model: other-ko ")
    with pytest.raises(RegistryError, match=r"register\.model here is other-ko"):
        import_bundle(prod.root, "prod", bundle)


def test_files_that_are_damaged_are_not_sent(make_crowned, tmp_path: Path) -> None:
    dev = make_crowned("dev")
    (version,) = dev.versions
    path = dev.root / f"mlruns/artifacts/versions/{version}/merged/config.json"
    content = path.read_text()
    path.unlink()
    path.write_text(content + " ")
    with pytest.raises(RegistryError, match=r"config\.json"):
        export_version(dev.root, "dev", "1", tmp_path / "bundle", "hanna", "r")
    assert not (tmp_path / "bundle").exists()
