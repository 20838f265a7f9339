"""The sample drawn by Ray tasks: what several thousand pictures take by themselves."""

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray

from doggos_helpers.data.manifest import draw_sample
from doggos_helpers.errors import StorageError
from doggos_helpers.sample import on_ray
from doggos_sample import BREEDS, write_dataset
from doggos_sample.job import Job


@pytest.fixture
def runner(cluster, monkeypatch):
    """Use Ray from the first picture on, and only Ray."""
    monkeypatch.setattr(on_ray, "MANY", 1)
    monkeypatch.setattr(on_ray, "run_here", None)
    return on_ray.runner(cluster[0])


def digests(out: Path) -> dict[str, str]:
    return {
        str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in out.rglob("*.*")
        if p.is_file() and p.suffix != ".parquet"
    }


def test_ray_draws_the_same_pictures(tmp_path, runner):
    written = draw_sample(str(tmp_path / "on_ray"), Job(2, 6, runner))
    assert written.images == written.drawn == 2 * len(BREEDS)
    assert ray.is_initialized()  # it was before, so it stays
    assert write_dataset(tmp_path / "here", 2, seed=6) == 2 * len(BREEDS)
    assert digests(tmp_path / "on_ray") == digests(tmp_path / "here")
    tables = [
        pq.read_table(tmp_path / n / "attributes.parquet") for n in ("on_ray", "here")
    ]
    assert tables[0].equals(tables[1])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["here", "on_ray"]


def test_what_a_task_can_not_write_is_named(runner):
    # No folder of workers: the parts go to a file system of each process's own.
    place = "memory://unshared/dogs"
    with pytest.raises(StorageError, match="parts were drawn but are not there") as e:
        draw_sample(place, Job(1, 0, runner))
    assert "that all nodes share" in str(e.value)
