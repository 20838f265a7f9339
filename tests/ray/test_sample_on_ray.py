"""The sample drawn by Ray tasks: what several thousand pictures take by themselves."""

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray

from doggos_helpers.errors import StorageError
from doggos_sample import BREEDS, workers, write_dataset, writer


@pytest.fixture
def few_are_many(monkeypatch):
    """Use Ray from the first picture on, and only Ray."""
    monkeypatch.setattr(writer, "MANY", 1)
    monkeypatch.setattr(workers, "ProcessPoolExecutor", None)


def digests(out: Path) -> dict[str, str]:
    return {
        str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in out.rglob("*.*")
        if p.is_file() and p.suffix != ".parquet"
    }


def test_ray_draws_the_same_pictures(cluster, tmp_path, few_are_many, monkeypatch):
    settings = cluster[0]
    out = tmp_path / "on_ray"
    assert write_dataset(out, 2, seed=6, settings=settings) == 2 * len(BREEDS)
    assert ray.is_initialized()  # it was before, so it stays
    monkeypatch.undo()
    write_dataset(tmp_path / "here", 2, seed=6, workers=1)
    assert digests(out) == digests(tmp_path / "here")
    tables = [
        pq.read_table(tmp_path / n / "attributes.parquet") for n in ("on_ray", "here")
    ]
    assert tables[0].equals(tables[1])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["here", "on_ray"]


def test_what_a_task_can_not_write_is_named(cluster, tmp_path, few_are_many):
    # No folder of workers: the parts go to a file system of each process's own.
    place = "memory://unshared/dogs"
    with pytest.raises(StorageError, match="parts were drawn but are not there") as e:
        write_dataset(place, 1, settings=cluster[0])
    assert "that all nodes share" in str(e.value)
