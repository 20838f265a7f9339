"""The files of deploy/ against the schemas of what reads them."""

import copy
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deploy.fill import ROOT, VARIABLE, Unset, fill, pinned
from tests.setup.environments import python_with

DEPLOY = ROOT / "deploy"
KUBERAY = sorted((DEPLOY / "kuberay").glob("*.yaml"))
SCHEMAS = Path(
    os.environ.get("DOGGOS_TEST_KUBERAY", ROOT.parent / "shared" / "kuberay")
)
needs_schemas = pytest.mark.skipif(
    not SCHEMAS.is_dir(), reason=f"KubeRay's schemas are not in {SCHEMAS}"
)
FILES = sorted(f for f in DEPLOY.rglob("*.yaml") if VARIABLE.search(f.read_text()))
ENVIRONMENT = {"STORAGE_CLASS": "efs", "IMAGE": "registry/doggos:1"}


def documents(file: Path) -> list[dict[str, Any]]:
    return [d for d in yaml.safe_load_all(fill(file, ENVIRONMENT)) if d]


def strict(schema: Any) -> Any:
    """Make a Kubernetes schema refuse what it doesn't name, as JSON Schema does."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: strict(part) for name, part in schema.items()}
    if made.pop("x-kubernetes-int-or-string", False):
        return {"type": ["integer", "string"]}
    closed = "properties" in made and "additionalProperties" not in made
    if closed and not made.get("x-kubernetes-preserve-unknown-fields"):
        made["additionalProperties"] = False
    return made


def schema_of(kind: str) -> dict[str, Any]:
    schema = strict(json.loads((SCHEMAS / f"{kind}.v1.openapi.json").read_text()))
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def ray_files() -> list[Any]:
    files = [file for file in KUBERAY if "ray.io/v1" in file.read_text()]
    return [pytest.param(file, id=file.name) for file in files]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}/{f.name}")
def test_a_file_names_what_it_needs(file):
    with pytest.raises(Unset) as caught:
        fill(file, {})
    for name, default, meaning in VARIABLE.findall(file.read_text()):
        if not default and f"# {name}=" not in file.read_text():
            assert f"{name}: {meaning}" in str(caught.value)


@needs_schemas
@pytest.mark.parametrize("file", ray_files())
def test_kuberay_takes_the_file_and_knows_every_field(file):
    [manifest] = documents(file)
    schema = schema_of(manifest["kind"])
    jsonschema.Draft7Validator.check_schema(schema)
    problems = jsonschema.Draft7Validator(schema).iter_errors(manifest)
    assert [f"{'/'.join(map(str, p.path))}: {p.message}" for p in problems] == []


@needs_schemas
def test_a_field_that_kuberay_does_not_know_is_an_error():
    [manifest] = documents(DEPLOY / "kuberay" / "cluster.yaml")
    wrong = copy.deepcopy(manifest)
    wrong["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["volumes"] = []
    problems = list(
        jsonschema.Draft7Validator(schema_of("RayCluster")).iter_errors(wrong)
    )
    assert len(problems) == 1 and "'volumes' was unexpected" in problems[0].message


def test_the_three_clusters_of_kuberay_are_one():
    [cluster] = documents(DEPLOY / "kuberay" / "cluster.yaml")
    [job] = documents(DEPLOY / "kuberay" / "job.yaml")
    [service] = documents(DEPLOY / "kuberay" / "service.yaml")
    assert cluster["spec"] == job["spec"]["rayClusterSpec"]
    assert cluster["spec"] == service["spec"]["rayClusterConfig"]
    assert cluster["spec"]["rayVersion"] == pinned("ray")
    assert cluster["spec"]["authOptions"] == {"mode": "token"}


def test_what_a_kuberay_cluster_grows_to_is_what_its_workers_have():
    [cluster] = documents(DEPLOY / "kuberay" / "cluster.yaml")
    [group] = cluster["spec"]["workerGroupSpecs"]
    [worker] = group["template"]["spec"]["containers"]
    told = {one["name"]: one["value"] for one in worker["env"]}
    has = worker["resources"]["limits"]
    for name, resource in (("CPUS", "cpu"), ("GPUS", "nvidia.com/gpu")):
        most = int(has[resource]) * group["maxReplicas"]
        assert told[f"DOGGOS_GROW_TO_{name}"] == str(most)


def test_every_claim_and_host_of_the_kuberay_files_is_made_by_storage():
    made = {(d["kind"], d["metadata"]["name"]) for d in documents(KUBERAY[-1])}
    assert KUBERAY[-1].name == "storage.yaml"
    text = (DEPLOY / "kuberay" / "cluster.yaml").read_text()
    assert "claimName: doggos-storage" in text and "http://doggos-mlflow:5000" in text
    assert {
        ("PersistentVolumeClaim", "doggos-storage"),
        ("Service", "doggos-mlflow"),
    } <= made


@pytest.mark.long
def test_kubernetes_takes_the_storage_and_knows_every_field(tmp_path):
    python = python_with(DEPLOY / "kuberay" / "requirements.txt")
    check = [python.with_name("kubernetes-validate"), "--strict"]
    file = tmp_path / "storage.yaml"
    file.write_text(fill(DEPLOY / "kuberay" / "storage.yaml", ENVIRONMENT))
    done = subprocess.run([*check, file], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("passed") == 4, done.stdout
    file.write_text(file.read_text().replace("accessModes", "accessMode"))
    done = subprocess.run([*check, file], capture_output=True, text=True)
    assert done.returncode != 0 and "'accessMode' was unexpected" in done.stdout


def known_keys(config: Any, model: type, path: str = "") -> list[str]:
    """List the keys that Ray's schema would drop without a word."""
    unknown = []
    for key, value in config.items():
        if key not in model.model_fields:
            unknown.append(f"{path}{key}")
        elif isinstance(value, dict | list) and key in NESTED:
            for part in value if isinstance(value, list) else [value]:
                unknown += known_keys(part, NESTED[key](), f"{path}{key}.")
    return unknown


def _schema(name: str) -> Any:
    from ray.serve import schema

    return getattr(schema, name)


NESTED = {
    "applications": lambda: _schema("ServeApplicationSchema"),
    "deployments": lambda: _schema("DeploymentSchema"),
    "http_options": lambda: _schema("HTTPOptionsSchema"),
}


def test_ray_serve_takes_the_config_and_knows_every_key():
    config = yaml.safe_load((DEPLOY / "serve.yaml").read_text())
    model = _schema("ServeDeploySchema")
    assert known_keys(config, model) == []
    assert model.model_validate(config).applications[0].name == "doggos"
    misspelt = copy.deepcopy(config)
    misspelt["applications"][0]["import_pat"] = 1
    assert known_keys(misspelt, model) == ["applications.import_pat"]


def test_the_serve_config_of_kuberay_is_the_one_of_deploy():
    [service] = documents(DEPLOY / "kuberay" / "service.yaml")
    ours = yaml.safe_load((DEPLOY / "serve.yaml").read_text())
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == ours
