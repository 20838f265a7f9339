"""Models of the hub: fetched from it, and from the cache where it is gone."""

import os
import subprocess
import sys
import time

import pytest

from tests.faults.hub import hub_with_sample, hub_without_models, no_hub, silent_hub

LOAD = """
import sys, time
from doggos_helpers.clip.encoder import ClipEncoder
from doggos_helpers.clip.model import check_model
from doggos_helpers.settings import Settings
from doggos_helpers.errors import ModelError
settings = Settings(model=sys.argv[1], model_revision=sys.argv[2])
started = time.monotonic()
try:
    check_model(settings, ["image", "text"])
    print("checked", time.monotonic() - started)
    if "load" in sys.argv:
        started = time.monotonic()
        towers = ["image", "text"]
        encoder = ClipEncoder(settings.model, settings.model_revision, towers=towers)
        print("loaded", encoder.encode_texts(["a dog"]).shape)
except ModelError as error:
    print(error)
"""


def run(cache, endpoint: str, model="someone/clip", revision="", *more: str):
    """Check a model in a process of its own: the endpoint is read at import."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, model, revision, *more],
        env=os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    assert "Retrying" not in done.stderr and "Fetching" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Fill a cache from a hub."""
    folder = tmp_path_factory.mktemp("hub")
    said = run(folder, hub_with_sample(), "someone/clip", "", "load")
    assert "checked" in said and "loaded (1, 128)" in said
    return folder


@pytest.mark.parametrize(
    "endpoint", [no_hub, pytest.param(silent_hub, marks=pytest.mark.long)]
)
def test_what_is_in_the_cache_is_used_where_the_hub_is_gone(cache, endpoint):
    started = time.monotonic()
    said = run(cache, endpoint(), "someone/clip", "", "load")
    assert "checked" in said and "loaded (1, 128)" in said
    assert time.monotonic() - started < 90  # with retries it would be minutes


def test_the_hub_is_asked_for_no_more_than_the_small_files(tmp_path):
    assert "checked" in run(tmp_path, hub_with_sample())
    fetched = {file.name for file in tmp_path.rglob("*") if file.is_file()}
    assert "config.json" in fetched and "model.safetensors" not in fetched


@pytest.mark.parametrize("model", ["a/b/c", "with space", "../elsewhere/clip"])
def test_a_name_that_the_hub_never_takes_is_said_to_be_none(tmp_path, model):
    said = run(tmp_path, hub_without_models(), model)
    assert said.startswith("the model is no folder here")
    assert "HFValidationError" in said
    assert "DOGGOS_MODEL" in said
