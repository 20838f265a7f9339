"""The record that each stage leaves beside its artefact: `run.json`."""

import json
import os
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from doggos_helpers.config import Settings
from doggos_helpers.errors import StorageError

RECORDED = ("ray", "torch", "transformers", "mlflow", "pyarrow", "scikit-learn")


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(content, indent=2, default=str) + "\n")
    draft.replace(path)


def read_json(path: Path, made_by: str) -> Any:
    """Read a JSON artefact.

    Args:
        path: The file.
        made_by: The notebook that makes it, for the message: "03_embedding".

    Raises:
        StorageError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise missing(path, made_by) from None
    except json.JSONDecodeError as error:
        raise StorageError(
            f"not a JSON file ({error})", str(path), f"Delete it and run {made_by}"
        ) from None


def missing(path: Path, made_by: str) -> StorageError:
    """Build the one sentence for an artefact that isn't there."""
    stage = {"embedding": "embed", "training": "train", "evaluation": "evaluate"}
    command = stage.get(made_by.partition("_")[2], "")
    return StorageError(
        "no such artefact yet",
        str(path),
        f"Run notebook {made_by}"
        + (f" or `python -m doggos_helpers.{command}` first" if command else " first"),
    )


def write_run(
    folder: Path,
    stage: str,
    settings: Settings,
    started: float,
    *,
    fingerprint: str,
    counts: dict[str, Any],
    nodes: dict[str, int],
    **more: Any,
) -> dict[str, Any]:
    """Write `folder`/run.json and return it.

    Args:
        folder: Beside the artefact.
        stage: Such as "embed".
        settings: The settings of this run.
        started: `time.time()` at the start.
        fingerprint: Of the data set, from its manifest.
        counts: What went in and what came out.
        nodes: Rows or requests by node.
        **more: What this stage alone records.
    """
    run = {
        "stage": stage,
        "seconds": round(time.time() - started, 2),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "fingerprint": fingerprint,
        "counts": counts,
        "nodes": nodes,
        **more,
        "settings": settings.model_dump(),
        "versions": {name: _version(name) for name in RECORDED},
    }
    write_json(folder / "run.json", run)
    return run


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
