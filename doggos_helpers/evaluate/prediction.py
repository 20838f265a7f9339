"""Batch prediction of the test split on Ray Data, and the table it writes."""

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
from upath import UPath

from doggos_helpers.artefacts import missing, write_whole, writing
from doggos_helpers.cluster.nodes import NODE, this_node
from doggos_helpers.cluster.plan import WorkerPlan
from doggos_helpers.data.files import open_root
from doggos_helpers.data.listing import CLASS, PATH, SPLIT
from doggos_helpers.embed.table import EMBEDDING, LABELLED, read_file
from doggos_helpers.errors import unwrapped
from doggos_helpers.evaluate.metrics import PREDICTED, Tally
from doggos_helpers.settings import Settings
from doggos_helpers.train.classifier import load, predict_probabilities

if TYPE_CHECKING:
    from ray.data import Dataset

    from doggos_helpers.evaluate.stage import EvaluateInputs


TEST = "test"
FILE = "file"
PROBABILITY = "probability"
PROBABILITIES = "probabilities"
PREDICTIONS = "predictions.parquet"
SCHEMA = pa.schema(
    {
        PATH: pa.string(),
        CLASS: pa.string(),
        PREDICTED: pa.string(),
        PROBABILITY: pa.float32(),
        PROBABILITIES: pa.list_(pa.float32()),
        NODE: pa.string(),
    }
)
MOST_READ = 1_000_000  # rows in a notebook


def read_test_rows(file: pa.Table, folder: str) -> pa.Table:
    """Read the test rows of a file of the table. Runs in Ray Data tasks."""
    [path] = file[FILE].to_pylist()
    return read_file(folder, path, LABELLED & (pc.field(SPLIT) == TEST))


class Predictor:
    """Classify batches of embeddings. Ray Data keeps one in each worker of its pool.

    Args:
        folder: Of the classifier, on storage that every node sees.
        threads: Of PyTorch in this worker.
    """

    def __init__(self, folder: str, threads: int) -> None:
        """Load the classifier once; every batch of this worker then uses it."""
        import torch

        torch.set_num_threads(threads)
        self.model, self.classes = load(UPath(folder))
        self.node = this_node()

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        """Replace `embedding` by the prediction and its probabilities."""
        vectors = np.stack(list(batch[EMBEDDING]))
        probabilities = predict_probabilities(self.model, vectors)
        best = probabilities.argmax(axis=1)
        columns = {
            PATH: batch[PATH],
            CLASS: batch[CLASS],
            PREDICTED: [self.classes[i] for i in best],
            PROBABILITY: probabilities.max(axis=1),
            PROBABILITIES: list(probabilities),
            NODE: [self.node] * len(best),
        }
        return pa.table(columns, schema=SCHEMA)


def build_prediction(inputs: "EvaluateInputs", plan: WorkerPlan) -> "Dataset":
    """Build the lazy pipeline: embeddings of test images to predictions.

    Args:
        inputs: From `check`.
        plan: Workers; on CPUs, for the classifier is so small that a GPU would wait
            for its data.
    """
    stage, contents = plan.evaluate, inputs.contents
    files = [path for path, count in contents.files.items() if count[TEST]]
    read: Any = read_test_rows  # Ray's types know no arguments beside the batch
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
        fn_constructor_args=(str(inputs.version.folder), stage.threads),
        compute=ray.data.ActorPoolStrategy(size=stage.workers),
        batch_size=stage.batch_size,
        num_cpus=stage.cpus,
        memory=stage.memory or None,
    )


def write_predictions(
    dataset: "Dataset", settings: Settings, tally: Tally
) -> Counter[str]:
    """Run a prediction, count its rows and write them, whole or not at all.

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
    nodes = Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, PREDICTIONS)
        with unwrapped(), pq.ParquetWriter(file, SCHEMA) as writer:
            batches: Any = dataset.iter_batches(batch_size=None, batch_format="pyarrow")
            for rows in batches:
                writer.write_table(rows.select(SCHEMA.names))
                actual, predicted = (rows[c].to_pylist() for c in (CLASS, PREDICTED))
                flat = rows[PROBABILITIES].combine_chunks().flatten().to_numpy()
                tally.add(actual, predicted, flat.reshape(len(rows), -1))
                nodes.update(rows[NODE].to_pylist())
        if nodes:
            where = settings.evaluation_dir
            with writing(where, "the predictions"), file.open("rb") as written:
                write_whole(where / PREDICTIONS, written)
    return nodes


def read_predictions(settings: Settings) -> pd.DataFrame:
    """Read what `evaluate` predicted, at most `MOST_READ` rows, in path order.

    Raises:
        StorageError: There is nothing yet.
    """
    file = settings.evaluation_dir / PREDICTIONS
    if not file.is_file():
        raise missing(file, "05_evaluation")
    filesystem, path = open_root(str(file))
    rows = ds.dataset(path, filesystem=filesystem).head(MOST_READ)
    return rows.sort_by(PATH).to_pandas()
