"""Exact search on vectors whose order is known."""

import os

import numpy as np
import pytest

from doggos_helpers.embed.table import Embeddings
from doggos_helpers.errors import SettingsError
from doggos_helpers.search import __main__ as search
from doggos_helpers.search.index import SearchIndex
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
        SearchIndex(rows).mask_of(["zebra"])
    assert caught.value.where.endswith("class 29 and 20 more")


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
