"""`make lab`: a real JupyterLab, and a kernel that it starts."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from jupyter_client.blocking import BlockingKernelClient

from tests.processes import at_a_terminal, end, family
from tools.local_cluster import free_ports

ROOT = Path(__file__).resolve().parents[2]
TOKEN, ADDRESS, NOTEBOOK = "letmein", "127.0.0.1:1", "03_embedding.ipynb"
START_S, CELL_S, STOP_S = 60, 60, 20


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[tuple[httpx.Client, Path]]:
    """Start it as a user does, without a browser; interrupt it as a user does."""
    runtime = tmp_path_factory.mktemp("runtime")
    port = free_ports(1)[0]
    options = f"--no-browser --port={port} --IdentityProvider.token={TOKEN}"
    running = at_a_terminal(
        ["make", "lab", f"LAB_ARGS={options}"],
        cwd=ROOT,
        env=os.environ
        | {"RAY_ADDRESS": ADDRESS, "JUPYTER_RUNTIME_DIR": str(runtime)}
        | {"JUPYTER_CONFIG_DIR": str(runtime)},
        stdout=subprocess.DEVNULL,
        stderr=open(runtime / "log", "w"),
    )
    headers = {"Authorization": f"token {TOKEN}"}
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=url, headers=headers, trust_env=False) as client:
            answers(client, runtime / "log")
            yield client, runtime
    finally:
        started = family(running.pid)
        with contextlib.suppress(ProcessLookupError):
            for _ in range(2):  # the second Ctrl-C says yes to "Shut down?"
                os.killpg(running.pid, signal.SIGINT)
                time.sleep(0.5)
        assert not end(started, STOP_S)


def answers(client: httpx.Client, log: Path) -> None:
    """Wait until the server answers."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            if client.get("/api/status").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    pytest.fail(f"no answer within {START_S} s\n{log.read_text()[-2000:]}")


def wait_until_ready(kernel: BlockingKernelClient) -> None:
    """Wait for a kernel; its client takes a slow start for a death."""
    deadline = time.monotonic() + CELL_S
    while True:
        try:
            return kernel.wait_for_ready(CELL_S)
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def run(kernel: BlockingKernelClient, code: str) -> str:
    """Run a cell; return all that it printed, errors included."""
    said = []

    def take(message: dict) -> None:
        content = message["content"]
        said.append(content.get("text") or "\n".join(content.get("traceback", [])))

    kernel.execute_interactive(code, timeout=CELL_S, output_hook=take)
    return "".join(said)


def test_it_shows_the_notebooks_and_nothing_else(lab) -> None:
    client, _ = lab
    there = {one["name"] for one in client.get("/api/contents").json()["content"]}
    notebooks = {path.name for path in (ROOT / "notebooks").iterdir()}
    assert there == {name for name in notebooks if not name.startswith(".")}
    assert client.get("/lab/tree/01_local_run.ipynb").status_code == 200


def test_its_kernels_have_the_package_and_the_cluster(lab) -> None:
    client, runtime = lab
    opened = client.post(  # as JupyterLab does when somebody opens a notebook
        "/api/sessions",
        json={
            "path": NOTEBOOK,
            "name": NOTEBOOK,
            "type": "notebook",
            "kernel": {"name": "python3"},
        },
    )
    assert opened.status_code == 201, opened.text
    (file,) = runtime.glob(f"kernel-{opened.json()['kernel']['id']}.json")
    kernel = BlockingKernelClient(connection_file=str(file))
    kernel.load_connection_file()
    kernel.start_channels()
    try:
        wait_until_ready(kernel)
        said = run(
            kernel, "import os, doggos_helpers; print(os.environ['RAY_ADDRESS'])"
        )
        assert said.strip() == ADDRESS
    finally:
        kernel.stop_channels()
        client.delete(f"/api/sessions/{opened.json()['id']}")
