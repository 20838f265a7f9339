"""Batch prediction of the test split on Ray Data, and the table it writes."""

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from upath import UPath

from doggos_helpers.artefacts import missing, writing
from doggos_helpers.cluster.nodes import NODE, this_node
from doggos_helpers.cluster.plan import WorkerPlan
from doggos_helpers.data.files import open_root, write_parquet
from doggos_helpers.data.listing import CLASS, PATH
from doggos_helpers.embed.table import EMBEDDING, Embeddings
from doggos_helpers.errors import unwrapped
from doggos_helpers.settings import Settings
from doggos_helpers.train.classifier import load, predict_probabilities

if TYPE_CHECKING:
    from ray.data import Dataset


PREDICTED = "predicted"
PROBABILITY = "probability"
PROBABILITIES = "probabilities"
PREDICTIONS = "predictions.parquet"


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
        return pa.table(
            {
                PATH: pa.array(batch[PATH]),
                CLASS: pa.array(batch[CLASS]),
                PREDICTED: pa.array([self.classes[i] for i in best]),
                PROBABILITY: pa.array(probabilities.max(axis=1)),
                PROBABILITIES: pa.array(list(probabilities)),
                NODE: pa.array([self.node] * len(best)),
            }
        )


def build_prediction(test: Embeddings, plan: WorkerPlan, folder: UPath) -> "Dataset":
    """Build the lazy pipeline: embeddings of images to predictions.

    Args:
        test: The rows to predict, cut into one block a worker.
        plan: Workers; on CPUs, for the classifier is so small that a GPU would wait
            for its data.
        folder: Of the classifier.
    """
    stage = plan.evaluate
    names = {PATH: test.paths.tolist(), CLASS: test.classes.tolist()}
    table = pa.table(names | {EMBEDDING: test.to_arrow()})
    rows = math.ceil(len(test) / stage.workers)
    blocks = [table.slice(start, rows) for start in range(0, len(test), rows)]
    return ray.data.from_arrow(blocks).map_batches(
        Predictor,
        fn_constructor_args=(str(folder), stage.threads),
        compute=ray.data.ActorPoolStrategy(size=stage.workers),
        batch_size=stage.batch_size,
        num_cpus=stage.cpus,
        memory=stage.memory or None,
    )


def collect(dataset: "Dataset") -> pa.Table:
    """Run a prediction and return its rows in path order."""
    with unwrapped():
        batches = dataset.iter_batches(batch_size=None, batch_format="pyarrow")
        return pa.concat_tables(batches).sort_by(PATH)


def read_predictions(settings: Settings) -> pd.DataFrame:
    """Read what `evaluate` predicted: one row a test image, in path order.

    Raises:
        StorageError: There is nothing yet.
    """
    file = settings.evaluation_dir / PREDICTIONS
    if not file.is_file():
        raise missing(file, "05_evaluation")
    filesystem, path = open_root(str(file))
    return pq.read_table(path, filesystem=filesystem).to_pandas()


def write_predictions(table: pa.Table, settings: Settings) -> None:
    """Write the table, whole or not at all.

    Raises:
        StorageError: It can't be written.
    """
    folder = settings.evaluation_dir
    with writing(folder, "the predictions"):
        write_parquet(table, str(folder), PREDICTIONS)
