"""The embedded sample: pictures of drawn dogs and a small CLIP that reads them.

With it every notebook runs without network, account or GPU. Importing this module is
cheap: drawing and model libraries load when something is drawn.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from doggos_helpers.settings import Settings

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
    workers: int = 0,
    settings: "Settings | None" = None,
) -> int:
    """Draw the data set as ``<out>/<split>/<breed>/<id>.jpg``.

    The table ``<out>/attributes.parquet`` comes last and says what each picture shows.
    Where the same data set is there already, nothing is drawn. A folder is complete or
    not there at all; at a URI, repeating an interrupted call draws what is missing.
    Several thousand pictures are drawn on Ray, fewer by processes of this machine.

    Args:
        out: Folder or URI (``s3://...``); it must not hold anything else.
        images_per_breed: Pictures of each breed, over all splits.
        seed: The same seed draws the same pictures.
        workers: Parts drawn at a time; 0 is one a core.
        settings: For progress bars and for connecting to Ray; default: the user's.

    Returns:
        The number of images.

    Raises:
        SettingsError: A number is out of range, or ``out`` holds something else.
        StorageError: It can't be written there.
        ClusterError: No Ray answers where one is needed.
    """
    from doggos_helpers.settings import Settings
    from doggos_sample.job import Job
    from doggos_sample.writer import write

    job = Job(images_per_breed, seed, workers, settings or Settings.given())
    return write(str(out), job).images
