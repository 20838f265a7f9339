"""Search on vectors whose order is known, and a vector index beside exact search."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from doggos_helpers.embed.table import Embeddings, find_table, read_embeddings
from doggos_helpers.errors import DataError, SettingsError, StorageError
from doggos_helpers.search import __main__ as search
from doggos_helpers.search.index import SearchIndex, open_index
from doggos_helpers.search.stored import update_index
from doggos_helpers.settings import Settings
from tests.synthetic import write_embeddings


@pytest.fixture
def index() -> SearchIndex:
    angles = np.radians([0, 10, 20, 90, 180])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    paths = np.array([f"train/x/{i}.jpg" for i in range(5)])
    classes = np.array(["a", "b", "a", "b", "a"])
    return SearchIndex(Embeddings(paths, classes, np.array(["train"] * 5), vectors))


def test_best_first_with_cosines(index):
    matches = index.top_k(np.array([1, 0], np.float32), k=3)
    assert [m.path[-5] for m in matches] == ["0", "1", "2"]
    assert matches[1].score == pytest.approx(np.cos(np.radians(10)), abs=1e-6)


def test_class_filter_and_fewer_than_k(index):
    matches = index.top_k(np.array([1, 0], np.float32), k=9, classes=["b"])
    assert [m.class_name for m in matches] == ["b", "b"]
    assert matches[0].path.endswith("1.jpg")


def test_wrong_k_and_unknown_class_are_named(index):
    with pytest.raises(SettingsError, match="k = 0"):
        index.top_k(np.array([1, 0], np.float32), k=0)
    with pytest.raises(SettingsError, match="zebra") as caught:
        index.top_k(np.array([1, 0], np.float32), k=1, classes=["zebra"])
    assert caught.value.where == "classes: a, b"


def test_many_classes_are_not_all_listed():
    many = np.array([f"class {i:02}" for i in range(50)])
    rows = Embeddings(many, many, many, np.eye(50, 2, dtype=np.float32))
    with pytest.raises(SettingsError) as caught:
        SearchIndex(rows).top_k(np.eye(1, 2)[0], 1, ["zebra"])
    assert caught.value.where.startswith("classes: class 00, class 01")
    assert caught.value.where.endswith("[...]") and len(caught.value.where) < 450


def test_the_command_takes_a_relative_storage_with_spaces(tmp_path, capsys):
    storage = tmp_path / "my storage, 100 %"
    write_embeddings(Settings(storage=str(storage)), dimension=128)
    query = ["--text", "a dog", "--storage", os.path.relpath(storage)]
    assert search.main([*query, "-k", "3", "--classes", "pug, beagle"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all("pug" in x or "beagle" in x for x in lines)
    assert search.main([*query, "-k", "500"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == 175 and "fewer than k = 500" in last


def test_a_path_and_a_split_and_what_is_not_there(index):
    assert np.array_equal(index.vector_of("train/x/0.jpg"), np.array([1, 0]))
    assert not index.top_k(np.array([1, 0], np.float32), k=2, split="val")
    with pytest.raises(SettingsError, match="train/x/9.jpg"):
        index.vector_of("train/x/9.jpg")


@pytest.fixture
def large(tmp_path, monkeypatch) -> Settings:
    """Embeddings that are searched through a vector index."""
    monkeypatch.setattr("doggos_helpers.search.index.EXACT_ROWS", 1000)
    settings = Settings(storage=str(tmp_path))
    write_embeddings(
        settings, dimension=32, train=5000, val=600, test=200, noise=0.9,
        classes=("beagle", "pug", "o'dog", "corgi"),
    )  # fmt: skip
    return settings


def paths(matches):
    return [match.path for match in matches]


def test_the_vector_index_finds_what_exact_search_finds(large, capsys):
    rows = read_embeddings(large)
    exact, index = SearchIndex(rows), open_index(large)
    assert not isinstance(index, SearchIndex) and len(index) == len(exact) == 5800
    assert capsys.readouterr() == ("", "")  # quiet, where nobody looks on
    shared, queries = 0, range(0, 5800, 97)
    for i in queries:
        found, true = (one.top_k(rows.vectors[i], 10) for one in (index, exact))
        shared += len(set(paths(found)) & set(paths(true)))
        assert found[0].path == rows.paths[i]
        assert found[0].score == pytest.approx(1, abs=1e-5)
        assert [m.score for m in found] == sorted(m.score for m in found)[::-1]
    assert shared / (10 * len(queries)) > 0.97
    few = {"classes": ["o'dog"], "split": "test"}
    got, true = (one.top_k(rows.vectors[0], 10, **few) for one in (index, exact))
    assert paths(got) == paths(true) and len(got) == 10
    everything = index.top_k(rows.vectors[0], 9999, **few)
    assert {m.class_name for m in everything} == {"o'dog"} and len(everything) == 50
    path = str(rows.paths[7])
    assert np.allclose(index.vector_of(path), rows.vectors[7])
    for wrong in ("train/none.jpg", "' OR 1=1 --"):
        with pytest.raises(SettingsError, match="no such image"):
            index.vector_of(wrong)
    with pytest.raises(SettingsError, match="zebra"):
        index.top_k(rows.vectors[0], 1, classes=["zebra"])


@pytest.fixture
def folder(large) -> Path:
    """Return the folder of the table's one file."""
    return Path(find_table(large), "00000")


def stored_paths(index) -> list[str]:
    return index.rows.to_arrow()["path"].to_pylist()


def write_more(folder: Path, count: int) -> None:
    """Write a second file of the table: known vectors under new paths."""
    table = pq.read_table(folder / "embeddings.parquet")
    good = table.filter(pc.field("reason").is_null()).slice(0, count)
    names = pa.array([f"train/pug/new{i}.jpg" for i in range(count)])
    new = good.set_column(good.column_names.index("path"), "path", names)
    pq.write_table(new, folder / "more.parquet")


def test_the_index_follows_the_table(large, folder):
    built = open_index(large)
    assert open_index(large).rows.version == built.rows.version  # nothing to do
    write_more(folder, 10)
    index = open_index(large)
    assert len(index) == 5810
    vector = index.vector_of("train/pug/new3.jpg")
    assert "train/pug/new3.jpg" in paths(index.top_k(vector, 2))
    (folder / "more.parquet").unlink()
    table = pq.read_table(folder / "embeddings.parquet")
    pq.write_table(table.slice(0, 4000), folder / "embeddings.parquet")  # as settled
    left = table.slice(0, 4000).filter(pc.field("reason").is_null())
    assert sorted(stored_paths(open_index(large))) == left["path"].to_pylist()


@pytest.mark.parametrize("step", ["_index", "write_json"])
@pytest.mark.parametrize("built", [True, False])
def test_an_update_that_died_is_undone(large, folder, monkeypatch, built, step):
    if built:
        open_index(large)
    write_more(folder, 300)

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"doggos_helpers.search.stored.{step}", die)
        with pytest.raises(KeyboardInterrupt):
            update_index(large)
    write_more(folder, 200)  # and the table changed, too
    stored = stored_paths(open_index(large))
    assert len(stored) == len(set(stored)) == 6000


def test_lists_are_made_anew_where_the_table_has_grown(large, folder):
    def trained() -> int:
        note = large.artefacts / "search" / "index.json"
        return json.loads(note.read_text())["trained"]

    table = pq.read_table(folder / "embeddings.parquet")
    pq.write_table(table.slice(0, 2000), folder / "embeddings.parquet")
    assert len(open_index(large)) == trained() == 1998  # the rest are bad rows
    write_more(folder, 500)
    assert len(open_index(large)) == 2498 and trained() == 1998
    pq.write_table(table.slice(2000), folder / "rest.parquet")
    index = open_index(large)
    assert len(index) == trained() == 6300
    assert index.rows.index_stats("embedding_idx").num_unindexed_rows == 0


def test_building_shows_its_progress_where_it_is_asked_for(large, capsys):
    shown = large.model_copy(update={"progress": "yes"})
    update_index(shown)
    said = capsys.readouterr().err
    assert "reading embeddings" in said and "5800 rows" in said
    assert "sorting them into lists" in said


def test_replicas_read_the_index_and_do_not_build_it(large):
    with pytest.raises(StorageError, match="no such artefact yet"):
        open_index(large, update=False)


def test_the_command_takes_one_query_of_three_kinds(tmp_path, capsys):
    settings = Settings(storage=str(tmp_path))
    write_embeddings(settings, dimension=128)
    known = str(read_embeddings(settings).paths[5])
    place = ["--storage", str(tmp_path), "-k", "2"]
    assert search.main(["--path", known, "--split", "train", *place]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith(known) or "train/" in second
    with pytest.raises(SettingsError, match="--text, --image or --path"):
        search.main(["--path", known, "--text", "a dog", *place])
    files = [tmp_path / "one, or.jpg", tmp_path / "two.jpg"]
    for file, colour in zip(files, ("red", "brown"), strict=True):
        Image.new("RGB", (200, 150), colour).save(file)
    assert search.main(["--image", str(files[0]), *place]) == 0
    alone = capsys.readouterr().out
    assert search.main(["--image", f"{files[1]},{files[1]}", *place]) == 0
    assert capsys.readouterr().out != alone
    (tmp_path / "text.jpg").write_text("not a picture")
    Image.new("RGB", (30_000, 20)).save(tmp_path / "narrow.png")
    for wrong in ("none.jpg", "text.jpg", "narrow.png"):
        with pytest.raises(DataError, match="can't use the image") as told:
            search.main(["--image", f"{files[1]},{tmp_path}/{wrong}", *place])
        assert wrong in told.value.where
