"""The process's environment; beside `settings` and `places`, nobody else reads it."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

# Ray, MLflow and Hugging Face report usage unless told otherwise.
TELEMETRY_OFF = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
BUCKET_KEY = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
BUCKET_PLACE = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
BUCKET_ACCESS = (*BUCKET_KEY, *BUCKET_PLACE, "AWS_REGION", "AWS_DEFAULT_REGION")
# Before those libraries are imported; what the user has set is left as it is.
os.environ.update({k: v for k, v in TELEMETRY_OFF.items() if k not in os.environ})


def local_home() -> Path:
    """The folder on this machine's own disk for what must not be shared."""
    return Path.home() / ".doggos"


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set variables that the user has not set, for the length of a block."""
    new = {k: v for k, v in variables.items() if k not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


def ray_address() -> str:
    """The address in `RAY_ADDRESS`, or an empty string."""
    return os.environ.get("RAY_ADDRESS", "")


def token_source() -> str:
    """Say whether Ray asks for a token, and where it takes it from, in its order."""
    if os.environ.get("RAY_AUTH_MODE") == "disabled":
        return "off (RAY_AUTH_MODE): whoever reaches the cluster's ports can use it"
    named = [n for n in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH") if os.environ.get(n)]
    source = (*named, Path.home() / ".ray" / "auth_token")[0]
    return f"from {source}, where one is asked for"


def telemetry() -> dict[str, str]:
    """Return whether Ray, MLflow and Hugging Face may report usage: for workers."""
    return {name: os.environ[name] for name in TELEMETRY_OFF}


def bucket_access(names: Iterable[str] = BUCKET_ACCESS) -> dict[str, str]:
    """Return where buckets are and the key to them, as AWS names it: for workers."""
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def bucket_endpoint() -> str | None:
    """Return where buckets are; None: at Amazon's own S3."""
    return next(iter(bucket_access(BUCKET_PLACE).values()), None)
