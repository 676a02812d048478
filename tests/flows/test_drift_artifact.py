"""The drift report as an artifact of a real Prefect server."""

from pathlib import Path

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from flows.drift_artifact import key, publish
from medtune.params.recipe import load_recipe
from tests.evaluation.card_fixture import drifted

ROOT = Path(__file__).resolve().parents[2]


def test_the_report_is_read_on_prefects_pages(prefect_server: str) -> None:
    recipe, report = load_recipe(ROOT / "params.yaml"), drifted()

    @flow
    def tell() -> str:
        publish(ROOT, recipe, report)
        return publish(ROOT, recipe, report)  # again in a second run: the key's newest, no second key

    assert tell() == "medtune-drift-medgpt-ko"
    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=["medtune-drift-medgpt-ko"]))
        (text, *older) = sorted(client.read_artifacts(artifact_filter=wanted), key=lambda one: one.created)[::-1]
        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=["medtune-drift-figures-medgpt-ko"]))
        table = client.read_artifacts(artifact_filter=wanted)[0]
    assert len(older) == 1
    assert text.type == "markdown"
    assert text.description == report["sentence"]
    assert "이비인후과" in text.data
    assert "█" in text.data
    assert text.flow_run_id is not None
    assert table.type == "table"
    assert "answers are longer" in table.data


def test_a_key_is_what_prefect_takes() -> None:
    assert key("My_Model.7B") == "medtune-drift-my-model-7b"
