"""Searches the embedded images: ``python -m doggos_helpers.search``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from doggos_helpers.clip.model import check_model
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
    if sum(map(bool, (settings.text, settings.image, settings.path))) != 1:
        fix = "Give exactly one of the three"
        raise SettingsError("one query is needed", "--text, --image or --path", fix)
    classes = [c.strip() for c in settings.classes.split(",") if c.strip()]
    wanted: Any = {"k": settings.k, "classes": classes, "split": settings.split}
    if settings.path:
        index = open_index(settings)
        matches = index.top_k(index.vector_of(settings.path), **wanted)
    else:
        files, tower = _read(settings.image), "text" if settings.text else "image"
        check_model(settings, [tower])
        index = open_index(settings)
        encoder = ClipEncoder(settings.model, settings.model_revision, towers=[tower])
        if settings.text:
            matches = index.by_text(settings.text, encoder, **wanted)
        else:
            try:
                matches = index.by_images(files, encoder, **wanted)
            except BadImage as error:
                raise _unusable(settings.image, error) from error
    for match in matches:
        print(f"{match.score:6.3f}  {match.class_name:<24}{match.path}")
    if len(matches) < settings.k:
        found = f"These are all {len(matches)} images there are"
        print(f"{found}: fewer than k = {settings.k}.")
    return 0


def _read(files: str) -> list[bytes]:
    """Read image files, with commas between their names; a name may hold one, too."""
    one = Path(files).expanduser().is_file()
    names = [files] if one else [n.strip() for n in files.split(",") if n.strip()]
    read = []
    for name in names:
        try:
            read.append(Path(name).expanduser().read_bytes())
        except OSError as error:
            raise _unusable(name, error) from error
    return read


def _unusable(name: str, error: Exception) -> DataError:
    return DataError(f"can't use the image ({error})", name, "Give an image file")


if __name__ == "__main__":
    run_command(main)
