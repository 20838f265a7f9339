"""Settings: what a user may choose.

Precedence: a value passed in (a papermill parameter, an option of a command), then
`DOGGOS_*`, then the default.
"""

import difflib
import functools
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import SettingsConfigDict
from pydantic_settings import SettingsError as CommandLineError

from doggos_helpers.errors import SettingsError, without_secrets
from doggos_helpers.places import SAMPLE, Places

LOCAL = "local"  # the address of a Ray that is started here, for one process
PREFIX = "DOGGOS_"
# In a notebook's parameters, where 0 is else "not given".
ZERO_COUNTS = ("seed", "dropout", "hidden_units", "patience", "wait_for_cluster_s")
YesNo = Literal["yes", "no"]
Dtype = Literal["float32", "bfloat16", "float16"]


class Settings(Places):
    """Settings of the series. Each is also a variable: --use-gpu is DOGGOS_USE_GPU."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        frozen=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
    )

    address: str = Field("", description="Ray cluster to join; local: a new one")
    wait_for_cluster_s: int = Field(600, ge=0, description="for room or another run")
    grow_to_cpus: float = Field(0, ge=0, description="what an autoscaler may reach")
    grow_to_gpus: float = Field(0, ge=0, description="0: what Ray knows of it")
    images_per_class: int = Field(0, ge=0, description="per split; 0: all of them")
    max_bad_share: float = Field(0.5, gt=0, le=1, description="of images, to go on")
    progress: YesNo | None = Field(None, description="bars; default: where they help")

    # None, the default of these, leaves the choice to the worker plan.
    use_gpu: YesNo | None = Field(None, description="default: where there is one")
    accelerator_type: str | None = Field(None, description="such as L4; default: any")
    gpus_per_worker: float | None = Field(None, gt=0, description="may be a fraction")
    memory_per_worker: float | None = Field(None, gt=0, description="GiB to reserve")
    dtype: Dtype | None = Field(None, description="of the CLIP towers")
    embed_workers: int | None = Field(None, gt=0, description="how many")
    embed_cpus: float | None = Field(None, gt=0, description="CPUs of each")
    embed_batch_size: int | None = Field(None, gt=0, description="images")
    train_workers: int | None = Field(None, gt=0, description="how many")
    train_cpus: float | None = Field(None, gt=0, description="CPUs of each")
    train_batch_size: int | None = Field(None, gt=0, description="rows a worker")
    replicas: int | None = Field(None, gt=0, description="of each serving stage")
    replica_cpus: float | None = Field(None, gt=0, description="CPUs of each")

    epochs: int = Field(15, gt=0, description="passes over the training rows")
    learning_rate: float = Field(3e-3, gt=0, description="of AdamW")
    hidden_units: int = Field(256, ge=0, description="0: a linear probe alone")
    dropout: float = Field(0.1, ge=0, lt=1, description="of the classifier")
    seed: int = Field(0, ge=0, description="of shuffling and initial weights")
    patience: int = Field(5, ge=0, description="epochs without gain; 0: never stop")
    rate_at_end: float = Field(0, ge=0, le=1, description="share of learning_rate")
    clip_norm: float = Field(0, ge=0, description="of gradients; 0: any length")

    k: int = Field(4, gt=0, description="how many similar images")
    host: str = Field("127.0.0.1", description="where the service listens")
    port: int = Field(8000, gt=0, lt=65536, description="where the service listens")
    app_name: str = Field("doggos", min_length=1, description="of the Serve app")
    serve_images: YesNo | None = Field(None, description="default: for the sample")
    allow_private_urls: bool = Field(False, description="fetch from private hosts")
    keep_app: bool = Field(False, description="leave the app of notebook 06 running")

    @classmethod
    def given(cls, **parameters: Any) -> Self:
        """Build settings from a notebook's parameters.

        An empty string means "not given here", as does a 0 that isn't of ZERO_COUNTS.

        Raises:
            SettingsError: A name or a value that no setting takes.
        """
        for name in set(parameters) - set(cls.model_fields):
            fix = suggestion(name, cls.model_fields, "Remove it")
            raise SettingsError("unknown setting", name, fix)

        def is_given(name: str, value: Any) -> bool:
            is_zero = value == 0 and value is not False
            return value != "" and (not is_zero or name in ZERO_COUNTS)

        return cls._checked(**{n: v for n, v in parameters.items() if is_given(n, v)})

    @classmethod
    def from_command(cls, program: str, arguments: list[str]) -> Self:
        """Build settings from a command's options (`--dataset`, `--help`, ...).

        Raises:
            SettingsError: An option or a value that the command doesn't take.
        """
        # pydantic-settings names an option of one letter -k; here --k does as well.
        arguments = [re.sub("^--(?=[a-z](=|$))", "-", word) for word in arguments]
        program = f"python -m {program}"
        return cls._checked(
            _cli_parse_args=arguments, _cli_prog_name=program, _cli_exit_on_error=False
        )

    @classmethod
    def _checked(cls, **values: Any) -> Self:
        _warn_of_mistyped_variables([name.upper() for name in cls.model_fields])
        try:
            return cls(**values)
        except CommandLineError as error:
            what = str(error).removeprefix("error parsing CLI: ")
            wrong = next((word for word in what.split() if word.startswith("--")), "")
            known = [f"--{name.replace('_', '-')}" for name in cls.model_fields]
            fix = suggestion(wrong, known, "See --help for all options")
            raise SettingsError("wrong option", what, fix) from None
        except ValidationError as error:
            found = {".".join(map(str, e["loc"])): e for e in error.errors()}
            said = [f"{n} = {e['input']!r} ({e['msg']})" for n, e in found.items()]
            variables = ", ".join(PREFIX + name.upper() for name in found)
            fix = f"Change the parameter, the option or {variables}, or leave it out"
            raise SettingsError("wrong setting", "; ".join(said), fix) from None

    @field_validator("dataset", "model", "storage")
    @classmethod
    def _absolute(cls, value: str, info: Any) -> str:
        """Make a relative folder absolute; leave names, hub ids and URIs alone."""
        public = "s3://anonymous@" if info.field_name == "dataset" else "s3://"
        if value.startswith("s3://") and set("@?") & set(value.removeprefix(public)):
            variables = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL"
            raise ValueError(f"a bucket and folder alone, the rest in {variables}")
        path = Path(value).expanduser()
        is_path = path.is_dir() or value.startswith((".", "/", "~"))
        is_hub_id = info.field_name == "model" and not is_path
        if value in ("", SAMPLE) or "://" in value or is_hub_id:
            return value
        return str(path.resolve())

    def shown(self) -> dict[str, Any]:
        """Return all settings as they may be recorded: without credentials."""
        return {
            name: without_secrets(value) if isinstance(value, str) else value
            for name, value in self.model_dump().items()
        }

    @property
    def serves_images(self) -> bool:
        """Whether the app hands out the data set's images: by default the sample's."""
        default = "yes" if self.dataset == SAMPLE else "no"
        return (self.serve_images or default) == "yes"

    @property
    def shows_progress(self) -> bool:
        """Whether to draw progress bars: in a terminal or Jupyter, never in CI."""
        helpful = not os.environ.get("CI") and sys.stderr.isatty()
        return self.progress == "yes" if self.progress else helpful


def suggestion(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return the fix for a name that isn't known: the nearest one that is."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.75)
    return f"Did you mean {near[0]}" if near else otherwise


def _warn_of_mistyped_variables(known: list[str]) -> None:
    for variable in sorted(os.environ):
        name = variable.removeprefix(PREFIX)
        if name != variable and name not in known and (near := suggestion(name, known)):
            _warn_once(variable, near.replace("mean ", f"mean {PREFIX}"))


@functools.cache
def _warn_once(variable: str, fix: str) -> None:
    error = SettingsError("no setting has this variable", variable, fix)
    print(f"warning: {error}", file=sys.stderr)
