"""deploy/serve.yaml: what Ray Serve would leave out in silence is an error here."""

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel, ValidationError
from ray.serve.schema import ServeDeploySchema

from doggos_helpers.serve.stages import ServeSettings

FILE = Path(__file__).resolve().parents[2] / "deploy" / "serve.yaml"


def models(annotation: Any) -> list[type[BaseModel]]:
    """Find the models in a type such as `list[Model] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in models(part)]


def unknown(content: Any, model: type[BaseModel], where: str = "") -> list[str]:
    """Name every key that Ray's schema doesn't have."""
    found = []
    for key, value in content.items():
        if key not in model.model_fields:
            found.append(f"{where}{key}")
            continue
        for inner in models(model.model_fields[key].annotation):
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, dict):
                    found += unknown(part, inner, f"{where}{key}.")
    return found


def test_it_is_what_ray_serve_takes_and_nothing_else():
    content = yaml.safe_load(FILE.read_text())
    assert unknown(content, ServeDeploySchema) == []
    [app] = ServeDeploySchema.model_validate(content).applications
    settings = ServeSettings.model_validate(app.args)
    assert (settings.dataset, settings.app_name) == ("sample", app.name)
    module, _, name = app.import_path.partition(":")
    assert name == "build_app" and module == "doggos_helpers.serve.application"


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"proxy_locaton": "HeadOnly"}, "proxy_locaton"),
        ({"http_options": {"prot": 1}}, "http_options.prot"),
        ({"applications": [{"deploymnets": []}]}, "applications.deploymnets"),
    ],
)
def test_a_mistyped_key_would_be_found(change, where):
    assert unknown(change, ServeDeploySchema) == [where]


def test_an_argument_that_no_setting_has_is_an_error():
    with pytest.raises(ValidationError, match="replcas"):
        ServeSettings.model_validate({"replcas": 2})
