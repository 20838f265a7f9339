"""Where a CLIP model is: the sample, a folder or a hub; and which weights it has."""

import functools
import hashlib
import time
from pathlib import Path
from typing import Any

from doggos_helpers.errors import ModelError
from doggos_helpers.places import SAMPLE

FIX = (
    "Set DOGGOS_MODEL to sample, a hub id that this machine can reach, or a folder"
    " written by save_pretrained"
)


def model_source(model: str) -> str:
    """Resolve a model setting to a folder or hub id, on the machine it runs on."""
    if model == SAMPLE:
        from doggos_sample import MODEL_DIR

        return str(MODEL_DIR)
    return model


def model_folder(model: str, revision: str = "") -> Path:
    """Return the folder with the configs of a model; of a hub model, of one commit.

    Where the hub doesn't answer within ten seconds (HF_HUB_ETAG_TIMEOUT), its cache
    serves.

    Raises:
        ModelError: There is no such model, or the hub can't be reached.
    """
    source = model_source(model)
    path = Path(source)
    if path.is_file():
        raise ModelError(
            "the model is a file, not a folder", source, f"Name {path.parent}"
        )
    if path.is_dir():
        return path
    if source.startswith("/"):
        raise ModelError("no such model folder", source, FIX)
    return _hub_folder(source, revision)


def _hub_folder(model: str, revision: str) -> Path:
    from huggingface_hub import errors, hf_hub_download

    why = hub_problem()
    try:
        options: Any = {"revision": revision or None, "local_files_only": bool(why)}
        return Path(hf_hub_download(model, "config.json", **options)).parent
    except errors.RemoteEntryNotFoundError:
        what, fix = "not a model: the hub has no config.json of it", FIX
    except errors.GatedRepoError:
        what, fix = "the hub gives this model to its members alone", "Set HF_TOKEN"
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        what, fix = "no folder here and no model on the hub has this name", FIX
    except errors.RevisionNotFoundError:
        what = f"the hub's model has no such revision: {revision}"
        fix = "Check DOGGOS_MODEL_REVISION"
    except OSError as error:
        why = why or (str(error).splitlines() or ["no answer"])[0]
        what = f"the hub can't be reached, and the model is not in its cache ({why})"
        fix = (
            "Copy the model's folder to this machine and set DOGGOS_MODEL to it, use"
            " DOGGOS_MODEL=sample, or set HTTPS_PROXY or HF_ENDPOINT to reach a hub"
        )
    raise ModelError(what, model, fix)


def hub_problem() -> str:
    """Ask the hub for a sign of life, once a minute; return why there is none.

    Where none comes, its client would wait for minutes.
    """
    return _hub_problem(int(time.time() // 60))


@functools.lru_cache(maxsize=1)
def _hub_problem(minute: int) -> str:
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:  # of the HTTP client that huggingface_hub has chosen
        return f"{constants.ENDPOINT}: {error or type(error).__name__}"
    return ""


def model_fingerprint(model: str, revision: str = "") -> str:
    """Name the weights of a model, so that new ones make old embeddings stale.

    Of a hub model it is the commit; of a folder a hash of its files, of which only the
    size and the first 64 MiB count.
    """
    folder = model_folder(model, revision)
    if folder.parent.name == "snapshots":
        return folder.name
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*")):
        if file.name in ("config.json", "preprocessor_config.json") or (
            file.suffix in (".safetensors", ".bin")
        ):
            digest.update(f"{file.name} {file.stat().st_size}".encode())
            with file.open("rb") as content:
                digest.update(content.read(64 << 20))
    return digest.hexdigest()[:16]
