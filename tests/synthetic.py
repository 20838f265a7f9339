"""Embeddings like those that `embed` writes, without images or a model."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from doggos_helpers.artefacts import write_run
from doggos_helpers.settings import Settings

CLASSES = ("akita", "beagle", "corgi", "dachshund", "pug", "samoyed")


def write_embeddings(
    settings: Settings,
    train=101,
    val=33,
    test=41,
    classes=CLASSES,
    dimension=16,
    noise=0.6,
    bad=2,
):
    """Write unit vectors around random class centres, and some bad rows."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(len(classes), dimension))
    rows = [
        (f"{split}/{classes[i % len(classes)]}/{i:04}.jpg", i % len(classes), split)
        for split, count in (("train", train), ("val", val), ("test", test))
        for i in range(count)
    ]
    vectors = centres[[label for _, label, _ in rows]]
    vectors = vectors + noise * random.normal(size=vectors.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    good = [(path, classes[i], split, None) for path, i, split in rows]
    broken = [
        (f"test/{classes[0]}/bad{i}.jpg", classes[0], "test", "empty file")
        for i in range(bad)
    ]
    vectors = [*vectors.astype(np.float32).tolist(), *[None] * bad]
    paths, names, splits, reasons = zip(*good, *broken, strict=True)
    table = pa.table(
        {
            "path": pa.array(paths),
            "class": pa.array(names),
            "split": pa.array(splits),
            "size": pa.array([1] * len(paths)),
            "modified": pa.array([1] * len(paths)),
            "digest": pa.array([f"{i:032x}" for i in range(len(paths))]),
            "embedding": pa.array(vectors, pa.list_(pa.float32())),
            "reason": pa.array(reasons, pa.string()),
        }
    ).sort_by("path")
    folder = settings.embeddings_dir / "table" / "00000"
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "embeddings.parquet")
    counts = {"manifest": len(paths), "embedded": len(good), "errors": bad}
    write_run(
        settings.embeddings_dir,
        "embed",
        settings,
        0,
        fingerprint="synthetic",
        counts=counts,
        classes=sorted(classes),
        nodes={},
        encoder={"model": "synthetic", "dtype": "float32"},
    )
