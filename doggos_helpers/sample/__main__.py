"""Draws a data set of any size: ``python -m doggos_helpers.sample --out PLACE``."""

import time
from collections.abc import Sequence

from pydantic import Field

from doggos_helpers.artefacts import writing
from doggos_helpers.data.manifest import draw_sample
from doggos_helpers.errors import SettingsError, run_command, without_secrets
from doggos_helpers.sample.on_ray import runner
from doggos_helpers.settings import Settings
from doggos_sample import VERSION
from doggos_sample.job import MOST, Job


class SampleSettings(Settings):
    """Draw the sample data set, of any size, into a folder or a bucket."""

    out: str = Field("", description="folder or URI (s3://...) to write to")
    images_per_breed: int = Field(60, ge=1, le=MOST, description="over all splits")
    seed: int = Field(0, ge=0, description="of the drawings")
    workers: int = Field(0, ge=0, description="parts drawn at a time; 0: one a core")


def main(arguments: Sequence[str]) -> None:
    """Draw the data set and print its rate and size."""
    settings = SampleSettings.from_command("doggos_helpers.sample", list(arguments))
    if not settings.out:
        fix = "Name a folder or a URI, such as --out dogs or --out s3://bucket/dogs"
        raise SettingsError("no place to write to", "--out", fix)
    start, run = time.monotonic(), runner(settings, settings.workers)
    job = Job(settings.images_per_breed, settings.seed, run, settings.shows_progress)
    with writing(settings.out, "the sample"):
        written = draw_sample(settings.out, job)
    seconds = time.monotonic() - start
    how = f" in {seconds:.1f} s ({written.drawn / seconds:.0f} a second)"
    print(
        f"{written.drawn:,} images drawn{how if written.drawn else ''},"
        f" {written.images - written.drawn:,} were there: {written.images:,} images,"
        f" {written.bytes / 1e6:.1f} MB, drawings version {VERSION},"
        f" in {without_secrets(settings.out)}"
    )


if __name__ == "__main__":
    run_command(main)
