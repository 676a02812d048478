"""compose.yaml: the specification's schema, and everything that one line says of another. test_stack.py starts it."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "compose.yaml").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name for name, service in SERVICES.items() if service["image"].startswith("medtune:")}
ONCE = {"prepare", "deploy"}


def environment(service: str) -> dict[str, str]:
    return SERVICES[service].get("environment", {})


def test_the_specification_takes_it() -> None:
    import jsonschema

    schema = json.loads((ROOT / "tests/schemas/compose-spec.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(COMPOSE)] == []
    wrong = json.loads(json.dumps(COMPOSE)) | {"services": {"a": {"image": "b", "helthcheck": {}}}}
    assert list(validator.iter_errors(wrong))


def test_ports_are_on_the_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"minio", "mlflow", "prefect"}
    assert [port for ports in published.values() for port in ports if not port.startswith("127.0.0.1:")] == []
    assert not any("network_mode" in service or "privileged" in service for service in SERVICES.values())


def test_images_are_pinned_or_built() -> None:
    built = {s["image"]: s["build"] for s in SERVICES.values() if "build" in s}
    stages = re.findall(r"(?m)^FROM \S+ AS (\S+)", (ROOT / "Dockerfile").read_text())
    for name, service in SERVICES.items():
        if name in OURS:
            assert built[service["image"]]["target"] in stages
            assert service["pull_policy"] == ("build" if "build" in service else "never")
        else:
            assert re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", service["image"]), name


def test_secrets_are_files_that_the_script_makes(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    subprocess.run(["bash", ROOT / "docker/secrets.sh", folder], check=True, capture_output=True)
    made = {path.name for path in folder.iterdir()}
    assert COMPOSE["secrets"] == {name: {"file": f"docker/secrets/{name}"} for name in made}
    used = {name for service in SERVICES.values() for name in service.get("secrets", [])}
    assert used == made
    for name, service in SERVICES.items():
        named = {value for key, value in environment(name).items() if key.endswith("_FILE")}
        assert named == {f"/run/secrets/{secret}" for secret in service.get("secrets", [])}, name


@pytest.mark.parametrize("service", SERVICES)
def test_no_value_of_the_environment_is_a_secret(service: str) -> None:
    from medtune.tracking.secrets import SECRETS

    plain = {name for name in environment(service) if not name.endswith("_FILE")}
    assert plain & {*SECRETS, "POSTGRES_PASSWORD", "MINIO_ROOT_PASSWORD"} == set()
    assert [v for v in environment(service).values() if re.search(r"://[^/@]*:[^/@]+@", str(v))] == []


def test_names_resolve() -> None:
    told = "\n".join(line.partition("#")[0] for line in TEXT.splitlines() if "image: " not in line)
    hosts = set(re.findall(r"(?:://|@)([a-z0-9.]+):\d+", told))
    assert hosts <= {*SERVICES, "127.0.0.1"}
    for name, service in SERVICES.items():
        assert set(service.get("depends_on", {})) <= set(SERVICES), name
        for other, how in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if other in ONCE else "service_healthy"
            assert how["condition"] == wanted, (name, other)
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source == "." or source in COMPOSE["volumes"], (name, volume)
        for config in service.get("configs", []):
            assert (ROOT / COMPOSE["configs"][config["source"]]["file"]).is_file()
    assert set(COMPOSE["volumes"]) == {v.split(":")[0] for s in SERVICES.values() for v in s.get("volumes", [])} - {"."}


def test_whoever_waits_for_a_port_names_the_port_it_listens_on() -> None:
    for name, port in (("mlflow", 5000), ("prefect", 4200)):
        command = SERVICES[name]["command"]
        assert command[command.index("--port") + 1] == str(port)
        assert SERVICES[name]["ports"] == [f"127.0.0.1:{port}:{port}"]
        assert f"127.0.0.1:{port}/" in SERVICES[name]["healthcheck"]["test"][-1]
    auth = (ROOT / "docker/mlflow-auth.ini").read_text()
    assert "mlflow@postgres:5432/mlflow_auth" in auth
    assert f"{SERVICES['mlflow']['configs'][0]['target']}" == environment("mlflow")["MLFLOW_AUTH_CONFIG_PATH"]


def test_databases_and_buckets_are_those_that_are_made() -> None:
    made = (ROOT / "docker/prepare.py").read_text()
    text = TEXT + (ROOT / "docker/mlflow-auth.ini").read_text()
    for role, database in re.findall(r"postgresql\+\w+://(\w+)@postgres:5432/(\w+)", text):
        table = re.search(rf'"{role}": \(([^)]*)\)', made)
        assert table, role
        assert f'"{database}"' in table[1]
    buckets = environment("prepare")["MEDTUNE_BUCKETS"].split()
    assert environment("mlflow")["MLFLOW_ARTIFACTS_DESTINATION"] == f"s3://{buckets[0]}"
    assert "s3://medtune-dvc" in (ROOT / "docs/dvc-remote.md").read_text()
    assert "medtune-dvc" in buckets


def test_each_service_is_watched_ended_and_held() -> None:
    for name, service in SERVICES.items():
        assert service["restart"] == ("on-failure:5" if name in ONCE else "unless-stopped"), name
        assert service["logging"]["options"] == {"max-size": "20m", "max-file": "5"}
        assert service["security_opt"] == ["no-new-privileges:true"]
        if name not in ONCE:
            assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
            assert service["deploy"]["resources"]["limits"]["memory"], name
    for name in OURS:
        assert SERVICES[name]["user"].startswith("${MEDTUNE_UID:?")
        assert SERVICES[name]["cap_drop"] == ["ALL"]


def test_one_of_the_two_workers_runs_and_one_has_the_gpus() -> None:
    assert (SERVICES["worker"]["profiles"], SERVICES["trainer"]["profiles"]) == (["cpu"], ["gpu"])
    assert SERVICES["worker"]["command"] == SERVICES["trainer"]["command"]
    (device,) = SERVICES["trainer"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert "reservations" not in SERVICES["worker"]["deploy"]["resources"]
    pools = {item["work_pool"]["name"] for item in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}
    command = SERVICES["worker"]["command"]
    assert pools == {command[command.index("--pool") + 1]}


def test_the_worker_sees_its_own_secrets_alone() -> None:
    """The checkout is mounted, and docker/secrets lies in it."""
    for name in ("worker", "trainer", "deploy"):
        assert "postgres_password" not in SERVICES[name]["secrets"]
        target = SERVICES[name]["volumes"][0].partition(":")[2]
        assert SERVICES[name]["tmpfs"] == [f"{target}/docker/secrets"]
