"""Listing a data set: its images and their labels, table by table."""

import logging
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

from doggos_helpers.data.files import open_root
from doggos_helpers.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


PATH = "path"
CLASS = "class"
SPLIT = "split"
SIZE = "size"
MODIFIED = "modified"
SPLITS = ("train", "val", "test")
IMAGE = r"\.(jpe?g|png|webp|gif|bmp|tiff?|avif|hei[cf]|jp2)$"
LABELLED = rf"^(?P<split>{'|'.join(SPLITS)})/(?P<class>[^/]+)/[^/]+$"
FOLDERED = r"^(?:.*/)?(?P<class>[^/]+)/[^/]+$"
HASH = "hash"  # of the path, in the draft of a manifest
IDENTITY = (PATH, SIZE, MODIFIED)  # says which bytes: another one is another image
SCHEMA = pa.schema(
    dict.fromkeys((PATH, CLASS, SPLIT), "string") | dict.fromkeys(IDENTITY[1:], "int64")
)
DRAFT = SCHEMA.append(pa.field(HASH, "uint64"))


def has_splits(root: str) -> bool:
    """Tell whether a data set has a folder train, val or test."""
    filesystem, base = open_root(root)
    found = filesystem.get_file_info([f"{base}/{split}" for split in SPLITS])
    return any(info.type == fs.FileType.Directory for info in found)


def given_rows(file: str) -> Iterator[pa.Table]:
    """Yield the rows of a manifest that the user wrote."""
    filesystem, base = open_root(file)
    try:
        table = ds.dataset(base, filesystem=filesystem)
        if PATH not in table.schema.names:
            what = "the manifest has no column path"
            raise DataError(what, file, "Name the images in a column path")
        there = [name for name in SCHEMA.names if name in table.schema.names]
        for batch in table.to_batches(columns=there):
            yield pa.Table.from_batches([batch])
    except (pa.ArrowInvalid, OSError) as error:
        why = str(error).splitlines()[0]
        fix = "Name a Parquet file with a column path"
        raise DataError(f"can't read the manifest ({why})", file, fix) from error


class Listing:
    """Rows on their way to the manifest, and what is counted as they pass.

    `labels` counts them by (split, class), with "" for none.
    """

    def __init__(self, most: int, pattern: str = "") -> None:
        """Take at most `most` of a class and split (0: all); labels by `pattern`."""
        self.most, self.pattern = most, pattern
        self.labels: Counter[tuple[str, str]] = Counter()
        self.ignored = self.digest = self.outside = 0
        self.example = ""

    def write(self, files: Iterable[pa.Table], draft: Path) -> None:
        """Write the images among files; nothing grows with their number."""
        with pq.ParquetWriter(draft, DRAFT) as writer:
            for table in files:
                rows = self._images(table)
                if len(rows := self._at_most(rows.sort_by(PATH))):
                    self.digest += int(hashes(rows.select(IDENTITY)).sum())
                    of_path = pa.array(hashes(rows.select([PATH])))
                    writer.write_table(rows.append_column(HASH, of_path))

    def _images(self, files: pa.Table) -> pa.Table:
        if not self.pattern:
            for name in set(SCHEMA.names) - set(files.column_names):
                none = "" if name in (CLASS, SPLIT) else 0
                files = files.append_column(name, [[none] * len(files)])
            rows = files.select(SCHEMA.names).cast(SCHEMA).to_pandas()
            rows = rows.fillna({CLASS: "", SPLIT: "", SIZE: 0, MODIFIED: 0})
            return pa.Table.from_pandas(rows, SCHEMA, preserve_index=False)
        wanted = pc.match_substring_regex(files[PATH], IMAGE, ignore_case=True)
        images = files.filter(wanted)
        labels = pc.extract_regex(images[PATH], self.pattern).combine_chunks()
        inside = pc.is_valid(labels) if self.pattern == LABELLED else None
        names = {
            f.name: pc.fill_null(pc.struct_field(labels, f.name), "")
            for f in labels.type
        }
        absent = pa.array([""] * len(images))
        columns = {n: names.get(n, absent) for n in (CLASS, SPLIT)}
        rows = pa.table(
            {PATH: images[PATH], **columns, **{n: images[n] for n in IDENTITY[1:]}}
        ).cast(SCHEMA)
        if inside is not None:
            lost = rows.filter(pc.invert(inside))
            self.outside += len(lost)
            self.example = self.example or (str(lost[PATH][0]) if len(lost) else "")
            rows = rows.filter(inside)
        self.ignored += len(files) - len(rows)
        return rows

    def _at_most(self, rows: pa.Table) -> pa.Table:
        import pandas as pd

        labels = rows.select([SPLIT, CLASS]).to_pandas()
        if self.most:
            before = pd.Series(list(zip(labels[SPLIT], labels[CLASS], strict=True)))
            place = labels.groupby([SPLIT, CLASS]).cumcount() + before.map(self.labels)
            keep = (place < self.most).to_numpy(bool)
            rows, labels = rows.filter(keep), labels[keep]
        self.labels.update(labels.value_counts().to_dict())
        return rows

    def warn(self, root: str) -> None:
        """Say what is left out, and what a training will ask for."""
        log = logging.getLogger(__name__)
        if self.outside:
            log.warning(
                "%d images in %s lie outside <split>/<class>/ and are left out, such"
                " as %s",
                *(self.outside, root, self.example),
            )
        if problem := labels_problem(self.labels):
            log.warning("Training will refuse %s: %s", root, problem)
        classes = _classes(self.labels)
        for split in SPLITS[1:] if not problem else ():
            if lacking := sorted(classes["train"] - classes[split]):
                log.warning(
                    "The split %s of %s has no images of: %s",
                    *(split, root, ", ".join(lacking)),
                )


def hashes(rows: pa.Table) -> "pd.Series":
    """Hash each row, uint64 [n]: the same for the same values, everywhere."""
    import pandas as pd

    return pd.util.hash_pandas_object(rows.to_pandas(), index=False)


def _classes(labels: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """Return the classes of each split."""
    return {s: {name for split, name in labels if split == s} - {""} for s in SPLITS}


def labels_problem(labels: Iterable[tuple[str, str]]) -> str:
    """Say why a classifier can't be trained on images of these splits and classes."""
    labels = list(labels)
    classes = _classes(labels)
    if not any(classes.values()):
        return "the images have no classes and splits"
    if alike := _spelt_alike(name for _, name in labels):
        return f"classes that differ only in case or Unicode form: {alike}"
    for split, names in classes.items():
        if not names:
            return f"the split {split} has no images"
        if unknown := sorted(names - classes["train"]):
            return f"classes in {split} that train lacks: {', '.join(unknown)}"
    few = len(classes["train"]) < 2
    return "a classifier needs at least two classes" if few else ""


def _spelt_alike(classes: Iterable[str]) -> str:
    """Find classes that look the same: they were meant to be one."""
    alike = defaultdict(set)
    for name in classes:
        alike[unicodedata.normalize("NFKC", name).casefold()].add(name)
    several = (sorted(names) for names in alike.values() if len(names) > 1)
    return next((", ".join(map(ascii, names)) for names in several), "")
