"""The embedding pipeline on Ray: counts, reasons, repeated and interrupted runs."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from doggos_helpers.clip.encoder import ClipEncoder
from doggos_helpers.data.images import decode
from doggos_helpers.data.manifest import build_manifest
from doggos_helpers.embed.pipeline import build_pipeline
from doggos_helpers.embed.stage import check, embed
from doggos_helpers.embed.table import embeddings_file, read_embeddings, read_record
from doggos_helpers.errors import StorageError
from doggos_helpers.settings import Settings
from doggos_sample import write_dataset


@pytest.fixture(scope="module")
def dogs(tmp_path_factory):
    """Draw a small data set and spoil three of its files."""
    folder = tmp_path_factory.mktemp("data") / "dogs"
    write_dataset(folder, images_per_breed=7, seed=3)
    first = sorted((folder / "train").iterdir())[0]
    (first / "empty.jpg").write_bytes(b"")
    (first / "page.png").write_text("<html>404</html>")
    whole = next(p for p in sorted(first.iterdir()) if p.suffix == ".jpg")
    (first / "cut.jpg").write_bytes(whole.read_bytes()[:900] or b"x")
    return folder


@pytest.fixture
def settings(cluster, dogs, tmp_path) -> Settings:
    return cluster[0].model_copy(
        update={"dataset": str(dogs), "storage": str(tmp_path)}
    )


@pytest.fixture(scope="module")
def embedded(cluster, dogs, tmp_path_factory) -> Settings:
    """Embed once, for all tests that look at the result or go on from it."""
    changes = {"dataset": str(dogs), "storage": str(tmp_path_factory.mktemp("all"))}
    settings = cluster[0].model_copy(update=changes)
    embed(check(settings), cluster[1])
    return settings


@pytest.fixture
def own(embedded, dogs, tmp_path) -> Settings:
    """Copy images and embeddings, for a test that changes them."""
    shutil.copytree(dogs, tmp_path / "dogs")
    settings = embedded.model_copy(
        update={"dataset": str(tmp_path / "dogs"), "storage": str(tmp_path / "own")}
    )
    shutil.copytree(embedded.embeddings_dir, settings.embeddings_dir)
    return settings


def test_every_path_has_an_embedding_or_a_reason(embedded):
    settings = embedded
    run = read_record(settings)
    manifest = build_manifest(settings)
    table = pq.read_table(embeddings_file(settings)).to_pandas()
    counts = run["counts"]
    assert counts["embedded"] + counts["errors"] == counts["manifest"] == len(table)
    assert list(table.path) == sorted(manifest.table["path"].to_pylist())
    assert (table.embedding.isna() == table.reason.notna()).all()
    assert counts["errors"] == 3
    bad = table.set_index(table.path.str.split("/").str[-1])
    assert bad.reason["empty.jpg"] == "empty file"
    assert bad.reason["page.png"] == "not an image: a web page or other markup"
    assert bad.reason["cut.jpg"].startswith(("broken image", "not an image"))
    assert run["fingerprint"] == manifest.fingerprint
    assert sum(run["nodes"].values()) == counts["manifest"]


def test_embeddings_are_those_of_the_encoder_and_keep_their_path(embedded):
    settings = embedded
    rows = read_embeddings(settings)
    encoder = ClipEncoder("sample", threads=2)
    root = build_manifest(settings).root
    for i in np.random.default_rng(0).choice(len(rows), 12, replace=False):
        data = open(f"{root}/{rows.paths[i]}", "rb").read()
        expected = encoder.encode_images(decode(data, encoder.preprocessing)[None])[0]
        assert np.allclose(rows.vectors[i], expected, atol=1e-4)
        assert rows.paths[i].startswith(f"{rows.splits[i]}/{rows.classes[i]}/")
    test = read_embeddings(settings, "test")
    assert set(test.splits) == {"test"} and 0 < len(test) < len(rows)


def test_a_second_run_computes_only_what_is_new_changed_or_bad(cluster, own):
    settings = own
    total = read_record(settings)["counts"]["manifest"]
    folder = sorted((Path(own.dataset) / "train").iterdir())[1]
    images = sorted(folder.iterdir())
    buffer = io.BytesIO()
    Image.new("RGB", (120, 90), "red").save(buffer, "JPEG")
    images[0].write_bytes(buffer.getvalue())  # changed
    images[1].unlink()  # gone
    (folder / "new.jpg").write_bytes(buffer.getvalue() + b"\0")  # new
    before = {str(p): v for p, v in zip(*_rows(settings), strict=True)}
    run = embed(check(settings), cluster[1])
    assert json.loads((settings.embeddings_dir / "run.json").read_text()) == run
    counts = run["counts"]
    assert counts["computed"] == 2 + 3  # and the three bad ones are tried again
    assert counts["manifest"] == total
    after = {str(p): v for p, v in zip(*_rows(settings), strict=True)}
    assert f"train/{folder.name}/{images[1].name}" not in after
    changed = {p for p in before.keys() & after.keys() if (before[p] != after[p]).any()}
    assert changed == {f"train/{folder.name}/{images[0].name}"}


def _rows(settings):
    rows = read_embeddings(settings)
    return rows.paths, rows.vectors


def test_an_interrupted_run_is_continued_and_its_half_written_file_dropped(
    cluster, settings
):
    manifest = build_manifest(settings)
    part = manifest.table.slice(0, 40)
    pending = settings.embeddings_dir / "pending"
    pipeline = build_pipeline(part, manifest.root, settings, cluster[1].plan)
    pipeline.write_parquet(str(pending), ray_remote_args={"num_cpus": 0.5})
    (pending / "half.parquet").write_bytes(b"PAR1 and then the power went")
    with pytest.raises(StorageError, match="03_embedding"):
        read_embeddings(settings)
    run = embed(check(settings), cluster[1])
    assert run["counts"]["computed"] < manifest.table.num_rows - 30
    table = pq.read_table(embeddings_file(settings))
    assert table.num_rows == manifest.table.num_rows
    assert len(set(table["path"].to_pylist())) == table.num_rows
    assert not pending.exists()


def test_nothing_to_do_leaves_the_artefact_alone(cluster, own):
    for name in ("empty.jpg", "page.png", "cut.jpg"):
        next(Path(own.dataset).rglob(name)).unlink()
    first = embed(check(own), cluster[1])
    assert first["counts"]["computed"] == first["counts"]["errors"] == 0
    stamp = embeddings_file(own).stat().st_mtime_ns
    assert embed(check(own), cluster[1]) == first
    assert embeddings_file(own).stat().st_mtime_ns == stamp


def test_another_precision_starts_over(cluster, own):
    settings = own
    lower = settings.model_copy(update={"dtype": "bfloat16"})
    from doggos_helpers.cluster.plan import plan_workers

    plan = plan_workers(cluster[1].nodes, lower)
    other = type(cluster[1])(**(vars(cluster[1]) | {"plan": plan}))
    exact = read_embeddings(settings)
    run = embed(check(lower), other)
    assert run["counts"]["computed"] == run["counts"]["manifest"]
    rough = read_embeddings(lower)
    cosines = (exact.vectors * rough.vectors).sum(1)
    assert not np.array_equal(exact.vectors, rough.vectors) and cosines.min() > 0.99
