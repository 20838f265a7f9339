"""Anyscale's files, as the models of the real `anyscale` package read them.

They are in an environment of their own: its pins disagree with ours. That a cloud of
Anyscale's runs them, this can't show.
"""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from deploy.fill import ROOT, pinned
from tests.setup.environments import python_with

DEPLOY = ROOT / "deploy"
FILES = {
    "compute": "compute_config.models.ComputeConfig",
    "workspace": "workspace.models.WorkspaceConfig",
    "job": "job.models.JobConfig",
    "service": "service.models.ServiceConfig",
}
READ = """
import importlib, json, sys
module, _, name = f"anyscale.{sys.argv[1]}".rpartition(".")
try:
    getattr(importlib.import_module(module), name).from_dict(json.loads(sys.argv[2]))
except Exception as error:
    print(error)
"""


@pytest.fixture(scope="session")
def anyscale() -> Path:
    """Return the Python of an environment with what the user's command needs."""
    return python_with(DEPLOY / "anyscale" / "requirements.txt")


def problem(python: Path, model: str, config: dict) -> str:
    """Return what the package says of a config, or nothing."""
    done = subprocess.run(
        [python, "-c", READ, model, json.dumps(config)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.long
@pytest.mark.parametrize("name", FILES)
def test_anyscale_takes_the_file_and_knows_every_key(anyscale, name):
    config = yaml.safe_load((DEPLOY / "anyscale" / f"{name}.yaml").read_text())
    assert problem(anyscale, FILES[name], config) == ""
    wrong = problem(anyscale, FILES[name], config | {"nonsense": 1})
    assert "unexpected keyword argument 'nonsense'" in wrong


@pytest.mark.long
def test_a_worker_group_with_an_unknown_key_is_refused(anyscale):
    config = yaml.safe_load((DEPLOY / "anyscale" / "compute.yaml").read_text())
    config["worker_nodes"][0]["min_node"] = 0
    assert "min_node" in problem(anyscale, FILES["compute"], config)


def test_the_applications_are_those_of_deploy():
    ours = yaml.safe_load((DEPLOY / "serve.yaml").read_text())["applications"]
    theirs = yaml.safe_load((DEPLOY / "anyscale" / "service.yaml").read_text())
    assert theirs["applications"] == ours


def test_job_and_service_share_storage_and_registry():
    job, service = (
        yaml.safe_load((DEPLOY / "anyscale" / f"{name}.yaml").read_text())
        for name in ("job", "service")
    )
    assert job["env_vars"] == service["env_vars"]


def test_the_image_brings_what_requirements_pin():
    text = (DEPLOY / "anyscale" / "Containerfile").read_text()
    [version] = re.findall(r"^FROM anyscale/ray:([\d.]+)-.*py312", text, re.MULTILINE)
    assert version == pinned("ray")
    wanted = (ROOT / "requirements.txt").read_text().splitlines()
    assert re.findall(r'^  "(.+)"', text, re.MULTILINE) == [
        line for line in wanted if line and not line.startswith("#")
    ]
