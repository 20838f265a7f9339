"""How much memory a listing takes: made-up keys, through the manifest's own code.

usage: python -m benchmarks.manifest [MILLIONS ...]

Each size runs in a process of its own. A table of 100,000 keys stands for a folder;
what lists them, a file system, is left out.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

RESULTS = Path(__file__).with_name("results") / "manifest.json"
FOLDER = 100_000


def made_up(rows: int) -> Iterator[pa.Table]:
    """Yield what `list_files` would: a table a folder."""
    for start in range(0, rows, FOLDER):
        numbers = np.arange(start, min(start + FOLDER, rows))
        folder = f"train/breed_{start // FOLDER % 100:03}"
        paths = [f"{folder}/{number:010}.jpg" for number in numbers]
        yield pa.table({"path": paths, "size": numbers + 1, "modified": numbers})


def measure(rows: int) -> dict[str, float]:
    """List made-up keys, write their manifest, and read one part of it."""
    from doggos_helpers.data import manifest
    from doggos_helpers.data.listing import Listing

    list(made_up(FOLDER))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        found, draft = Listing(), Path(name, "draft.parquet")
        found.write(found.images(made_up(rows)), draft)
        parts = -(-rows // manifest.PART_ROWS)
        manifest.publish(draft, f"{name}/manifest", parts)
        sizes = [len(manifest.read_part(f"{name}/manifest", i)) for i in range(parts)]
    assert sum(sizes) == sum(found.labels.values()) == rows
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "rows": rows,
        "parts": parts,
        "seconds": round(time.monotonic() - started, 1),
        "start_mib": round(before),
        "peak_mib": round(peak),
    }


def main(arguments: list[str]) -> None:
    """Print a table and write the figures."""
    if arguments[:1] == ["--one"]:
        print(json.dumps(measure(int(arguments[1]))))
        return
    figures = []
    print(f"{'rows':>12}{'parts':>7}{'seconds':>9}{'start MiB':>11}{'peak MiB':>10}")
    for millions in map(float, arguments or ("0.1", "1", "10")):
        command = [sys.executable, "-m", "benchmarks.manifest", "--one"]
        rows = str(int(millions * 1e6))
        done = subprocess.run([*command, rows], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        one = json.loads(done.stdout)
        figures.append(one)
        print(
            f"{one['rows']:>12,}{one['parts']:>7}{one['seconds']:>9}"
            f"{one['start_mib']:>11}{one['peak_mib']:>10}",
            flush=True,
        )
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
