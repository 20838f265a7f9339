"""The Hugging Face hub: whether it answers, and the small files of its models."""

import contextlib
import functools
import time
from collections.abc import Sequence
from pathlib import Path

from doggos_helpers.errors import ModelError

FIX = (
    "Set DOGGOS_MODEL to sample, a hub id that this machine can reach, or a folder"
    " written by save_pretrained"
)


@functools.lru_cache(maxsize=1)
def _hub_problem(minute: int) -> str:
    """Ask the hub for a sign of life, once a minute; return why there is none.

    Its client would retry each file five times, up to minutes for each.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:  # of the HTTP client that huggingface_hub has chosen
        return str(error) or type(error).__name__
    return ""


def hub_problem() -> str:
    """Return why the hub can't be reached, or nothing, within ten seconds."""
    return _hub_problem(int(time.time() // 60))


def hub_folder(model: str, revision: str, files: Sequence[Sequence[str]]) -> Path:
    """Fetch small files of a hub model and return the folder where they lie.

    Args:
        model: Its id.
        revision: Commit or tag; empty: the newest.
        files: Names; of each group the first one that the model has. It must have one
            of the first group.

    Raises:
        ModelError: It isn't there, or can't be reached and isn't in the cache.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub import errors as hub

    def fetch(*names: str) -> Path | None:
        for name in names:
            with contextlib.suppress(*lacking):
                file = hf_hub_download(
                    model, name, revision=revision or None, local_files_only=bool(why)
                )
                return Path(file)
        return None

    why = hub_problem()
    lacking: list[type[Exception]] = [hub.RemoteEntryNotFoundError]
    if why:
        lacking.append(hub.LocalEntryNotFoundError)
    try:
        found = [fetch(*names) for names in files]
        if found[0] is None and why:
            raise OSError(why)
        if found[0] is None:
            raise ModelError(
                f"not a model: the hub has no {files[0][0]} of it", model, FIX
            )
        return found[0].parent
    except hub.GatedRepoError:
        raise ModelError(
            "the hub gives this model to its members alone", model, "Set HF_TOKEN"
        ) from None
    except (hub.RepositoryNotFoundError, hub.HFValidationError):
        what = "no folder here and no model on the hub has this name"
        raise ModelError(what, model, FIX) from None
    except hub.RevisionNotFoundError:
        fix = "Check DOGGOS_MODEL_REVISION"
        what = "the hub's model has no such revision"
        raise ModelError(what, f"{model}@{revision}", fix) from None
    except OSError as error:
        why = why or (str(error).splitlines() or ["no answer"])[0]
        raise ModelError(
            f"the hub can't be reached, and the model is not in its cache ({why})",
            f"{model} at {constants.ENDPOINT}",
            "Copy the model's folder to this machine and set DOGGOS_MODEL to it, use"
            " DOGGOS_MODEL=sample, or set HTTPS_PROXY or HF_ENDPOINT to reach a hub",
        ) from error
