"""All kinds of files in one folder, embedded by one command."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from doggos_helpers.data.manifest import build_manifest
from doggos_helpers.embed.table import find_table
from doggos_helpers.settings import Settings
from tests.faults.commands import in_its_own
from tests.faults.datasets import dogs
from tests.faults.files import FILES, JPEG, huge
from tests.processes import REFUSABLE, needs_refusal

UNREADABLE = "may not be read.jpg"
DANGLING = "gone.jpg"


@pytest.fixture(scope="module")
def outcome(tmp_path_factory, cluster_variables):
    folder = tmp_path_factory.mktemp("files")
    root = dogs(folder / "my dogs", each=8)
    odd = root / "train" / "beagle"
    for file in FILES:
        (odd / file.name).write_bytes(file.data)
    (odd / DANGLING).symlink_to(folder / "nothing")
    settings = Settings(dataset=str(root), storage=str(folder / "sto rage"))
    options = {"DOGGOS_DATASET": str(root), "DOGGOS_STORAGE": settings.storage}
    done = in_its_own(["embed"], {**cluster_variables, **options})
    assert done.code == 0, done.err
    table = pq.read_table(find_table(settings)).to_pandas()
    return done, table.assign(name=table.path.str.split("/").str[2]), settings


def test_each_file_is_a_row_with_an_embedding_or_its_reason(outcome):
    _, table, _ = outcome
    rows = table[table.path.str.startswith("train/beagle/")].set_index("name")
    for file in FILES:
        row = rows.loc[file.name]
        if file.reason:
            assert row.embedding is None and file.reason in row.reason, row.reason
        else:
            assert pd.isna(row.reason), f"{file.name}: {row.reason}"
            assert abs(np.linalg.norm(row.embedding) - 1) < 1e-5
    assert rows.loc[DANGLING].reason == "unreadable: no such file or directory"


def test_counts_reconcile_and_the_last_lines_give_the_reasons(outcome):
    done, table, settings = outcome
    manifest = build_manifest(settings).table
    bad = sum(1 for file in FILES if file.reason) + 1
    assert len(table) == manifest.num_rows == 8 * 6 + len(FILES) + 1
    assert f"{len(table) - bad} embedded + {bad} bad = {len(table)}" in done.out
    for reason in {file.reason for file in FILES if file.reason}:
        assert reason in done.out, done.out
    assert "Warning" not in done.err + done.out, done.err


def test_orientation_is_applied_and_one_that_does_not_exist_is_not(outcome):
    _, table, _ = outcome
    vectors = table.set_index("name").embedding
    plain = vectors["turned 1.jpg"]
    for number in (0, 9, 60_000):
        assert np.allclose(vectors[f"turned {number}.jpg"], plain, atol=1e-5)
    assert np.dot(vectors["turned 3.jpg"], plain) < 0.999  # red below blue


@pytest.mark.long
def test_a_second_run_tries_the_bad_files_alone(outcome, cluster_variables):
    _, table, settings = outcome
    options = {"DOGGOS_DATASET": settings.dataset, "DOGGOS_STORAGE": settings.storage}
    again = in_its_own(["embed"], {**cluster_variables, **options})
    assert again.code == 0, again.err
    stored = pq.read_table(find_table(settings)).to_pandas()
    assert stored.path.tolist() == table.path.tolist()
    kept = stored.reason.isna()
    assert np.array_equal(
        np.stack(stored.embedding[kept]), np.stack(table.embedding[kept])
    )
    assert stored.reason.dropna().tolist() == table.reason.dropna().tolist()


@needs_refusal
def test_a_file_that_may_not_be_read_and_one_that_vanished_have_reasons(tmp_path):
    root = dogs(tmp_path / "dogs")
    closed = root / "train" / "beagle" / UNREADABLE
    closed.write_bytes(JPEG)
    closed.chmod(0)
    asked = f"""
from doggos_helpers.data.images import BadImage
from doggos_helpers.data.files import list_files
from doggos_helpers.data.files import read_bytes
root = {str(root)!r}
print(sum(len(table) for table in list_files(root)))
for name in ({UNREADABLE!r}, "vanished.jpg"):
    try:
        read_bytes(root, "train/beagle/" + name)
    except BadImage as error:
        print(error)
"""
    done = subprocess.run(
        [*REFUSABLE, sys.executable, "-c", asked],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == [
        "13",
        "unreadable: permission denied",
        "unreadable: no such file or directory",
    ], done.stderr


def test_a_decompression_bomb_is_refused_before_it_takes_memory(tmp_path):
    asked = """
import resource, sys
from doggos_helpers.data.images import BadImage
from doggos_helpers.data.images import upright
import PIL.Image, numpy
data = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    upright(data)
except BadImage as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(huge(12_000, 9_000))
    done = subprocess.run(
        [sys.executable, "-c", asked, str(bomb)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    said, megabytes = done.stdout.splitlines()
    print(f"a bomb of 324 MB took {megabytes} MB")
    assert said == "too many pixels: 12000 x 9000"
    assert int(megabytes) < 32, "decoded it would take 324 MB"
    assert "Warning" not in done.stderr, done.stderr
