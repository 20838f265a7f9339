"""The package reaches worker nodes that don't have it, and no field is set twice."""

import json
import os
import shutil
import site
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from doggos_helpers.cluster.connect import shipped
from doggos_helpers.settings import Settings
from tools.local_cluster import LocalCluster, local_cluster

ROOT = Path(__file__).resolve().parents[2]
# Runs on each node: which environment, and where the package came from.
TASKS = """
import json, sys
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

@ray.remote(num_cpus=0.5, max_retries=0)
def look():
    import doggos_helpers.cluster.plan
    return {"prefix": sys.prefix, "package": doggos_helpers.__file__}

for node in ray.nodes():
    task = look.options(scheduling_strategy=On(node["NodeID"], soft=False))
    print("seen", json.dumps(ray.get(task.remote())))
"""
CONNECT = """
from doggos_helpers.cluster.connect import connect
from doggos_helpers.settings import Settings
connect(Settings())
"""
BARE = "import ray; ray.init(log_to_driver=False)\n"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an environment that sees ours through PYTHONPATH, but no editables."""
    prefix = tmp_path_factory.mktemp("bare") / "venv"
    python = Path(sys.base_prefix) / "bin" / "python3"
    subprocess.run([python, "-m", "venv", "--without-pip", prefix], check=True)
    return prefix


@pytest.fixture(scope="module")
def joined(
    bare: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalCluster]:
    """Run a head in our environment and one worker node in the bare one."""
    with local_cluster(
        tmp_path_factory.mktemp("cluster"),
        workers=1,
        worker_python=str(bare / "bin" / "python"),
        worker_environment={"PYTHONPATH": os.pathsep.join(site.getsitepackages())},
    ) as cluster:
        yield cluster


def drive(
    cluster: LocalCluster, folder: Path, program: str
) -> subprocess.CompletedProcess[str]:
    """Run a driver in a process of its own: a process has one token mode for ever."""
    script = folder / "driver.py"
    script.write_text(program)
    return subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env=dict(os.environ) | cluster.environment,
        capture_output=True,
        text=True,
        timeout=180,
    )


def seen(output: str) -> list[dict[str, str]]:
    """Return what the tasks saw, one entry a node."""
    lines = [line for line in output.splitlines() if line.startswith("seen ")]
    return [json.loads(line.removeprefix("seen ")) for line in lines]


def test_workers_do_not_have_the_package(joined: LocalCluster, tmp_path: Path) -> None:
    ran = drive(joined, tmp_path, BARE + TASKS)
    assert ran.returncode != 0
    assert "No module named 'doggos_helpers'" in ran.stderr


def test_connect_takes_it_there(
    joined: LocalCluster, bare: Path, tmp_path: Path
) -> None:
    ran = drive(joined, tmp_path, CONNECT + TASKS)
    assert ran.returncode == 0, ran.stderr
    nodes = seen(ran.stdout)
    assert len(nodes) == 2
    there = [node for node in nodes if node["prefix"] == str(bare)]
    assert len(there) == 1, "one node runs in the bare environment"
    assert not there[0]["package"].startswith(str(ROOT))


def test_of_a_submitted_job_its_own_copy_is_what_workers_get(
    joined: LocalCluster, bare: Path, tmp_path: Path
) -> None:
    brought = tmp_path / "brought"
    shutil.copytree(
        ROOT / "doggos_helpers",
        brought / "doggos_helpers",
        ignore=shutil.ignore_patterns("__pycache__", "sample"),
    )
    (brought / "driver.py").write_text(CONNECT + TASKS)
    submit = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit"]
    where = ["--address", f"http://{joined.dashboard}", "--working-dir", str(brought)]
    ran = subprocess.run(
        [*submit, *where, "--", sys.executable, "driver.py"],
        env=dict(os.environ) | joined.environment,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    nodes = seen(ran.stdout)
    there = [node for node in nodes if node["prefix"] == str(bare)]
    assert len(there) == 1, ran.stdout
    assert not there[0]["package"].startswith(str(ROOT))


def test_what_a_user_says_of_telemetry_reaches_the_workers(monkeypatch) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    ours = shipped(Settings())
    assert ours["env_vars"]["DO_NOT_TRACK"] == "0"
    assert ours["env_vars"]["RAY_USAGE_STATS_ENABLED"] == "0"
    assert [Path(module).name for module in ours["py_modules"]] == [
        "doggos_helpers",
        "doggos_sample",
    ]
    assert all((Path(m) / "__init__.py").is_file() for m in ours["py_modules"])
