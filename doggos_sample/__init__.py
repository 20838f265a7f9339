"""The embedded sample: pictures of drawn dogs and a small CLIP that reads them.

With it every notebook runs without network, account or GPU. Importing this module is
cheap: drawing and model libraries load when something is drawn.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

    from doggos_sample.job import Runner

BREEDS: tuple[str, ...] = (
    "basset_hound",
    "beagle",
    "border_collie",
    "chihuahua",
    "corgi",
    "dachshund",
    "dalmatian",
    "german_shepherd",
    "golden_retriever",
    "greyhound",
    "labrador",
    "poodle",
    "pug",
    "rottweiler",
    "samoyed",
    "siberian_husky",
)
"""Names of the breeds, sorted: the classes of the data set."""

VERSION = "2"
"""Version of the drawings: the data set folder is named after it."""

MODEL_DIR = Path(__file__).parent / "model"
"""Folder of the small CLIP, in the format of transformers."""


def write_dataset(
    out: "Path | str",
    images_per_breed: int = 60,
    seed: int = 0,
    *,
    filesystem: "FileSystem | None" = None,
    run: "Runner | None" = None,
    progress: bool = False,
) -> int:
    """Draw the data set as ``<out>/<split>/<breed>/<id>.jpg``.

    The table ``<out>/attributes.parquet`` comes last and says what each picture shows.
    Where the same data set is there already, nothing is drawn. A folder is complete or
    not there at all; in a bucket, repeating an interrupted call draws what is missing.

    Args:
        out: Folder, or base path in the file system; it must not hold anything else.
        images_per_breed: Pictures of each breed, over all splits.
        seed: The same seed draws the same pictures.
        filesystem: Of pyarrow; None: this machine's.
        run: Draws parts in parallel, and yields the pictures of each as it is done;
            None: a process for each core of this machine.
        progress: Whether to draw a progress bar.

    Returns:
        The number of images.

    Raises:
        SampleError: A number is out of range, or ``out`` holds something else.
        OSError: It can't be written there.
    """
    from doggos_sample.job import Job
    from doggos_sample.writer import write

    job = Job(images_per_breed, seed, run, progress)
    return write(str(out), job, filesystem).images
