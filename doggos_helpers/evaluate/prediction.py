"""Batch prediction of the splits val and test on Ray Data, and the table it writes."""

import itertools
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import ray

from doggos_helpers.artefacts import missing, write_whole, writing
from doggos_helpers.cluster.nodes import NODE, this_node
from doggos_helpers.cluster.plan import WorkerPlan
from doggos_helpers.data.files import open_root
from doggos_helpers.data.listing import CLASS, PATH, SPLIT
from doggos_helpers.embed.table import EMBEDDING, LABELLED, read_file
from doggos_helpers.errors import unwrapped
from doggos_helpers.evaluate.likeness import copied, nearest
from doggos_helpers.evaluate.metrics import PREDICTED, PROBABILITIES, PROBABILITY, Tally
from doggos_helpers.settings import Settings
from doggos_helpers.train.classifier import load, predict_probabilities

if TYPE_CHECKING:
    from ray.data import Dataset

    from doggos_helpers.evaluate.stage import EvaluateInputs

FILE, COPY_OF, NEIGHBOURS = "file", "copy_of", "nearest neighbours"
HELD_OUT = ("val", "test")
IN_VAL, IN_TEST = (pc.field(SPLIT) == split for split in HELD_OUT)
IS_COPY = pc.field(COPY_OF) != ""
PREDICTIONS = "predictions.parquet"
MOST_READ = 1_000_000  # rows in a notebook


def read_held_out(file: pa.Table, folder: str) -> pa.Table:
    """Read the rows of val and test in a file of the table. Runs in Ray Data tasks."""
    [path] = file[FILE].to_pylist()
    return read_file(folder, path, LABELLED & pc.field(SPLIT).isin(HELD_OUT))


class Predictor:
    """Classify batches of embeddings. Ray Data keeps one in each worker of its pool.

    Args:
        inputs: From `check`.
        threads: Of PyTorch in this worker.
    """

    def __init__(self, inputs: "EvaluateInputs", threads: int) -> None:
        """Load the classifiers once; every batch of this worker then uses them."""
        import torch

        torch.set_num_threads(threads)
        self.model, self.classes = load(inputs.version.folder)
        self.rivals = {name: load(folder) for name, folder in inputs.rivals.items()}
        self.contents, self.node = inputs.contents, this_node()
        self.root = inputs.settings.dataset_root

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        """Replace `embedding` by the prediction, that of rivals, and what it copies."""
        vectors = np.stack(list(batch[EMBEDDING]))
        probabilities = predict_probabilities(self.model, vectors)
        likeness, paths, classes = nearest(self.contents, vectors, batch[SPLIT])
        alike = zip(batch[PATH], paths, likeness, strict=True)
        columns = {
            **{key: batch[key] for key in (PATH, CLASS, SPLIT)},
            PREDICTED: np.array(self.classes)[probabilities.argmax(axis=1)],
            PROBABILITY: probabilities.max(axis=1),
            PROBABILITIES: list(probabilities),
            NODE: [self.node] * len(vectors),
            COPY_OF: [copied(self.root, *one) for one in alike],
            NEIGHBOURS: pd.DataFrame(classes).mode(axis=1)[0],
        }
        for name, (model, known) in self.rivals.items():
            scores = predict_probabilities(model, vectors)
            columns[name] = np.array(known)[scores.argmax(axis=1)]
        return pa.table(columns)


def build_prediction(inputs: "EvaluateInputs", plan: WorkerPlan) -> "Dataset":
    """Build the lazy pipeline: embeddings of val and test to predictions.

    Args:
        inputs: From `check`.
        plan: Workers; on CPUs, for the classifier is so small that a GPU would wait
            for its data.
    """
    stage, contents = plan.evaluate, inputs.contents
    files = [p for p, count in contents.files.items() if count["val"] + count["test"]]
    read: Any = read_held_out  # Ray's types know no arguments beside the batch
    named = ray.data.from_arrow([pa.table({FILE: [path]}) for path in files])
    rows = named.map_batches(
        read,
        fn_kwargs={"folder": contents.folder},
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=stage.task_cpus,
    )
    return rows.map_batches(
        Predictor,
        fn_constructor_args=(inputs, stage.threads),
        compute=ray.data.ActorPoolStrategy(size=stage.workers),
        batch_size=stage.batch_size,
        num_cpus=stage.cpus,
        memory=stage.memory or None,
    )


def write_predictions(
    dataset: "Dataset", settings: Settings, tally: Tally
) -> Counter[str]:
    """Run a prediction, count its test rows and write all, whole or not at all.

    They pass through this process batch by batch; a file of this machine collects them.

    Args:
        dataset: From `build_prediction`.
        settings: Whose `evaluation_dir`.
        tally: That counts them.

    Returns:
        The number of rows by node.

    Raises:
        StorageError: They can't be written.
    """
    nodes, where = Counter[str](), settings.evaluation_dir
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, PREDICTIONS)
        with unwrapped():
            batches: Any = dataset.iter_batches(batch_size=None, batch_format="pyarrow")
            first = next(batches := iter(batches))
            with pq.ParquetWriter(file, first.schema) as writer:
                for rows in itertools.chain([first], batches):
                    writer.write_table(rows)
                    tally.add(rows := rows.filter(IN_TEST))
                    nodes.update(rows[NODE].to_pylist())
        with writing(where, "the predictions"), file.open("rb") as written:
            write_whole(where / PREDICTIONS, written)
    return nodes


def read_predictions(
    settings: Settings, wanted: pc.Expression = IN_TEST
) -> pd.DataFrame:
    """Read what `evaluate` predicted, at most `MOST_READ` rows, in path order.

    Args:
        settings: Whose evaluation.
        wanted: Which rows: `IN_TEST`, `IN_VAL` or `IS_COPY`.

    Raises:
        StorageError: There is nothing yet.
    """
    file = settings.evaluation_dir / PREDICTIONS
    if not file.is_file():
        raise missing(file, "05_evaluation")
    filesystem, path = open_root(str(file))
    rows = ds.dataset(path, filesystem=filesystem).head(MOST_READ, filter=wanted)
    return rows.sort_by(PATH).to_pandas()
