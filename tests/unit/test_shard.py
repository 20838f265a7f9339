"""The rows of a training worker: none left out, none doubled, read in part or whole."""

import itertools

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from doggos_helpers.embed.table import read_contents, read_embeddings
from doggos_helpers.errors import StorageError
from doggos_helpers.settings import Settings
from doggos_helpers.train.shard import Shard
from tests.synthetic import CLASSES, write_embeddings

ROWS = 101


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Settings of a table of five files; two of them have no training rows."""
    chosen = Settings(storage=str(tmp_path_factory.mktemp("shard")))
    write_embeddings(chosen, train=ROWS)
    folder = chosen.embeddings_dir / "table" / "00000"
    table = pq.read_table(folder / "embeddings.parquet")
    (folder / "embeddings.parquet").unlink()
    edges = (0, 43, 60, 90, 150, len(table))
    parts = [table.slice(a, b - a) for a, b in itertools.pairwise(edges)]
    parts[2], parts[0] = parts[0], parts[2]  # that of test amid those of train
    for number, part in enumerate(parts):
        pq.write_table(part, folder / f"{number}.parquet")
    return chosen


def rows_of(batches):
    return np.concatenate([batch["embedding"].numpy() for batch in batches])


def sorted_rows(rows):
    return rows[np.lexsort(rows.T)]


@pytest.mark.parametrize("most_rows", [2**40, 20, 1])
@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_every_row_once_whatever_the_number_of_workers(settings, world, most_rows):
    contents, expected = read_contents(settings), read_embeddings(settings, "train")
    shards = [
        Shard(contents, "train", list(CLASSES), rank, world, most_rows)
        for rank in range(world)
    ]
    assert sum(map(len, shards)) == ROWS
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    batches = [list(shard.batches(8, seed=3)) for shard in shards]
    assert len({len(some) for some in batches}) == 1, "another number of steps"
    assert max(len(b["label"]) for some in batches for b in some) <= 8
    seen = np.concatenate([rows_of(some) for some in batches])
    assert np.array_equal(sorted_rows(seen), sorted_rows(expected.vectors))


def test_labels_belong_to_their_rows(settings):
    rows = read_embeddings(settings, "train")
    of = {v.tobytes(): c for v, c in zip(rows.vectors, rows.classes, strict=True)}
    shard = Shard(read_contents(settings), "train", list(CLASSES), 1, 2, most_rows=9)
    for batch in shard.batches(8, seed=0):
        for vector, label in zip(batch["embedding"], batch["label"], strict=True):
            assert of[vector.numpy().tobytes()] == CLASSES[label]


def test_the_order_is_that_of_the_seed(settings):
    shard = Shard(read_contents(settings), "train", list(CLASSES))
    one, same, other = (rows_of(shard.batches(8, seed=s)) for s in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    plain = Shard(read_contents(settings), "train", list(CLASSES), most_rows=10)
    assert np.array_equal(rows_of(plain.batches(8)), rows_of(shard.batches(8)))


def test_kept_or_read_again_the_batches_are_the_same(settings):
    """Over two epochs, of a shard that fits and of one that must be read each time."""
    contents = read_contents(settings)
    kept, read = (
        Shard(contents, "train", list(CLASSES), 1, 2, most_rows=60) for _ in range(2)
    )
    assert kept.fits
    read.rows = read._read
    for seed in (1, 2):
        pairs = zip(kept.batches(8, seed), read.batches(8, seed), strict=True)
        for one, other in pairs:
            assert torch.equal(one["embedding"], other["embedding"])
            assert torch.equal(one["label"], other["label"])
    assert kept.rows.cache_info().hits > 0


def test_each_row_has_the_same_weight_also_in_a_last_batch_of_one(settings):
    """The steps of an epoch, added up, are the mean over all rows."""
    contents = read_contents(settings)
    for world, size in ((1, 100), (2, 10), (3, 33)):
        total = torch.zeros(contents.dimension)
        for rank in range(world):
            shard = Shard(contents, "train", list(CLASSES), rank, world)
            batches = list(shard.batches(size, seed=rank))
            for batch in batches:
                total += batch["embedding"].sum(dim=0) / batch["rows"] / world
        mean = read_embeddings(settings, "train").vectors.mean(axis=0)
        np.testing.assert_allclose(total / len(batches), mean, atol=1e-5)


def test_more_workers_than_rows_get_empty_batches(tmp_path):
    few = Settings(storage=str(tmp_path))
    write_embeddings(few, train=2, val=1, test=1)
    shards = [Shard(read_contents(few), "train", list(CLASSES), r, 3) for r in range(3)]
    batches = [list(shard.batches(8, seed=0)) for shard in shards]
    assert [[len(b["label"]) for b in some] for some in batches] == [[0], [1], [1]]


def test_a_table_that_changed_meanwhile_is_refused(settings, tmp_path):
    contents = read_contents(settings)
    file = next(iter(contents.files))
    contents.files[file]["train"] -= 1
    with pytest.raises(StorageError, match="rows where there were"):
        next(Shard(contents, "train", list(CLASSES)).batches(8))
