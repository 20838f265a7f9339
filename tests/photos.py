"""Where real photographs are, for the tests that need them."""

import os
from pathlib import Path

import pytest

FOLDER = Path(
    os.environ.get("DOGGOS_TEST_PHOTOS")
    or Path(__file__).parents[2] / "shared" / "photos"
).resolve()  # as settings do: a link would be another data set
DOGS = FOLDER / "doggos"
NOT_DOGS = FOLDER / "not_dog"

needs_photos = pytest.mark.skipif(
    not DOGS.is_dir(),
    reason=f"no photographs in {FOLDER}: set DOGGOS_TEST_PHOTOS to a folder of them",
)
