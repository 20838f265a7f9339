"""The breed classifier: an embedding in, one score a class out; save and load."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from scipy.special import softmax
from torch import nn
from upath import UPath

from doggos_helpers.artefacts import write_whole
from doggos_helpers.errors import ModelError

SHAPE = ("dimension", "hidden_units", "dropout")
WEIGHTS, LABELS = "classifier.safetensors", "classifier.json"
TRAIN = "notebook 04_training or `python -m doggos_helpers.train`"


class Classifier(nn.Module):
    """Score the classes of an embedding: a linear probe, or one hidden layer more.

    `forward` takes float32 [n, dimension] and returns logits [n, classes]. CLIP's
    embeddings lie close together, in a narrow cone; `standardise` says where, and
    the first step of `forward` moves and stretches them to mean 0 and deviation 1.
    Unlike batch normalisation, it treats a batch of one row like any other.
    """

    def __init__(
        self, dimension: int, hidden_units: int, classes: int, dropout: float = 0.0
    ) -> None:
        """Build the layers; `hidden_units` 0 is a linear probe."""
        super().__init__()
        self.dimension = dimension
        self.hidden_units = hidden_units
        self.dropout = dropout
        self.register_buffer("mean", torch.zeros(dimension))
        self.register_buffer("deviation", torch.ones(dimension))
        layers: list[nn.Module] = [nn.Linear(hidden_units or dimension, classes)]
        if hidden_units:
            first = nn.Linear(dimension, hidden_units)
            layers = [first, nn.ReLU(), nn.Dropout(dropout), *layers]
        self.layers = nn.Sequential(*layers)

    def standardise(self, mean: np.ndarray, deviation: np.ndarray) -> None:
        """Keep the training rows' mean and standard deviation, float [dimension]."""
        self.mean = torch.as_tensor(mean, dtype=torch.float32)
        self.deviation = torch.as_tensor(deviation, dtype=torch.float32)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return the logits [n, classes] of embeddings [n, dimension]."""
        return self.layers((embeddings - self.mean) / self.deviation)


def save(
    model: Classifier, folder: UPath, classes: Sequence[str], **about: Any
) -> dict[str, Any]:
    """Write the weights and what they mean: a safetensors and a JSON file, no pickle.

    Args:
        model: The classifier, not wrapped for training.
        folder: Created if it isn't there.
        classes: The label of each output, sorted.
        **about: What else to record, such as the fingerprint and the loss.

    Returns:
        The content of the JSON file.
    """
    weights = {name: t.detach().cpu() for name, t in model.state_dict().items()}
    shape = {key: getattr(model, key) for key in SHAPE}
    labels = {"classes": list(classes), **shape, **about}
    text = json.dumps(labels, indent=2) + "\n"  # may fail: before anything is written
    write_whole(folder / WEIGHTS, save_tensors(weights))
    write_whole(folder / LABELS, text.encode())
    return labels


def describe(folder: UPath) -> dict[str, Any]:
    """Read what a saved classifier is (its JSON file), without its weights.

    Raises:
        ModelError: The file is missing or isn't a classifier's.
    """
    try:
        labels = json.loads((folder / LABELS).read_text())
        if labels["classes"] != sorted(set(labels["classes"])):
            raise ValueError("the labels are not sorted, or not unique")
        [labels[key] for key in SHAPE]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(folder / LABELS, error) from error
    return labels


def check_fits(
    folder: UPath, encoder: str, dimension: int = 0, classes: Iterable[str] = ()
) -> dict[str, Any]:
    """Refuse a champion that doesn't fit embeddings; return what `describe` does.

    Args:
        folder: Of the champion.
        encoder: What `clip.model_fingerprint` says of the model of the embeddings.
        dimension: Of the embeddings; 0: not asked.
        classes: That the champion must know.

    Raises:
        ModelError: Its answers would be noise, or it would give none.
    """
    labels = describe(folder)
    if dimension not in (0, labels["dimension"]):
        what = f"takes {labels['dimension']} numbers, the embeddings have {dimension}"
    elif lacking := sorted(set(classes) - set(labels["classes"])):
        what = f"doesn't know the classes {', '.join(lacking[:5])}"
    elif labels.get("encoder") != encoder:
        what = "learnt from embeddings of other CLIP weights"
    else:
        load(folder)  # small: better it fails here than on the workers
        return labels
    fix = f"Train on these embeddings: {TRAIN}"
    raise ModelError(f"the champion {what}", str(folder), fix)


def load(folder: UPath) -> tuple[Classifier, list[str]]:
    """Load a classifier for prediction, and the label of each of its outputs.

    Raises:
        ModelError: A file is missing, the labels don't fit the weights, or these are
            not numbers.
    """
    labels = describe(folder)
    classes = labels["classes"]
    try:
        weights = load_tensors((folder / WEIGHTS).read_bytes())
        if not all(weight.isfinite().all() for weight in weights.values()):
            raise ValueError("some of the weights are not numbers")
        model = Classifier(**{k: labels[k] for k in SHAPE}, classes=len(classes))
        model.load_state_dict(weights)
    except (OSError, SafetensorError, ValueError) as error:
        raise _unreadable(folder / WEIGHTS, error) from error
    except RuntimeError as error:
        sizes = f"{labels['dimension']} inputs and {len(classes)} labels"
        what = f"the weights are not of a classifier of {sizes}"
        fix = "Keep both files of one training together, or train again"
        raise ModelError(what, str(folder), fix) from error
    return model.eval(), classes


def predict_probabilities(model: Classifier, vectors: np.ndarray) -> np.ndarray:
    """Return the probability of each class.

    In NumPy: a service calls this from threads beside the one of its CLIP, and once a
    second thread multiplies with torch, torch computes CLIP in half the speed.

    Args:
        model: As `load` returns it.
        vectors: Embeddings, float32 [n, dimension].

    Returns:
        float32 [n, classes]; each row sums to one.
    """
    scores = (vectors - model.mean.numpy()) / model.deviation.numpy()
    for layer in model.layers:
        if isinstance(layer, nn.Linear):
            weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
            scores = scores @ weight.T + bias
        elif isinstance(layer, nn.ReLU):
            scores = np.maximum(scores, 0)
    return softmax(scores, axis=1)


def _unreadable(path: UPath, error: Exception) -> ModelError:
    what = f"no classifier can be read ({type(error).__name__}: {error})"
    return ModelError(what, str(path), f"Train one: {TRAIN}")
