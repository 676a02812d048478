"""k8s/job-template.json: a job that Kubernetes takes, made by Prefect's own templating."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = json.loads((ROOT / "k8s/job-template.json").read_text(encoding="utf-8"))
VARIABLES = TEMPLATE["variables"]["properties"]
IMAGE = f"registry.example/medtune@sha256:{'0' * 64}"


def rendered(**given: Any) -> dict[str, Any]:
    """The manifest as the worker fills it in, with what the worker adds by itself where nobody gave it."""
    from prefect.utilities.templating import apply_values

    values = {name: item["default"] for name, item in VARIABLES.items() if item.get("default") is not None}
    values |= {"image": IMAGE, "name": "weekly", "command": ["prefect", "flow-run", "execute"], **given}
    return apply_values(TEMPLATE["job_configuration"]["job_manifest"], values)


def pod(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["spec"]["template"]["spec"]


def test_every_placeholder_is_a_variable_and_every_variable_is_used() -> None:
    text = json.dumps(TEMPLATE["job_configuration"])
    assert set(re.findall(r"\{\{ (\w+) \}\}", text)) == set(VARIABLES)
    assert TEMPLATE["variables"]["required"] == ["image"]
    assert [name for name, item in VARIABLES.items() if not item.get("description")] == []


@pytest.mark.parametrize("given", [{}, {"gpus": 8, "cpu_limit": "64", "service_account_name": "trainer"}])
def test_kubernetes_takes_the_job(given: dict[str, Any]) -> None:
    import kubernetes_validate

    manifest = rendered(**given)
    assert "{{" not in json.dumps(manifest)
    # Prefect's worker refuses a template without these two where they do nothing; Kubernetes lets them lie there
    assert [pod(manifest).pop(name) for name in ("parallelism", "completions")] == [1, 1]
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_a_wrong_job_would_be_seen() -> None:
    import kubernetes_validate

    manifest = rendered(shm_size=["8Gi"])
    for name in ("parallelism", "completions"):
        pod(manifest).pop(name)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_the_job_has_its_gpus_its_memory_and_no_root() -> None:
    spec = pod(rendered(gpus=2))
    (container,) = spec["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert container["resources"]["requests"]["nvidia.com/gpu"] == 2
    assert container["resources"]["limits"]["memory"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["runAsUser"] == 1000
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert not spec["automountServiceAccountToken"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}
    assert {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]} == {
        "work": "/home/medtune/work",
        "shm": "/dev/shm",
    }
    assert "command" not in container  # else the image's entrypoint, tini, would be passed over


def test_only_what_trains_asks_for_a_gpu() -> None:
    from flows.deploy import small
    from flows.deployments import read_deployments

    given = {item.full_name: small(item, TEMPLATE) for item in read_deployments(ROOT)}
    asked = {name: pod(rendered(**more))["containers"][0]["resources"] for name, more in given.items()}
    gpus = {name: resources["requests"]["nvidia.com/gpu"] for name, resources in asked.items()}
    assert gpus == {
        "medtune-retrain/weekly": 1,
        "medtune-retrain/on-new-data": 1,
        "medtune-pipeline/by-hand": 1,
        "medtune-watch/every-minute": 0,
        "medtune-doctor/nightly": 0,
        "medtune-approve/by-hand": 0,
    }
    assert asked["medtune-watch/every-minute"]["limits"]["memory"] == "4Gi"
    assert given["medtune-retrain/weekly"] == {}  # nothing over what the pool says: eight GPUs there are eight
    assert {name for more in given.values() for name in more} <= set(VARIABLES)
    watch = next(item for item in read_deployments(ROOT) if item.flow == "medtune-watch")
    assert watch.runner(None, served=False, folder=None, more=small(watch, TEMPLATE)).job_variables["gpus"] == 0
    assert small(watch, {"variables": {"properties": {"command": {}}}}) == {}  # a process pool has no such variables


def test_secrets_come_by_reference_and_the_names_are_those_of_compose() -> None:
    import yaml

    from medtune.tracking.secrets import SECRETS

    (container,) = pod(rendered())["containers"]
    secret = {item["name"] for item in container["env"] if "valueFrom" in item}
    plain = {item["name"] for item in container["env"] if "value" in item}
    assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "PGPASSWORD"} <= secret
    assert plain & set(SECRETS) == set()
    assert {item["valueFrom"]["secretKeyRef"]["name"] for item in container["env"] if "valueFrom" in item} == {
        "medtune"
    }
    client = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["x-client"]
    told = {name.removesuffix("_FILE") for name in client}
    # Prefect's own come from the worker, which hands on what it was told; the address for browsers is each cluster's
    others = {"PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_UI_URL", "MEDTUNE_MLFLOW_URL"}
    assert told - (plain | secret) == others
