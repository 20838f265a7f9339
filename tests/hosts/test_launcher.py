"""The Cluster Launcher on hosts that you have, followed from its file to its end."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from deploy.fill import ROOT, Unset, fill
from doggos_helpers.serve import application
from tests.hosts.hosts import needs_hosts
from tests.hosts.launched import TOKEN, WORKERS, Launched, launched, processes

pytestmark = needs_hosts
FILE = ROOT / "deploy" / "launcher" / "onprem.yaml"
JOB_S, SERVE_S, GONE_S = 500, 200, 180


def test_what_is_yours_is_asked_for_by_name():
    with pytest.raises(Unset, match="WORKER_IPS: the workers' addresses"):
        fill(FILE, {"HEAD_IP": "10.0.0.1", "SSH_USER": "me", "STORAGE": "/mnt"})


@pytest.fixture(scope="module")
def cluster(session_folder: Path) -> Iterator[Launched]:
    with launched(session_folder / "launched") as cluster:
        yield cluster


@pytest.mark.long
def test_every_host_joins(cluster):
    """With autoscaler v2, the default of `ray up`, one worker stays out."""
    expected = {cluster.hosts[name].address for name in ("head", *WORKERS)}
    assert set(cluster.nodes()) == expected
    told = cluster.laptop.run("ray exec ~/onprem.yaml 'ray status'", 60, **TOKEN)
    assert "3 local.cluster.node" in told.stdout, told.stdout


@pytest.mark.long
def test_the_token_is_the_laptops_and_readable_by_its_owner_alone(cluster):
    token = (cluster.laptop.home / ".ray" / "auth_token").read_text()
    for name in ("head", *WORKERS):
        there = cluster.hosts[name].home / ".ray" / "auth_token"
        assert there.read_text() == token
        assert there.stat().st_mode & 0o777 == 0o600


@pytest.mark.long
def test_a_client_without_the_token_is_refused(cluster):
    ask = f"ray health-check --address {cluster.head.address}:6379"
    cluster.laptop.run(ask, **TOKEN)
    refused = cluster.laptop.run(ask, check=False, RAY_AUTH_MODE="disabled")
    assert refused.returncode != 0
    assert "token" in refused.stdout + refused.stderr


@pytest.mark.long
def test_the_doctor_finds_three_nodes_on_which_all_is_well(cluster):
    said = cluster.at_head("python -m doggos_helpers.cluster", 200, check=False).stdout
    nodes = [line for line in said.splitlines() if line[8:12] == "node"]
    assert len(nodes) == 3 and "NOT OK" not in said, said


@pytest.mark.long
def test_jobs_embed_train_and_evaluate_on_every_host(cluster):
    """The job is KubeRay's and Anyscale's: embed, train, evaluate."""
    kuberay, anyscale = (
        yaml.safe_load(fill(ROOT / "deploy" / file, {"IMAGE": "any"}))
        for file in ("kuberay/job.yaml", "anyscale/job.yaml")
    )
    assert kuberay["spec"]["entrypoint"] == anyscale["entrypoint"]
    cluster.job(anyscale["entrypoint"], JOB_S)
    runs = {
        path.parent.name: json.loads(path.read_text())
        for path in cluster.hosts.shared.glob("*/*/run.json")
    }
    assert set(runs) == {"embeddings", "training", "evaluation"}
    counts = runs["embeddings"]["counts"]
    assert counts["embedded"] == counts["manifest"] > 0
    addresses = {name.partition("/")[0] for name in runs["embeddings"]["nodes"]}
    assert addresses <= set(cluster.nodes()) and len(addresses) > 1


@pytest.mark.long
@pytest.mark.skipif(not hasattr(application, "build_app"), reason="no build_app yet")
def test_serve_deploy_answers(cluster):
    cluster.at_head("serve deploy ~/doggos/deploy/serve.yaml")
    ask = "curl -fsS http://127.0.0.1:8000/healthz && exit; sleep 2"
    cluster.at_head(
        f"for try in $(seq {SERVE_S // 2}); do {ask}; done; exit 1", SERVE_S
    )
    cluster.at_head("python -m doggos_helpers.loadtest", SERVE_S)
    cluster.at_head("serve shutdown -y")


@pytest.mark.long
def test_ray_dashboard_brings_the_dashboard_to_the_laptop(cluster):
    log = cluster.laptop.home / "dashboard.log"
    forward = cluster.laptop.popen("ray dashboard ~/onprem.yaml", log, **TOKEN)
    try:
        ask = "ray job list --address http://localhost:8265 && exit; sleep 1"
        ask = f"for try in $(seq 30); do {ask}; done; exit 1"
        told = cluster.laptop.run(ask, 90, **TOKEN).stdout
        assert "SUCCEEDED" in told or "No jobs" in told or "[]" in told, told
    finally:
        forward.terminate()
        forward.wait(20)


@pytest.mark.long
def test_ray_down_ends_every_ray_and_nothing_else(cluster):
    """`ray down` stops the head; the workers end when they have lost it."""
    cluster.down()
    assert processes(cluster.head) == ""
    deadline = time.monotonic() + GONE_S
    while left := "".join(processes(cluster.hosts[name]) for name in WORKERS):
        assert time.monotonic() < deadline, left
        time.sleep(2)


def test_with_two_workers_the_file_asks_for_two(tmp_path):
    yours = {"HEAD_IP": "10.0.0.1", "SSH_USER": "me", "STORAGE": "/mnt"}
    filled = yaml.safe_load(fill(FILE, yours | {"WORKER_IPS": "10.0.0.2,10.0.0.3"}))
    assert filled["provider"]["worker_ips"] == ["10.0.0.2", "10.0.0.3"]
