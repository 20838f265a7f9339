"""The embedding pipeline on Ray: counts, reasons, repeated and interrupted runs."""

import dataclasses
import io
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from doggos_helpers.artefacts import write_json
from doggos_helpers.clip.encoder import ClipEncoder
from doggos_helpers.cluster.plan import plan_workers
from doggos_helpers.data.images import decode
from doggos_helpers.data.manifest import build_manifest
from doggos_helpers.embed.pipeline import TableSink, block_rows, build_pipeline
from doggos_helpers.embed.stage import EmbedInputs, check, embed
from doggos_helpers.embed.table import (
    find_table,
    read_embeddings,
    read_record,
    table_folder,
)
from doggos_helpers.errors import DataError, StorageError
from doggos_helpers.search.index import SearchIndex
from doggos_helpers.settings import Settings
from doggos_helpers.train.stage import check as check_training
from doggos_sample import MODEL_DIR, write_dataset


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
    table = pq.read_table(find_table(settings)).to_pandas()
    counts = run["counts"]
    assert counts["embedded"] + counts["errors"] == counts["manifest"] == len(table)
    assert sorted(table.path) == (manifest.table["path"].to_pylist())
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
        assert rows.vectors[i] @ expected > 0.9995  # in bfloat16 as in float32
        assert rows.paths[i].startswith(f"{rows.splits[i]}/{rows.classes[i]}/")
    test = read_embeddings(settings, "test")
    assert set(test.splits) == {"test"} and 0 < len(test) < len(rows)


def test_a_second_run_computes_only_what_is_new_or_changed(cluster, own):
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
    assert counts["computed"] == 2  # the bytes of the bad ones are what they were
    assert counts["manifest"] == total
    after = {str(p): v for p, v in zip(*_rows(settings), strict=True)}
    assert f"train/{folder.name}/{images[1].name}" not in after
    changed = {p for p in before.keys() & after.keys() if (before[p] != after[p]).any()}
    assert changed == {f"train/{folder.name}/{images[0].name}"}


def _rows(settings):
    rows = read_embeddings(settings)
    return rows.paths, rows.vectors


def test_an_interrupted_run_is_continued_and_its_half_written_files_dropped(
    cluster, settings, caplog
):
    changes = {"images_per_class": 3}
    few = build_manifest(settings.model_copy(update=changes))
    plan, folder = cluster[1].plan, table_folder(settings)
    encoder = {"model": check(settings).model, "dtype": "float32", "parts": 1}
    write_json(settings.embeddings_dir / "encoder.json", encoder)
    build_pipeline(few, settings, plan).write_datasink(
        TableSink(few, folder, plan.embed),
        ray_remote_args={"num_cpus": plan.embed.task_cpus},
    )
    stored = pq.read_table(folder)
    half = Path(folder, "00000", "half.parquet")
    half.write_bytes(b"PAR1 and then the power went")
    draft = Path(folder, "00000", ".whole.parquet.1")  # not renamed any more
    pq.write_table(stored, draft)
    with pytest.raises(StorageError, match="03_embedding"):
        read_embeddings(settings)
    run = embed(check(settings), cluster[1])
    assert stored.num_rows == few.rows > 40
    assert run["counts"]["computed"] == run["counts"]["manifest"] - few.rows
    table = pq.read_table(find_table(settings))
    assert table.num_rows == run["counts"]["manifest"]
    assert len(set(table["path"].to_pylist())) == table.num_rows
    assert not half.exists() and not draft.exists()
    assert {half.name, draft.name} <= {
        Path(record.message.split()[3]).name for record in caplog.records
    }


def change_rows(settings, change) -> None:
    """Change each file of a table as an earlier version, or a bad day, left it."""
    for file in Path(find_table(settings)).rglob("*.parquet"):
        pq.write_table(change(pq.read_table(file)), file)


@pytest.mark.long
def test_a_table_with_hashes_of_the_files_is_read_and_gone_on_with(cluster, own):
    """Version 0.1 had a column of them, and noted a layout beside the encoder."""
    change_rows(own, lambda rows: rows.append_column("digest", [["x"] * len(rows)]))
    note = own.embeddings_dir / "encoder.json"
    write_json(note, json.loads(note.read_text()) | {"layout": "2"})
    images = sorted(Path(own.dataset).rglob("*.jpg"))
    shutil.copy(images[0], images[0].with_name("one_more.jpg"))
    before = read_embeddings(own)
    run = embed(check(own), cluster[1])
    assert run["counts"]["computed"] == 1
    assert len(read_embeddings(own)) == len(before) + 1


def test_a_file_that_could_not_be_read_is_tried_again(cluster, own):
    """Other bad images are not: their bytes are what they were."""
    total, first = read_record(own)["counts"], str(read_embeddings(own).paths[0])

    def spoil(rows):
        columns = rows.to_pandas()
        columns.loc[columns.path == first, "reason"] = "unreadable: stale file handle"
        columns.loc[columns.path == first, "embedding"] = None
        return pa.Table.from_pandas(columns, rows.schema, preserve_index=False)

    change_rows(own, spoil)
    run = embed(check(own), cluster[1])
    assert run["counts"] == total | {"computed": 1}
    assert first in read_embeddings(own).paths


@pytest.mark.long
def test_parts_hold_each_row_once_and_drop_what_is_doubled(cluster, own):
    """With several parts, as a large data set has, and a file written twice."""
    settings, folder = own, table_folder(own)
    shutil.rmtree(folder)
    manifest = build_manifest(settings, parts=3)
    run = embed(EmbedInputs(settings, manifest, check(settings).model), cluster[1])
    assert run["counts"]["computed"] == manifest.rows
    assert len(list(Path(folder).iterdir())) == 3
    first = sorted(Path(folder).rglob("*.parquet"))[0]
    shutil.copy(first, first.with_name("again.parquet"))
    paths = sorted(Path(settings.dataset).rglob("*.jpg"))
    paths[0].unlink()
    fewer = build_manifest(settings, parts=3)
    run = embed(EmbedInputs(settings, fewer, check(settings).model), cluster[1])
    assert run["counts"]["computed"] == 0 and fewer.rows == manifest.rows - 1
    stored = pq.read_table(folder)["path"].to_pylist()
    assert sorted(stored) == fewer.table["path"].to_pylist()
    shutil.copy(paths[1], paths[1].with_name("one_more.jpg"))  # two parts have it all
    more = build_manifest(settings, parts=3)
    run = embed(EmbedInputs(settings, more, check(settings).model), cluster[1])
    assert run["counts"]["computed"] == 1 and run["counts"]["manifest"] == more.rows


def test_the_rows_are_shared_out(cluster, settings):
    """One task for all of them would keep all workers but one waiting."""
    manifest, plan = build_manifest(settings), cluster[1].plan
    done = build_pipeline(manifest, settings, plan).materialize()
    blocks = math.ceil(manifest.rows / block_rows(manifest.rows, plan.embed))
    assert blocks > 3 and done.num_blocks() >= blocks - 1  # small ones may be joined


def test_a_folder_without_labels_is_embedded_and_searched_not_trained(
    cluster, dogs, tmp_path
):
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, file in enumerate(sorted((dogs / "test").rglob("*.jpg"))[:12]):
        shutil.copy(file, flat / f"{i}.jpg")
    changes = {"dataset": str(flat), "storage": str(tmp_path / "storage")}
    settings = cluster[0].model_copy(update=changes)
    run = embed(check(settings), cluster[1])
    assert run["counts"]["embedded"] == 12 and run["classes"] == []
    rows = read_embeddings(settings)
    best = SearchIndex(rows).top_k(rows.vectors[3], 2)[0]
    assert (best.path, best.class_name, best.split) == (rows.paths[3], "", "")
    with pytest.raises(DataError, match="can't train: the images have no classes"):
        check_training(settings)


ONE_CPU = """
import ray, sys
ray.init(address="local", num_cpus=1, log_to_driver=False)
from doggos_helpers.cluster.connect import connect
from doggos_helpers.embed.stage import check, embed
from doggos_helpers.settings import Settings
settings = Settings(dataset=sys.argv[1], storage=sys.argv[2])
counts = embed(check(settings), connect(settings))["counts"]
print("computed", counts["computed"], "of", counts["manifest"])
"""


@pytest.mark.long
def test_a_node_of_one_cpu_is_enough(dogs, tmp_path):
    """A task that reserves more than the plan says would wait for ever."""
    command = [sys.executable, "-c", ONE_CPU, str(dogs), str(tmp_path)]
    there = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(
        command, env=there, capture_output=True, text=True, timeout=180
    )
    count = sum(p.is_file() for p in dogs.glob("*/*/*"))
    assert f"computed {count} of {count}" in done.stdout, done.stderr


def test_nothing_to_do_leaves_the_artefact_alone(cluster, own):
    first = embed(check(own), cluster[1])
    stamps = {p: p.stat().st_mtime_ns for p in Path(find_table(own)).rglob("*")}
    assert len(stamps) > 1 and embed(check(own), cluster[1]) == first
    for path, stamp in stamps.items():
        assert path.stat().st_mtime_ns == stamp


@pytest.mark.long
def test_another_precision_starts_over_where_the_user_asks_for_it(cluster, own):
    settings, used = own, cluster[1].plan.embed.dtype
    dtype = "bfloat16" if used == "float32" else "float32"
    asked = settings.model_copy(update={"dtype": dtype})
    plan = plan_workers(cluster[1].nodes, asked)
    other = dataclasses.replace(cluster[1], plan=plan)
    exact = read_embeddings(settings)
    kept = embed(check(settings), other)  # another machine's plan, and nobody asked
    assert kept["finished"] == read_record(settings)["finished"]
    assert np.array_equal(read_embeddings(settings).vectors, exact.vectors)
    run = embed(check(asked), other)
    assert run["counts"]["computed"] == run["counts"]["manifest"]
    rough = read_embeddings(asked)
    cosines = (exact.vectors * rough.vectors).sum(1)
    assert not np.array_equal(exact.vectors, rough.vectors) and cosines.min() > 0.999


@pytest.mark.long
def test_a_model_changed_in_place_starts_over(cluster, settings, tmp_path):
    """Its folder and name stay; its old embeddings don't compare with new ones."""
    model = tmp_path / "model"
    shutil.copytree(MODEL_DIR, model)
    few = settings.model_copy(update={"model": str(model), "images_per_class": 1})
    first, before = embed(check(few), cluster[1]), read_embeddings(few)
    weights = load_file(model / "model.safetensors")
    weights["visual_projection.weight"] = weights["visual_projection.weight"].flip(0)
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    run, after = embed(check(few), cluster[1]), read_embeddings(few)
    assert run["counts"]["computed"] == run["counts"]["manifest"] == len(after)
    assert run["encoder"]["model"] != first["encoder"]["model"]
    assert np.array_equal(before.paths, after.paths)
    np.testing.assert_allclose(after.vectors, before.vectors[:, ::-1], atol=1e-2)
