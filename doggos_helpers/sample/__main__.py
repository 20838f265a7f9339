"""Draws a data set of any size: ``python -m doggos_helpers.sample --out PLACE``."""

import time
from collections.abc import Sequence

from pydantic import Field

from doggos_helpers.data.sample import draw_sample
from doggos_helpers.errors import SettingsError, run_command, without_secrets
from doggos_helpers.sample.on_ray import runner
from doggos_helpers.settings import Settings
from doggos_sample import VERSION
from doggos_sample.job import MOST


class SampleSettings(Settings):
    """Draw the sample data set, of any size, into a folder or a bucket."""

    out: str = Field("", description="folder or URI (s3://...) to write to")
    images_per_breed: int = Field(60, ge=1, le=MOST, description="over all splits")
    seed: int = Field(0, ge=0, description="of the drawings")
    workers: int = Field(0, ge=0, description="parts drawn at a time; 0: one a core")


def main(arguments: Sequence[str]) -> int:
    """Draw the data set and print its rate and size."""
    settings = SampleSettings.from_command("doggos_helpers.sample", list(arguments))
    if not settings.out:
        fix = "Name a folder or a URI, such as --out dogs or --out s3://bucket/dogs"
        raise SettingsError("no place to write to", "--out", fix)
    start = time.monotonic()
    written = draw_sample(
        settings.out,
        settings.images_per_breed,
        settings.seed,
        settings.shows_progress,
        runner(settings, settings.workers),
    )
    seconds = time.monotonic() - start
    rate = f"{written.drawn:,} images in {seconds:.1f} s"
    rate += f" ({written.drawn / seconds:.0f} a second)"
    if there := written.images - written.drawn:
        rate = (
            f"{there:,} images were there, drew {rate}"
            if written.drawn
            else ("All images were there")
        )
    print(
        f"{rate}: {written.images:,} images, {written.bytes / 1e6:.1f} MB,"
        f" drawings version {VERSION}, in {without_secrets(settings.out)}"
    )
    return 0


if __name__ == "__main__":
    run_command(main)
