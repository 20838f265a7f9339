"""Searches the embedded images: ``python -m doggos_helpers.search``."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from doggos_helpers.data.images import BadImage
from doggos_helpers.errors import DataError, SettingsError, run_command
from doggos_helpers.search.index import open_index
from doggos_helpers.settings import Settings


class SearchSettings(Settings):
    """Search the embedded images by --text, by --image or by --path."""

    text: str = Field("", description="what to look for, in words")
    image: str = Field("", description="an image file, or several with commas")
    path: str = Field("", description="an embedded image, as a search prints it")
    classes: str = Field("", description="only these, with commas between")
    split: str = Field("", description="only this split")


def main(arguments: Sequence[str]) -> int:
    """Print the images most similar to a text or an image."""
    from doggos_helpers.clip.encoder import ClipEncoder

    settings = SearchSettings.from_command("doggos_helpers.search", list(arguments))
    text, image, path = settings.text, settings.image, settings.path
    if sum(map(bool, (text, image, path))) != 1:
        fix = "Give exactly one of the three"
        raise SettingsError("one query is needed", "--text, --image or --path", fix)
    classes = _listed(settings.classes)
    wanted: Any = {"k": settings.k, "classes": classes, "split": settings.split}
    load = functools.partial(ClipEncoder, settings.model, settings.model_revision)
    index = open_index(settings)
    if path:
        matches = index.top_k(index.vector_of(path), **wanted)
    elif text:
        matches = index.by_text(text, load(towers=["text"]), **wanted)
    else:
        try:  # a name may hold commas, too
            names = [image] if Path(image).is_file() else _listed(image)
            files = [Path(name).expanduser().read_bytes() for name in names]
            matches = index.by_images(files, load(), **wanted)
        except (BadImage, OSError) as error:
            what = f"can't use the image ({error})"
            raise DataError(what, image, "Give an image file") from error
    for match in matches:
        print(f"{match.score:6.3f}  {match.class_name:<24}{match.path}")
    if len(matches) < settings.k:
        found = f"These are all {len(matches)} images there are"
        print(f"{found}: fewer than k = {settings.k}.")
    return 0


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


if __name__ == "__main__":
    run_command(main)
