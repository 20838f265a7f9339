"""The embedded sample: pictures of drawn dogs and a small CLIP that reads them.

With it every notebook runs without network, account or GPU. Importing this module is
cheap: drawing and model libraries load when something is drawn.
"""

from pathlib import Path

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

VERSION = "1"
"""Version of the drawings: the data set folder is named after it."""

MODEL_DIR = Path(__file__).parent / "model"
"""Folder of the small CLIP, in the format of transformers."""


def write_dataset(
    out: Path, images_per_breed: int = 60, seed: int = 0, workers: int = 0
) -> int:
    """Draw the data set as ``<out>/<split>/<breed>/<id>.jpg``.

    Args:
        out: Folder to create; it must not hold anything yet.
        images_per_breed: Pictures of each breed, over all splits.
        seed: The same seed draws the same pictures.
        workers: Drawing processes; 0 is one a core, at most eight.

    Returns:
        The number of images written.

    Raises:
        ValueError: Where a number is out of range.
        FileExistsError: Where ``out`` holds something already.
    """
    from doggos_helpers.sample import dataset

    return dataset.write(Path(out), images_per_breed, seed, workers)
