"""Searches the embedded images: ``python -m doggos_helpers.search``."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from doggos_helpers.clip.model import check_model
from doggos_helpers.data.images import BadImage
from doggos_helpers.embed.table import read_embeddings
from doggos_helpers.errors import DataError, SettingsError, run_command
from doggos_helpers.search.index import SearchIndex
from doggos_helpers.settings import Settings


class SearchSettings(Settings):
    """Search the embedded images by --text or by --image."""

    text: str = Field("", description="what to look for, in words")
    image: str = Field("", description="an image file to find similar ones of")
    classes: str = Field("", description="only these, with commas between")


def main(arguments: Sequence[str]) -> int:
    """Print the images most similar to a text or an image."""
    from doggos_helpers.clip.encoder import ClipEncoder

    settings = SearchSettings.from_command("doggos_helpers.search", list(arguments))
    if bool(settings.text) == bool(settings.image):
        fix = "Give exactly one of the two"
        raise SettingsError("one query is needed", "--text or --image", fix)
    tower = "text" if settings.text else "image"
    check_model(settings, [tower])
    index = SearchIndex(read_embeddings(settings))
    classes = [c.strip() for c in settings.classes.split(",") if c.strip()]
    found = int(index.mask_of(classes).sum())
    encoder = ClipEncoder(settings.model, settings.model_revision, towers=[tower])
    if settings.text:
        matches = index.by_text(settings.text, encoder, settings.k, classes)
    else:
        try:
            data = Path(settings.image).expanduser().read_bytes()
            matches = index.by_image(data, encoder, settings.k, classes)
        except (OSError, BadImage) as error:
            what = f"can't use the image ({error})"
            raise DataError(what, settings.image, "Give an image file") from error
    for match in matches:
        print(f"{match.score:6.3f}  {match.class_name:<24}{match.path}")
    if found < settings.k:
        print(f"These are all {found} images there are: fewer than k = {settings.k}.")
    return 0


if __name__ == "__main__":
    run_command(main)
