"""ci/build.sh in a copy of the project, with small wheels made here and no index."""

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import virtualenv

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(sys.base_prefix) / "bin" / "python3"
CACHE = "XDG_CACHE_HOME"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CPU_TORCH = "2.13.0+cpu"
REQUIREMENTS = "ray[data]==2.60.0\ntorch==2.13.0\ndoggodep==1.0\n"
# Builds an editable wheel without setuptools, which no index could give here.
BACKEND = """
import shutil
def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "doggos_helpers-0.1-py3-none-any.whl"
    shutil.copy("editable/" + name, folder)
    return name
"""


def write_wheel(folder: Path, name: str, version: str, *files: str) -> Path:
    """Write the smallest wheel that pip installs."""
    info = f"{name}-{version}.dist-info"
    content = {f: "" for f in files or (f"{name}.py",)} | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\n"
        f"Version: {version}\nProvides-Extra: data\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    record = "".join(f"{f},{_digest(c)},{len(c)}\n" for f, c in content.items())
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in content.items():
            wheel.writestr(file, text)
        wheel.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")
    return path


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make a project with our ci/build.sh, small requirements and their wheels."""
    folder = tmp_path / "project"
    (folder / "ci").mkdir(parents=True)
    shutil.copy(ROOT / "ci" / "build.sh", folder / "ci")
    (folder / "requirements.txt").write_text(REQUIREMENTS)
    (folder / "requirements-dev.txt").write_text("doggodev==1.0\n")
    (folder / "constraints.txt").write_text("ray==2.60.0\ntorch==2.13.0\n")
    (folder / "backend.py").write_text(BACKEND)
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\n'
        'backend-path = ["."]\n[project]\nname = "doggos-helpers"\nversion = "0.1"\n'
    )
    write_wheel(folder / "editable", "doggos_helpers", "0.1")
    for name, version in [
        ("ray", "2.60.0"),
        ("torch", "2.13.0"),
        ("doggodep", "1.0"),
        ("doggodev", "1.0"),
    ]:
        write_wheel(tmp_path / "wheels", name, version)
    return folder


def build(
    project: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ci/build.sh with wheels from a folder as the only source of packages."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX", "TORCH_INDEX_URL", "PYTHON", CACHE):
        kept.pop(name, None)
    sources = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(project.parent / "wheels"),
        "PIP_CONFIG_FILE": os.devnull,
    }
    return subprocess.run(
        ["bash", "ci/build.sh", *arguments],
        cwd=project,
        env=kept | sources | environment,
        text=True,
        capture_output=True,
        timeout=120,
    )


def installed(prefix: Path) -> dict[str, str]:
    """Return the distributions of an environment, name to version."""
    found = prefix.glob("lib/python*/site-packages/*.dist-info")
    return dict(p.name.removesuffix(".dist-info").split("-")[:2] for p in found)


def make_environment(folder: Path) -> Path:
    """Make an environment with pip, whether or not Python itself can give it one."""
    make = [sys.executable, "-m", "virtualenv", "--quiet", "--python", PYTHON, folder]
    subprocess.run(make, check=True)
    return folder


def test_what_an_environment_brings_is_kept(project: Path) -> None:
    prefix = make_environment(project.parent / "theirs")
    for name, version in [("ray", "2.50.0"), ("torch", "2.13.0+cu128")]:
        wheel = write_wheel(project.parent / "theirs-wheels", name, version)
        pip = [prefix / "bin" / "python", "-m", "pip", "install", "--no-index", wheel]
        subprocess.run(pip, check=True, capture_output=True)

    first = build(project, VIRTUAL_ENV=str(prefix))
    assert first.returncode == 0, first.stderr
    packages = installed(prefix)
    assert packages["ray"] == "2.50.0"
    assert packages["torch"] == "2.13.0+cu128"
    assert packages["doggodep"] == "1.0"
    assert "doggos_helpers" in packages and "doggodev" not in packages
    said = [line for line in first.stdout.splitlines() if "is kept" in line]
    assert len(said) == 1  # torch is the tested version, whatever it was built for
    assert "ray 2.50.0" in said[0] and "ray==2.60.0" in said[0]
    assert not (project / ".venv").exists()
    assert (project / "build/.python").read_text() == f"{prefix}/bin/python\n"

    started = time.monotonic()
    again = build(project, VIRTUAL_ENV=str(prefix))
    assert again.returncode == 0
    assert again.stdout == again.stderr == ""  # pip was not even asked
    assert time.monotonic() - started < 5


def test_dev_serves_both_modes_and_a_new_pin_installs_again(project: Path) -> None:
    prefix = make_environment(project.parent / "theirs")
    assert "doggodev" in build(project, "dev", VIRTUAL_ENV=str(prefix)).stdout
    assert build(project, VIRTUAL_ENV=str(prefix)).stdout == ""
    assert build(project, "dev", VIRTUAL_ENV=str(prefix)).stdout == ""

    write_wheel(project.parent / "wheels", "doggodep", "2.0")
    pins = REQUIREMENTS.replace("doggodep==1.0", "doggodep==2.0")
    (project / "requirements.txt").write_text(pins)
    changed = build(project, VIRTUAL_ENV=str(prefix))
    assert changed.returncode == 0, changed.stderr
    assert installed(prefix)["doggodep"] == "2.0"


def test_an_install_that_failed_is_tried_again(project: Path) -> None:
    prefix = make_environment(project.parent / "theirs")
    wheel = project.parent / "wheels" / "doggodep-1.0-py3-none-any.whl"
    content = wheel.read_bytes()
    wheel.unlink()
    assert build(project, VIRTUAL_ENV=str(prefix)).returncode != 0
    wheel.write_bytes(content)
    assert build(project, VIRTUAL_ENV=str(prefix)).returncode == 0
    assert installed(prefix)["doggodep"] == "1.0"


@pytest.fixture
def plain_machine(project: Path) -> Path:
    """Take the signs of a container and of a GPU out of the script."""
    signs = ("/.dockerenv", "/run/.containerenv", "/dev/nvidia", "/proc/driver/nvidia")
    rewrite(project, {sign: "/no/such/file" for sign in (*signs, "nvidia-smi")})
    return project


def rewrite(project: Path, changes: dict[str, str]) -> None:
    """Change texts that are in ci/build.sh."""
    script = project / "ci" / "build.sh"
    text = script.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    script.write_text(text)


def test_an_ordinary_machine_gets_a_venv(plain_machine: Path) -> None:
    environment = {"PYTHON": str(PYTHON), "KUBERNETES_SERVICE_HOST": ""}
    first = build(plain_machine, ANYSCALE_CLUSTER_ID="", **environment)
    assert first.returncode == 0, first.stderr
    packages = installed(plain_machine / ".venv")
    assert packages["ray"] == "2.60.0" and packages["torch"] == "2.13.0"
    python = (plain_machine / "build/.python").read_text().strip()
    assert python == f"{plain_machine}/.venv/bin/python"
    assert build(plain_machine, **environment).stdout == ""


@pytest.mark.parametrize("sign", ["ANYSCALE_CLUSTER_ID", "KUBERNETES_SERVICE_HOST"])
def test_an_image_with_ray_gets_it_into_its_own_python(
    plain_machine: Path, sign: str
) -> None:
    prefix = make_environment(plain_machine.parent / "image")  # its python on PATH
    path = f"{prefix}/bin:{os.environ['PATH']}"
    wheel = plain_machine.parent / "wheels" / "ray-2.60.0-py3-none-any.whl"
    pip = [prefix / "bin" / "python", "-m", "pip", "install", "--no-index", wheel]
    subprocess.run(pip, check=True, capture_output=True)
    ran = build(plain_machine, PATH=path, **{sign: "yes"})
    assert ran.returncode == 0, ran.stderr
    packages = installed(prefix)
    assert packages["doggodep"] == "1.0" and "doggos_helpers" in packages
    assert not (plain_machine / ".venv").exists()


def test_a_container_without_ray_is_an_ordinary_machine(plain_machine: Path) -> None:
    prefix = make_environment(plain_machine.parent / "image")
    path = f"{prefix}/bin:{os.environ['PATH']}"
    ran = build(plain_machine, PATH=path, KUBERNETES_SERVICE_HOST="yes")
    assert ran.returncode == 0, ran.stderr
    assert "doggodep" not in installed(prefix)
    assert installed(plain_machine / ".venv")["doggodep"] == "1.0"


def test_an_unsupported_python_is_refused_in_one_sentence(plain_machine: Path) -> None:
    old = plain_machine.parent / "python3.9"
    # A stand-in for an interpreter that is too old: it fails the check of versions.
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    ran = build(plain_machine, PYTHON=str(old))
    assert ran.returncode == 1
    assert ran.stdout == "" and len(ran.stderr.splitlines()) == 1
    assert "Python 3.11, 3.12 or 3.13 is needed" in ran.stderr
    assert "PYTHON=/path/to/python3.11" in ran.stderr
    assert not (plain_machine / ".venv").exists()


@pytest.fixture
def indexes(plain_machine: Path) -> Iterator[dict[str, str]]:
    """Serve the wheels as an index, and beside it one that has torch for CPUs."""
    served = plain_machine.parent / "served"
    for wheel in (plain_machine.parent / "wheels").iterdir():
        page = served / "all" / wheel.name.split("-")[0]
        page.mkdir(parents=True)
        shutil.copy(wheel, page)
    write_wheel_for_cpus(served / "cpu")
    handler = partial(SimpleHTTPRequestHandler, directory=served)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        rewrite(plain_machine, {CPU_INDEX: f"{address}/cpu"})
        yield {
            "PYTHON": str(PYTHON),
            "PIP_INDEX_URL": f"{address}/all",
            "PIP_NO_INDEX": "",
            "PIP_FIND_LINKS": "",
            "NO_PROXY": "127.0.0.1",
        }
        server.shutdown()


def write_wheel_for_cpus(index: Path) -> None:
    (index / "torch").mkdir(parents=True)
    write_wheel(index / "torch", "torch", CPU_TORCH)


def test_without_a_gpu_torch_comes_without_cuda(
    plain_machine: Path, indexes: dict[str, str]
) -> None:
    first = build(plain_machine, **indexes)
    assert first.returncode == 0, first.stderr
    assert installed(plain_machine / ".venv")["torch"] == CPU_TORCH
    said = [line for line in first.stdout.splitlines() if "No NVIDIA GPU" in line]
    assert len(said) == 1 and "without CUDA" in said[0] and "TORCH_INDEX_URL" in said[0]
    # It is there now: the index is not asked again.
    (plain_machine / ".venv/.doggos-installed").unlink()
    assert "No NVIDIA GPU" not in build(plain_machine, **indexes).stdout


@pytest.mark.parametrize("reason", ["a GPU", "another index", "no answer", "an image"])
def test_torch_comes_as_ever_where(
    plain_machine: Path, indexes: dict[str, str], reason: str
) -> None:
    prefix = plain_machine / ".venv"
    if reason == "a GPU":
        rewrite(plain_machine, {"/no/such/file*": f"{plain_machine}*"})
    elif reason == "another index":
        indexes["TORCH_INDEX_URL"] = indexes["PIP_INDEX_URL"]
    elif reason == "no answer":
        shutil.rmtree(plain_machine.parent / "served" / "cpu")
    else:
        prefix = make_environment(plain_machine.parent / "image")
        wheel = plain_machine.parent / "wheels" / "ray-2.60.0-py3-none-any.whl"
        pip = [prefix / "bin" / "python", "-m", "pip", "install", "--no-index", wheel]
        subprocess.run(pip, check=True, capture_output=True)
        indexes |= {"PATH": f"{prefix}/bin:{os.environ['PATH']}", "PYTHON": ""}
        indexes["KUBERNETES_SERVICE_HOST"] = "yes"
    ran = build(plain_machine, **indexes)
    assert ran.returncode == 0, ran.stderr
    assert installed(prefix)["torch"] == "2.13.0"
    assert "No NVIDIA GPU" not in ran.stdout


def without_ensurepip(folder: Path) -> Path:
    """Make a stand-in for Debian's Python without python3-venv."""
    empty = folder / "nothing here" / "ensurepip"
    empty.mkdir(parents=True)
    (empty / "__init__.py").write_text("raise ImportError('no ensurepip')")
    python = folder / "my python"
    python.write_text(f"""#!/bin/sh
export PYTHONPATH='{empty.parent}'
exec {PYTHON} "$@"
""")
    python.chmod(0o755)
    return python


def test_without_ensurepip_another_pip_helps(plain_machine: Path) -> None:
    for wheel in Path(virtualenv.__file__).parent.rglob("pip-*.whl"):
        shutil.copy(wheel, plain_machine.parent / "wheels")
    python = without_ensurepip(plain_machine.parent)
    hidden = {"PYTHONPATH": str(plain_machine.parent / "nothing here")}
    ran = build(plain_machine, PYTHON=str(python), **hidden)
    assert ran.returncode == 0, ran.stderr
    assert installed(plain_machine / ".venv")["doggodep"] == "1.0"


def test_without_any_pip_the_package_is_named(plain_machine: Path) -> None:
    python = without_ensurepip(plain_machine.parent)
    hidden = {"PYTHONPATH": str(plain_machine.parent / "nothing here")}
    for _ in range(2):  # what the first try left doesn't change what the second says
        ran = build(plain_machine, PYTHON=str(python), **hidden)
        assert ran.returncode == 1 and len(ran.stderr.splitlines()) == 1, ran.stderr
        assert "apt-get install python3-venv" in ran.stderr
    assert ran.stdout == ""


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX", ""])
def test_in_a_folder_with_a_space_and_an_umlaut(
    plain_machine: Path, variable: str
) -> None:
    moved = plain_machine.parent / "Möpse und so" / "my project"
    moved.parent.mkdir()
    plain_machine.rename(moved)
    (plain_machine.parent / "wheels").rename(moved.parent / "wheels")
    python = moved.parent / "my python"
    python.symlink_to(PYTHON)
    environment = {"PYTHON": str(python), "HOME": str(plain_machine.parent)}
    if variable:
        environment[variable] = str(make_environment(moved.parent / "their own"))
    prefix = Path(environment.get(variable, moved / ".venv"))
    links = (moved.parent / "wheels").as_uri()  # a space parts this variable's words
    for _ in range(2):
        ran = build(moved, PIP_FIND_LINKS=links, **environment)
        assert ran.returncode == 0, ran.stderr
    assert ran.stdout == ""
    assert installed(prefix)["doggodep"] == "1.0"
    # As the Makefile calls it.
    command = '"$(cat build/.python)" -c "import doggodep, sys; print(sys.prefix)"'
    said = subprocess.run(["bash", "-c", command], cwd=moved, capture_output=True)
    assert Path(said.stdout.decode().strip()).samefile(prefix), said.stderr
    assert b" " not in said.stdout.strip()  # Ray starts no worker there


def test_the_shape_that_documentation_includes() -> None:
    lines = (ROOT / "ci" / "build.sh").read_text().splitlines()
    assert lines[0].startswith("#!") and "bash" in lines[0]
    assert next(x for x in lines if x and x[0] != "#") == "set -exo pipefail"
    section = lines[lines.index("# Install Python dependencies") + 1 :]
    assert section and not any(x.startswith("#") for x in section)
    commands = [x for x in section if not x.startswith(" ")]
    assert all("-m pip install" in command for command in commands)
