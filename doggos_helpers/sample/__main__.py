"""Draws a data set of any size: ``python -m doggos_helpers.sample --out PATH``."""

import argparse
import sys
import time
from pathlib import Path

from doggos_helpers.sample import VERSION, write_dataset


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m doggos_helpers.sample", description="Draw the sample data set."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to create")
    parser.add_argument("--images-per-breed", type=int, default=60, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0, help="0: one a core")
    args = parser.parse_args(argv)
    start = time.monotonic()
    try:
        count = write_dataset(args.out, args.images_per_breed, args.seed, args.workers)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    seconds = time.monotonic() - start
    files = (p for p in args.out.rglob("*") if p.is_file())
    size = sum(p.stat().st_size for p in files)
    print(
        f"{count:,} images in {seconds:.1f} s ({count / seconds:.0f} a second), "
        f"{size / 1e6:.1f} MB, drawings version {VERSION}: {args.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
