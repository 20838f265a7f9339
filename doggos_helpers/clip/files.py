"""Where a CLIP model is: the sample, a folder or a hub; and which weights it has."""

import contextlib
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

from doggos_helpers.errors import ModelError
from doggos_helpers.places import SAMPLE
from doggos_sample import MODEL_DIR

FIX = (
    "Set DOGGOS_MODEL to sample, a folder written by save_pretrained, or a hub id that"
    " this machine can reach; HF_TOKEN, HTTPS_PROXY and HF_ENDPOINT may help"
)
SMALL = ["*.json", "*.txt"]  # of a hub model: what isn't weights


@contextlib.contextmanager
def refused(what: str, where: str | Path, fix: str) -> Iterator[None]:
    """Make an error of ours of whatever a library raises, with its first line."""
    try:
        yield
    except Exception as error:  # they are not of one family
        why = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
        raise ModelError(f"{what} ({why})", str(where), fix) from error


def model_source(model: str) -> str:
    """Resolve a model setting to a folder or hub id, on the machine it runs on."""
    return str(MODEL_DIR) if model == SAMPLE else model


def model_folder(model: str, revision: str = "", weights: bool = False) -> Path:
    """Return the folder of a model; of a hub model, of one commit in the cache.

    Without an answer of the hub in ten seconds (HF_HUB_ETAG_TIMEOUT) its cache serves;
    HF_HUB_OFFLINE=1 spares the wait. Weights are fetched where they are asked for.

    Raises:
        ModelError: There is no such model, or the hub can't be reached.
    """
    source = model_source(model)
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import constants, model_info, snapshot_download, utils

    utils.disable_progress_bars()
    fetch = functools.partial(snapshot_download, source, revision=revision or None)
    what = "the model is no folder here, and neither the hub nor its cache gives it"
    with refused(what, source, FIX):
        try:  # a download would wait for an answer without end
            limit = constants.HF_HUB_ETAG_TIMEOUT
            about = model_info(source, revision=revision or None, timeout=limit)
        except Exception:
            with contextlib.suppress(Exception):
                return Path(fetch(allow_patterns=SMALL, local_files_only=True))
            raise
        names = [file.rfilename for file in about.siblings or []]
        safe = any(name.startswith("model.safetensors") for name in names)
        kind = "model*.safetensors" if safe else "pytorch_model*.bin"
        return Path(fetch(allow_patterns=[*SMALL, kind] if weights else SMALL))


def model_fingerprint(model: str, revision: str = "") -> str:
    """Name the weights of a model, so that new ones make old embeddings stale.

    A hub's commit, or a hash of a folder's files: size and first 64 MiB.
    """
    folder = model_folder(model, revision)
    if folder != Path(model_source(model)):
        return folder.name
    digest = hashlib.sha256()
    for kind in ("config.json", "preprocessor_config.json", "*.safetensors", "*.bin"):
        for file in sorted(folder.glob(kind)):
            digest.update(f"{file.name} {file.stat().st_size}".encode())
            with file.open("rb") as content:
                digest.update(content.read(64 << 20))
    return digest.hexdigest()[:16]
