"""Data sets and storage in buckets, on a real S3 server on loopback."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
from s3fs import S3FileSystem

from doggos_helpers.artefacts import Lease, check_storage, read_json
from doggos_helpers.data.files import list_files, read_bytes
from doggos_helpers.data.manifest import build_manifest, draw_sample
from doggos_helpers.embed.table import read_embeddings
from doggos_helpers.errors import DataError, StorageError
from doggos_helpers.search.index import open_index
from doggos_helpers.settings import Settings
from doggos_helpers.stores import at
from doggos_sample.job import Job
from tests.buckets import BUCKET, BucketServer, needs_server
from tests.synthetic import write_embeddings

pytestmark = needs_server
ROOT = Path(__file__).resolve().parents[2]
SERIES = """
import json, sys
from doggos_helpers.cluster.connect import connected
from doggos_helpers.settings import Settings
from doggos_helpers.embed import stage as embedding
from doggos_helpers.train import stage as training
from doggos_helpers.evaluate import stage as evaluation
from doggos_helpers.embed.table import read_embeddings
from doggos_helpers.evaluate.prediction import read_predictions
from doggos_helpers.search.index import open_index
from doggos_helpers.serve.application import check_artefacts, roll_out
from doggos_helpers.serve.stages import Classifier, ServeSettings

settings = Settings(epochs=3)
with connected(settings) as cluster:
    runs = [embedding.embed(embedding.check(settings), cluster)]
    again = embedding.embed(embedding.check(settings), cluster)
    runs.append(training.train(training.check(settings), cluster))
    runs.append(evaluation.evaluate(evaluation.check(settings), cluster))
served = check_artefacts(ServeSettings(epochs=3))
roll_out(served)
named = Classifier(served)
row = read_embeddings(settings)
answer = open_index(settings, update=False).top_k(row.vectors[0], 1)[0]
json.dump({
    "counts": [run["counts"] for run in runs],
    "same": again == runs[0], "predicted": len(read_predictions(settings)),
    "found": answer.path == row.paths[0], "breeds": len(named.loaded[1]),
    "classifier": runs[1]["classifier"],
}, open(sys.argv[1], "w"))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[BucketServer]:
    made = BucketServer(tmp_path_factory.mktemp("seaweed"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def owner(server, monkeypatch) -> Iterator[BucketServer]:
    yield from as_user(server, "owner", monkeypatch)


def as_user(server, user, monkeypatch) -> Iterator[BucketServer]:
    """Be this user for a while: another key counts at once."""
    for name, value in server.access(user).items():
        monkeypatch.setenv(name, value)
    yield server


@pytest.fixture(scope="module")
def drawn(server) -> str:
    """A small sample in the bucket; returns its place below it."""
    with pytest.MonkeyPatch.context() as patch:
        for _ in as_user(server, "owner", patch):
            draw_sample(f"s3://{BUCKET}/dogs", Job(7, 4))
    return "dogs"


def test_a_public_bucket_needs_no_credentials(server, drawn, tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    uri = f"s3://anonymous@{BUCKET}/{drawn}"
    manifest = build_manifest(Settings(dataset=uri, storage=str(tmp_path)))
    assert manifest.rows >= 96
    for row in manifest.table.to_pylist():
        assert len(read_bytes(manifest.root, row["path"])) == row["size"]
        assert row["modified"]
    with pytest.raises(DataError, match="s3://anonymous@nowhere"):
        list(list_files("s3://anonymous@nowhere/x"))


@pytest.mark.long
def test_the_series_goes_from_bucket_to_bucket(owner, drawn, tmp_path):
    out, storage = tmp_path / "said.json", f"s3://{BUCKET}/storage"
    environment = {
        "DOGGOS_DATASET": f"s3://{BUCKET}/{drawn}",
        "DOGGOS_STORAGE": storage,
        "DOGGOS_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "DOGGOS_ADDRESS": "local",
    }
    done = subprocess.run(
        [sys.executable, "-c", SERIES, str(out)],
        env={**os.environ, **environment},
        capture_output=True, text=True, timeout=400, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    said = json.loads(out.read_text())
    embedded, trained, evaluated = said["counts"]
    assert embedded["embedded"] == embedded["manifest"] >= 96
    assert said["same"] and said["found"]
    assert trained["train_seen"] >= trained["train"] > 0
    assert evaluated["predicted"] == evaluated["test"] == said["predicted"] > 0
    assert said["classifier"].startswith(storage)
    left = [p.name for p in tmp_path.iterdir() if p.name not in ("said.json",)]
    assert all(name.startswith("mlflow.db") for name in left), left


@pytest.mark.parametrize(
    ("user", "bucket", "why"),
    [
        ("nobody", BUCKET, "access key ID you provided does not exist"),
        ("reader", BUCKET, "denied"),
        ("owner", "no-such-bucket", "bucket does not exist"),
        ("", BUCKET, "denied"),
    ],
)
def test_storage_that_takes_no_writes_says_so(server, user, bucket, why, monkeypatch):
    for _ in as_user(server, user or "owner", monkeypatch):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            if not user:
                monkeypatch.delenv(name)
        settings = Settings(storage=f"s3://{bucket}/storage")
        with pytest.raises(StorageError, match=f"(?i){why}") as told:
            check_storage(settings)
    assert f"s3://{bucket}/storage" in str(told.value)
    assert "AWS_ACCESS_KEY_ID" in told.value.fix


@pytest.mark.parametrize(
    ("user", "root", "why"),
    [
        ("nobody", f"s3://{BUCKET}/dogs", "INVALID_ACCESS_KEY_ID|ACCESS_DENIED"),
        ("owner", "s3://no-such-bucket/dogs", "no such data set"),
    ],
)
def test_a_data_set_that_can_not_be_listed_says_so(
    server, user, root, why, monkeypatch
):
    for _ in as_user(server, user, monkeypatch):
        with pytest.raises(DataError, match=why) as told:
            list(list_files(root))
    assert root in str(told.value)


@contextlib.contextmanager
def deaf(kind: str) -> Iterator[str]:
    """Yield an endpoint at which nobody listens, or nobody answers, or takes calls."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = server.getsockname()
        if kind == "closed":
            server.close()
        if kind == "full":  # what is sent there is dropped, as by a firewall
            for _ in range(3):
                caller = stack.enter_context(socket.socket())
                caller.setblocking(False)
                caller.connect_ex(address)
        yield f"http://127.0.0.1:{address[1]}"


@pytest.mark.parametrize(
    "kind",
    ["closed", *(pytest.param(k, marks=pytest.mark.long) for k in ("full", "silent"))],
)
def test_an_endpoint_that_does_not_answer_is_an_error_in_time(kind, monkeypatch):
    with deaf(kind) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        started = time.monotonic()
        with pytest.raises(StorageError, match="can't write to the storage"):
            check_storage(Settings(storage="s3://dogs/storage"))
        between = time.monotonic()
        with pytest.raises(DataError, match="can't read the data set .NETWORK_CONNEC"):
            list(list_files("s3://dogs/dogs"))
        took = between - started, time.monotonic() - between
    print(f"{kind}: {took[0]:.1f} s to write, {took[1]:.1f} s to list")
    assert max(took) < (40 if kind == "silent" else 15)


def test_a_command_says_so_whose_bucket_is_gone(tmp_path):
    """Reading an artefact is not prepared for that: the command is."""
    with deaf("closed") as endpoint:
        done = subprocess.run(
            [sys.executable, "-m", "doggos_helpers.evaluate", f"--storage=s3://{BUCKET}"],
            env={**os.environ, "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "me",
                 "AWS_SECRET_ACCESS_KEY": "secret"},
            capture_output=True, text=True, timeout=60, cwd=tmp_path,
        )  # fmt: skip
    assert done.returncode == 5 and "Traceback" not in done.stderr, done.stderr
    assert "Could not connect to the endpoint URL" in done.stderr


def test_a_vector_index_is_built_and_followed_in_a_bucket(owner, tmp_path, monkeypatch):
    """The table of a folder, copied into the bucket, through LanceDB and back."""
    monkeypatch.setattr("doggos_helpers.search.index.EXACT_ROWS", 1000)
    here = Settings(storage=str(tmp_path))
    write_embeddings(here, dimension=32, train=5000, val=60, test=60)
    there = Settings(storage=f"s3://{BUCKET}/indexed")
    bucket = S3FileSystem(endpoint_url=owner.endpoint, use_listings_cache=False)
    bucket.put(str(here.embeddings_dir), str(there.embeddings_dir), recursive=True)
    rows, index = read_embeddings(here), open_index(there)
    assert len(index) == len(rows)
    assert open_index(there).rows.version == index.rows.version  # nothing to do
    for i in (0, 2000, 5000):
        found = index.top_k(rows.vectors[i], 1, split=str(rows.splits[i]))
        assert found[0].path == rows.paths[i]
    assert len(open_index(there, update=False)) == len(rows)
    folder = f"{there.embeddings_dir}/table/00000"
    bucket.mv(f"{folder}/embeddings.parquet", f"{folder}/settled.parquet")
    index = open_index(there)
    assert len(index) == len(rows)
    assert np.allclose(index.vector_of(str(rows.paths[9])), rows.vectors[9])


def test_a_server_that_dies_is_an_error_and_not_a_bad_image(tmp_path, monkeypatch):
    server = BucketServer(tmp_path / "seaweed")
    server.start()
    try:
        for _ in as_user(server, "owner", monkeypatch):
            root = f"s3://{BUCKET}/dogs"
            draw_sample(root, Job(7, 4))
            paths = [p for t in list_files(root) for p in t["path"].to_pylist()]
            image = next(p for p in paths if p.endswith(".jpg"))
            whole = read_bytes(root, image)
            server.stop()
            with pytest.raises(DataError, match="store of the images fails") as told:
                read_bytes(root, image)
            assert "what is done is kept" in told.value.fix
            with pytest.raises(StorageError, match="(?i)connect"):
                check_storage(Settings(storage=f"s3://{BUCKET}/storage"))
            server.start()
            assert read_bytes(root, image) == whole
    finally:
        server.stop()


@pytest.mark.long
def test_all_notebooks_go_from_bucket_to_bucket(owner, drawn, tmp_path, monkeypatch):
    """Embedding, training, evaluation, serving and its load test, as a batch."""
    monkeypatch.setenv("DOGGOS_DATASET", f"s3://{BUCKET}/{drawn}")
    monkeypatch.setenv("DOGGOS_STORAGE", f"s3://{BUCKET}/series")
    monkeypatch.setenv("DOGGOS_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    command = [sys.executable, "-m", "doggos_helpers.batch", f"--out={tmp_path}/out"]
    done = subprocess.run(
        [*command, f"--params-file={ROOT}/notebooks/params/smoke.yaml"],
        env={**os.environ, "DOGGOS_ADDRESS": "local"},
        capture_output=True, text=True, timeout=1200, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    settings = Settings()
    runs = {
        folder.name: read_json(folder / "run.json", "03_embedding")
        for folder in (
            settings.embeddings_dir,
            settings.training_dir,
            settings.evaluation_dir,
            settings.serving_dir,
        )
    }
    counts = {name: run["counts"] for name, run in runs.items()}
    assert counts["embeddings"]["embedded"] == counts["embeddings"]["manifest"] > 0
    assert len({run["fingerprint"] for run in runs.values()}) == 1
    assert counts["training"]["train_seen"] >= counts["training"]["train"] > 0
    assert counts["evaluation"]["predicted"] == counts["evaluation"]["test"] > 0
    assert counts["serving"]["succeeded"] > 0 == counts["serving"]["failed"]
    assert runs["training"]["classifier"].startswith(settings.storage)
    stray = [p for p in (tmp_path / "home").rglob("*") if p.suffix == ".parquet"]
    assert not stray and not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.long
def test_a_job_whose_bucket_dies_goes_on_when_it_is_back(tmp_path):
    """Kill the server once rows are stored; the same command again ends the job."""
    server = BucketServer(tmp_path / "seaweed")
    server.start()
    environment = {
        **os.environ, **server.access(),
        "DOGGOS_DATASET": f"s3://{BUCKET}/dogs",
        "DOGGOS_STORAGE": f"s3://{BUCKET}/storage",
        "DOGGOS_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "DOGGOS_ADDRESS": "local",
    }  # fmt: skip
    access = server.access()
    bucket = S3FileSystem(
        key=access["AWS_ACCESS_KEY_ID"], secret=access["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=server.endpoint, use_listings_cache=False,
    )  # fmt: skip
    command = [sys.executable, "-m", "doggos_helpers.embed"]

    def stored() -> list[str]:
        found = bucket.find(f"{BUCKET}/storage")
        return [f for f in found if "/table/" in f and f.endswith(".parquet")]

    try:
        with pytest.MonkeyPatch.context() as patch:
            for _ in as_user(server, "owner", patch):
                draw_sample(f"s3://{BUCKET}/dogs", Job(40, 5))
        with (tmp_path / "first").open("wb") as log:
            first = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            until = time.monotonic() + 120
            while not stored() and first.poll() is None and time.monotonic() < until:
                time.sleep(0.2)
            server.stop()
            code = first.wait(300)
        said = (tmp_path / "first").read_text()
        assert code in (3, 5), said[-3000:]
        assert "Fix:" in said and "Traceback" not in said, said[-3000:]
        server.start()
        kept = set(stored())
        again = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=300
        )
        assert again.returncode == 0, again.stdout[-2000:] + again.stderr[-3000:]
        assert kept and kept <= set(stored())
        paths = ds.dataset(
            [f for f in stored()], filesystem=bucket, format="parquet"
        ).to_table(["path"])["path"].to_pylist()  # fmt: skip
        assert len(paths) == len(set(paths)) == 640
    finally:
        server.stop()


def test_a_lease_keeps_a_second_writer_out_and_ends_with_its_owner(owner, monkeypatch):
    monkeypatch.setattr("doggos_helpers.artefacts.LEASE_S", 3)
    monkeypatch.setattr("doggos_helpers.artefacts.BEAT_S", 0.5)
    path = at(f"s3://{BUCKET}/locks/.embed.lock")
    first, second = Lease(path), Lease(path)
    first.acquire(timeout=0)
    with pytest.raises(TimeoutError):
        second.acquire(timeout=5)  # longer than a lease: its owner renews it
    threading.Timer(1, first.release).start()
    second.acquire(timeout=20)
    second.ended.set()  # killed: it neither renews it nor gives it back
    Lease(path).acquire(timeout=20)


def test_of_many_that_take_a_lease_at_once_one_has_it(owner, monkeypatch):
    monkeypatch.setattr("doggos_helpers.artefacts.LEASE_S", 1)
    monkeypatch.setattr("doggos_helpers.artefacts.BEAT_S", 0.2)
    for name, left in (("new", False), ("stale", True)):
        path = at(f"s3://{BUCKET}/locks/.{name}.lock")
        if left:
            path.write_bytes(b"of a process that was killed")
        got: list[Lease] = []

        def take(path=path, got=got) -> None:
            lease = Lease(path)
            with contextlib.suppress(TimeoutError):
                lease.acquire(timeout=2)
                got.append(lease)

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(got) == 1
        got[0].release()
        assert not path.exists()
