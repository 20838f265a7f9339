"""Data sets and storage in buckets, on a real S3 server on loopback."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pyarrow.dataset as ds
import pytest
from s3fs import S3FileSystem

from doggos_helpers.artefacts import check_storage
from doggos_helpers.data.files import list_files, open_root, read_bytes
from doggos_helpers.data.sample import draw_sample
from doggos_helpers.embed.stage import check, embed
from doggos_helpers.embed.table import read_embeddings
from doggos_helpers.errors import DataError, StorageError
from doggos_helpers.lock import Lease
from doggos_helpers.search.index import open_index
from doggos_helpers.settings import Settings
from tests.buckets import BUCKET, BucketServer, needs_server
from tests.synthetic import write_embeddings

pytestmark = needs_server
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
from doggos_helpers.serve.application import check_artefacts
from doggos_helpers.serve.stages import Classifier, ServeSettings

settings = Settings(epochs=3)
with connected(settings) as cluster:
    runs = [embedding.embed(embedding.check(settings), cluster)]
    again = embedding.embed(embedding.check(settings), cluster)
    runs.append(training.train(training.check(settings), cluster))
    runs.append(evaluation.evaluate(evaluation.check(settings), cluster))
named = Classifier(check_artefacts(ServeSettings(epochs=3)))
row = read_embeddings(settings)
answer = open_index(settings, update=False).top_k(row.vectors[0], 1)[0]
json.dump({
    "counts": [run["counts"] for run in runs],
    "same": again == runs[0], "predicted": len(read_predictions(settings)),
    "found": answer.path == row.paths[0], "breeds": len(named.classes),
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
    """Be this user for a while; no file system remembers another one."""
    for name, value in server.access(user).items():
        monkeypatch.setenv(name, value)
    open_root.cache_clear()
    S3FileSystem.clear_instance_cache()
    yield server
    open_root.cache_clear()
    S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def drawn(server) -> str:
    """A small sample in the bucket; returns its place below it."""
    with pytest.MonkeyPatch.context() as patch:
        for _ in as_user(server, "owner", patch):
            draw_sample(f"s3://{BUCKET}/dogs", images_per_breed=7, seed=4)
    return "dogs"


def test_a_public_bucket_needs_no_credentials(
    server, drawn, cluster, tmp_path, monkeypatch
):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    host = server.endpoint.removeprefix("http://")
    query = f"?scheme=http&endpoint_override={host}&region=us-east-1"
    uri = f"s3://anonymous@{BUCKET}/{drawn}{query}"
    change = {"dataset": uri, "storage": str(tmp_path)}
    settings = cluster[0].model_copy(update=change)
    run = embed(check(settings), cluster[1])
    assert run["counts"]["errors"] == 0
    assert run["counts"]["embedded"] == run["counts"]["manifest"] >= 96
    assert len(read_embeddings(settings)) == run["counts"]["manifest"]
    with pytest.raises(DataError, match="nowhere"):
        list(list_files(f"s3://anonymous@nowhere/x{query}"))


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
        ("nobody", BUCKET, "InvalidAccessKeyId|access key|forbidden|denied"),
        ("reader", BUCKET, "denied|forbidden"),
        ("owner", "no-such-bucket", "bucket"),
    ],
)
def test_storage_that_takes_no_writes_says_so(server, user, bucket, why, monkeypatch):
    for _ in as_user(server, user, monkeypatch):
        settings = Settings(storage=f"s3://{bucket}/storage")
        with pytest.raises(StorageError, match=f"(?i){why}") as told:
            check_storage(settings)
    assert f"s3://{bucket}/storage" in str(told.value)
    assert "AWS_ACCESS_KEY_ID" in told.value.fix


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


def test_a_server_that_dies_is_an_error_and_not_a_bad_image(
    tmp_path, monkeypatch, cluster
):
    server = BucketServer(tmp_path / "seaweed")
    server.start()
    try:
        for _ in as_user(server, "owner", monkeypatch):
            root = f"s3://{BUCKET}/dogs"
            draw_sample(root, images_per_breed=7, seed=4)
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
                draw_sample(f"s3://{BUCKET}/dogs", images_per_breed=40, seed=5)
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
    from upath import UPath

    monkeypatch.setattr("doggos_helpers.lock.LEASE_S", 3)
    monkeypatch.setattr("doggos_helpers.lock.BEAT_S", 0.5)
    path = UPath(f"s3://{BUCKET}/locks/.embed.lock", use_listings_cache=False)
    first, second = Lease(path), Lease(path)
    first.acquire(timeout=0)
    with pytest.raises(TimeoutError):
        second.acquire(timeout=5)  # longer than a lease: its owner renews it
    threading.Timer(1, first.release).start()
    second.acquire(timeout=20)
    second.ended.set()  # killed: it neither renews it nor gives it back
    Lease(path).acquire(timeout=20)
