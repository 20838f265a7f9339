"""Listing a data set: its images and their labels, table by table."""

import logging
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from doggos_helpers.data.files import open_given, reading

PATH, CLASS, SPLIT, SIZE, MODIFIED = "path", "class", "split", "size", "modified"
SPLITS = ("train", "val", "test")
IMAGE = r"\.(jpe?g|png|webp|gif|bmp|tiff?|avif|hei[cf]|jp2)$"
# <split>/<class>/<image>; else the folder that an image is in
LABELS = (
    rf"^(?:(?P<split>{'|'.join(SPLITS)})/(?P<class>[^/]+)/[^/]+"
    r"|(?:(?:.*/)?(?P<folder>[^/]+)/)?[^/]+)$"
)
IDENTITY = (PATH, SIZE, MODIFIED)  # says which bytes: another one is another image
SCHEMA = pa.schema(
    dict.fromkeys((PATH, CLASS, SPLIT), "string") | dict.fromkeys(IDENTITY[1:], "int64")
)


def given_rows(file: str) -> Iterator[pa.Table]:
    """Yield the rows of a manifest that the user wrote, with all columns."""
    table, columns = open_given(file, "the manifest"), {}
    for f in SCHEMA:
        columns[f.name] = pc.scalar(pa.scalar("" if f.type == "string" else 0, f.type))
        if f.name in table.schema.names:
            given = pc.field(f.name).cast(f.type)
            columns[f.name] = pc.coalesce(given, columns[f.name])
    with reading("the manifest", file):
        for batch in table.to_batches(columns=columns):
            yield pa.Table.from_batches([batch], SCHEMA)


@dataclass
class Listing:
    """What is counted of a data set's images on their way to the manifest.

    Args:
        most: At most so many of a class and split; 0: all.
        ignored: How many files are left out.
        labels: Images by (split, class), with "" for none.
        digest: The sum of their hashes, in which their order doesn't matter.
    """

    most: int = 0
    ignored: int = 0
    labels: Counter[tuple[str, str]] = field(default_factory=Counter)
    digest: int = 0

    def images(self, files: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Yield the images among files, with the labels that their folders say."""
        for table in files:
            named = pc.match_substring_regex(table[PATH], IMAGE, ignore_case=True)
            rows = table.filter(named).combine_chunks()
            self.ignored += len(table) - len(rows)
            found = pc.extract_regex(rows[PATH], LABELS).combine_chunks()
            split, name, folder = found.flatten()
            name = pc.binary_join_element_wise(name, folder, "")
            columns = [rows[PATH], name, split, rows[SIZE], rows[MODIFIED]]
            yield pa.table(columns, SCHEMA)

    def write(self, tables: Iterable[pa.Table], draft: Path) -> None:
        """Count images and write them to a file; nothing grows with their number."""
        with pq.ParquetWriter(draft, SCHEMA) as writer:
            for table in tables:
                rows, kept = table.sort_by(PATH), []
                frame = rows.select([SPLIT, CLASS]).to_pandas()
                frame["hash"] = hashes(rows.select(IDENTITY))
                for label, group in frame.groupby([SPLIT, CLASS]):
                    if self.most:
                        group = group[: self.most - self.labels[label]]
                    self.labels[label] += len(group)
                    self.digest += int(group.hash.sum())
                    kept += group.index.tolist()
                writer.write_table(rows.take(pa.array(sorted(kept), "int64")))

    def leave_out(self, draft: Path, root: str) -> pc.Expression | None:
        """Leave out images outside <split>/<class>/, where others are inside.

        Returns:
            Which rows of the draft stay; None: all.
        """
        outside = [label for label in self.labels if not label[0]]
        if len(outside) in (0, len(self.labels)):
            return None
        count = sum(self.labels.pop(label) for label in outside)
        self.ignored += count
        logging.getLogger(__name__).warning(
            "%d images in %s lie outside <split>/<class>/ and are left out, such as %s",
            *(count, root),
            ds.dataset(draft).head(1, filter=pc.field(SPLIT) == "")[PATH][0],
        )
        return pc.field(SPLIT) != ""

    def warn(self, root: str) -> None:
        """Say which classes of train another split lacks."""
        classes = _classes(self.labels)
        for split in SPLITS[1:]:
            if lacking := ", ".join(sorted(classes["train"] - classes[split])):
                what = "The split %s of %s has no images of: %s"
                logging.getLogger(__name__).warning(what, split, root, lacking)


def hashes(rows: pa.Table) -> pd.Series:
    """Hash each row, uint64 [n]: the same for the same values, everywhere."""
    return pd.util.hash_pandas_object(rows.to_pandas(), index=False)


def _classes(labels: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """Return the classes of each split."""
    return {s: {name for split, name in labels if split == s} - {""} for s in SPLITS}


def labels_problem(labels: Iterable[tuple[str, str]]) -> str:
    """Say why a classifier can't be trained on images of these splits and classes."""
    labels = list(labels)
    classes, alike = _classes(labels), defaultdict(set)
    for _, name in labels:
        alike[unicodedata.normalize("NFKC", name).casefold()].add(name)
    if not any(classes.values()):
        return "the images have no classes and splits"
    if several := [sorted(names) for names in alike.values() if len(names) > 1]:
        spelt = ", ".join(map(ascii, several[0]))
        return f"classes that differ only in case or Unicode form: {spelt}"
    for split, names in classes.items():
        if not names:
            return f"the split {split} has no images"
        if unknown := sorted(names - classes["train"]):
            return f"classes in {split} that train lacks: {', '.join(unknown)}"
    few = len(classes["train"]) < 2
    return "a classifier needs at least two classes" if few else ""
