"""The doctor: each fault provoked for real."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from upath import UPath

from doggos_helpers.cluster import alike
from doggos_helpers.cluster.doctor import Finding, examine
from doggos_helpers.settings import Settings
from tests.processes import REFUSABLE, needs_refusal
from tools.local_cluster import free_ports, local_cluster

LOCAL_CHECKS = ["versions", "storage", "data set", "model", "MLflow", "port"]


def closed() -> str:
    return f"127.0.0.1:{free_ports(1)[0]}"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with which nothing is wrong, but that no Ray answers."""
    return Settings(
        address=closed(),
        storage=str(tmp_path / "storage"),
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db",
        port=free_ports(1)[0],
    )


def findings(settings: Settings, **changes: object) -> dict[str, Finding]:
    found = list(examine(settings.model_copy(update=changes)))
    assert all("\n" not in f.text and f.text for f in found)
    return {f.name: f for f in found}


def not_ok(found: dict[str, Finding]) -> list[str]:
    return [f.name for f in found.values() if f.fix]


def test_an_address_where_nothing_listens_is_the_only_fault(settings):
    found = findings(settings)
    assert list(found) == [*LOCAL_CHECKS, "Ray"]
    assert not_ok(found) == ["Ray"]
    assert settings.address in found["Ray"].text
    assert "DOGGOS_ADDRESS" in found["Ray"].fix
    assert str(found["Ray"]).startswith("NOT OK  Ray")
    assert str(found["model"]).startswith("ok      model")


def test_a_version_off_its_pin(settings, tmp_path, monkeypatch):
    other = tmp_path / "site" / "safetensors-0.0.1.dist-info"
    other.mkdir(parents=True)
    about = "Metadata-Version: 2.1\nName: safetensors\nVersion: 0.0.1\n"
    (other / "METADATA").write_text(about)
    monkeypatch.syspath_prepend(other.parent)
    found = findings(settings)
    assert not_ok(found) == ["versions", "Ray"]
    assert found["versions"].text.startswith("safetensors is 0.0.1, not ==")
    assert "requirements.txt" in found["versions"].fix


def test_a_package_that_is_missing(settings, tmp_path, monkeypatch):
    ours = tmp_path / "site" / "doggos_helpers-9.dist-info"
    ours.mkdir(parents=True)
    about = "Metadata-Version: 2.1\nName: doggos-helpers\nVersion: 9\n"
    (ours / "METADATA").write_text(f"{about}Requires-Dist: no-such-package==1\n")
    monkeypatch.syspath_prepend(ours.parent)
    found = findings(settings)
    assert not_ok(found) == ["versions", "Ray"]
    assert found["versions"].text == "no-such-package is not installed, not ==1"


def test_what_a_node_lacks_is_named(tmp_path):
    same, there = alike.versions(), UPath(tmp_path)
    assert "torch" in same and alike.report([there / "..", there], same) == []
    other = same | {"torch": "1.0", "Python": "3.9"}
    assert alike.report([there / "none"], other) == [
        f"Python is {same['Python']}, not 3.9",
        f"torch is {same['torch']}, not 1.0",
        f"it doesn't see {tmp_path}/none",
    ]


DOCTOR = [sys.executable, "-m", "doggos_helpers.cluster"]


@needs_refusal
def test_a_storage_that_cannot_be_written(settings, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    done = subprocess.run(
        [*REFUSABLE, *DOCTOR]
        + ["--storage", str(closed / "theirs"), "--address", settings.address]
        + ["--tracking-uri", settings.tracking_uri],
        capture_output=True,
        text=True,
        timeout=170,
    )
    [line] = [x for x in done.stdout.splitlines() if x.startswith("NOT OK  storage")]
    assert "theirs" in line and done.returncode == 1, done.stdout + done.stderr
    assert "DOGGOS_STORAGE" in done.stdout


@pytest.mark.parametrize(
    ("name", "value", "check", "fix"),
    [
        ("model", "/nowhere/clip", "model", "DOGGOS_MODEL"),
        ("dataset", "/nowhere/dogs", "data set", "DOGGOS_DATASET"),
        ("tracking_uri", "http://127.0.0.1:1", "MLflow", "DOGGOS_TRACKING_URI"),
    ],
)
def test_what_is_missing_is_named_with_its_setting(settings, name, value, check, fix):
    found = findings(settings, **{name: value})
    assert check in not_ok(found)
    assert value in found[check].text and fix in found[check].fix


def test_a_port_in_use(settings):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = findings(settings, port=port)
    assert not_ok(found) == ["port", "Ray"]
    assert str(port) in found["port"].text and "DOGGOS_PORT" in found["port"].fix


def test_what_the_doctor_does_not_know_is_a_finding_too(settings):
    found = findings(settings, storage="/proc/doggos")  # no folder can be made there
    assert "storage" in not_ok(found) and "/proc/doggos" in found["storage"].text


def test_a_disk_that_is_nearly_full(tmp_path, monkeypatch):
    monkeypatch.setattr(alike, "LEAST_FREE", 2**60)
    (tmp_path / "marker").touch()
    [told] = alike.report([UPath(tmp_path, "marker")], alike.versions())
    assert "GiB of disk are free" in told


def run_doctor(variables: dict[str, str], *options: str) -> tuple[int, str]:
    done = subprocess.run(
        [*DOCTOR, *options],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory):
    """Run two Ray nodes; the second sees an empty folder in place of the storage."""
    folder = tmp_path_factory.mktemp("nodes")
    storage = folder / "storage"
    storage.mkdir()
    python = folder / "python"
    # A mount namespace of its own, as a machine of its own would have.
    python.write_text(
        "#!/bin/sh\n"
        f"mount -t tmpfs none {storage} || exit 1\n"
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    wrapper = folder / "unshared"
    wrapper.write_text(f'#!/bin/sh\nexec unshare --mount {python} "$@"\n')
    wrapper.chmod(0o755)
    with local_cluster(folder, workers=1, worker_python=str(wrapper)) as cluster:
        yield cluster, storage


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="a mount needs root")
def test_a_node_that_sees_another_storage_and_a_token_that_is_missing(two_nodes):
    cluster, storage = two_nodes
    port = ["--port", str(free_ports(1)[0])]
    code, said = run_doctor(cluster.environment, "--storage", str(storage), *port)
    nodes = [x for x in said.splitlines() if x[8:12] == "node"]
    assert code == 1 and len(nodes) == 2, said
    assert sorted(x[:6].strip() for x in nodes) == ["NOT OK", "ok"]
    assert "it doesn't see" in said and "DOGGOS_STORAGE" in said
    assert "token from RAY_AUTH_TOKEN_PATH" in said
    assert not list(storage.glob(".alike-*"))

    nothing = {**cluster.environment, "RAY_AUTH_TOKEN_PATH": "/nowhere/token"}
    code, said = run_doctor(nothing, "--storage", str(storage), *port)
    [line] = [x for x in said.splitlines() if x.startswith("NOT OK")]
    assert code == 1 and "Ray" in line and "RAY_AUTH_MODE=token" in said
