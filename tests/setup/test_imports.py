"""What each of Ray's processes imports as it starts, which is paid many times over."""

import subprocess
import sys


def test_ray_is_imported_without_building_a_parser() -> None:
    # jsonschema from 4.25 on does, where Jupyter's format checkers are installed.
    code = "import ray, sys; print([m for m in ('lark', 'torch') if m in sys.modules])"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "[]"
