"""Settings: what a user may choose.

Precedence: a value passed in (a papermill parameter, an option of a command), then
`DOGGOS_*`, then the default.
"""

import difflib
import functools
import os
import sys
from argparse import ArgumentParser
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as CommandLineError

from doggos_helpers.errors import SettingsError, without_secrets
from doggos_helpers.places import SAMPLE, Places

LOCAL = "local"  # the address of a Ray that is started here, for one process
PREFIX = "DOGGOS_"
YesNo = Literal["yes", "no"]


class Settings(Places, BaseSettings):
    """Settings of the series. Each is also a variable: --use-gpu is DOGGOS_USE_GPU."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        frozen=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        protected_namespaces=(),
    )

    dataset: str = Field(SAMPLE, description="sample, a folder, or a URI (s3://...)")
    model: str = Field(SAMPLE, description="sample, a folder, or a hub id")
    model_revision: str = Field("", description="commit or tag of a hub model")
    storage: str = Field("", description="folder or URI, seen by all nodes")
    tracking_uri: str = Field("", description="MLflow server or database")
    address: str = Field("", description="Ray cluster to join; local: a new one")
    wait_for_cluster_s: int = Field(
        600, ge=0, description="seconds to wait for growth, room or another run"
    )
    grow_to_cpus: float = Field(0, ge=0, description="what an autoscaler may reach")
    grow_to_gpus: float = Field(0, ge=0, description="0: what Ray knows of it")
    images_per_class: int = Field(0, ge=0, description="per split; 0: all of them")
    max_bad_share: float = Field(
        0.5, gt=0, le=1, description="of bad images at which embedding stops"
    )
    progress: YesNo | None = Field(None, description="bars; default: where they help")

    # None, the default of these, leaves the choice to the worker plan.
    use_gpu: YesNo | None = Field(None, description="default: where there is one")
    accelerator_type: str | None = Field(None, description="such as L4; default: any")
    gpus_per_worker: float | None = Field(None, gt=0, description="may be a fraction")
    memory_per_worker: float | None = Field(
        None, gt=0, description="GiB that Ray reserves for each worker; default: none"
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="of the CLIP towers"
    )
    embed_workers: int | None = Field(None, gt=0, description="how many")
    embed_cpus: float | None = Field(None, gt=0, description="CPUs of each")
    embed_batch_size: int | None = Field(None, gt=0, description="images")
    train_workers: int | None = Field(None, gt=0, description="how many")
    train_cpus: float | None = Field(None, gt=0, description="CPUs of each")
    train_batch_size: int | None = Field(None, gt=0, description="rows a worker")
    replicas: int | None = Field(None, gt=0, description="of each serving stage")
    replica_cpus: float | None = Field(
        None, gt=0, description="CPUs of a model replica"
    )

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

        An empty string means "not given here", as does a 0 that is the default or that
        the setting doesn't take.

        Raises:
            SettingsError: A name or a value that no setting takes.
        """
        for name in set(parameters) - set(cls.model_fields):
            fix = suggestion(name, cls.model_fields, "Remove it")
            raise SettingsError("unknown setting", name, fix)
        return cls._checked(
            {n: v for n, v in parameters.items() if not cls._not_given(n, v)}
        )

    @classmethod
    def from_command(cls, program: str, arguments: list[str]) -> Self:
        """Build settings from a command's options (`--dataset`, `--help`, ...).

        Raises:
            SettingsError: An option or a value that the command doesn't take.
        """
        try:
            options: Any = CliSettingsSource(
                cls,
                cli_prog_name=f"python -m {program}",
                cli_parse_args=arguments,
                cli_exit_on_error=False,
                add_argument_method=_add_option,
            )
        except CommandLineError as error:
            what = str(error).removeprefix("error parsing CLI: ")
            wrong = next((w for w in what.split() if w.startswith("--")), "")
            known = [f"--{name.replace('_', '-')}" for name in cls.model_fields]
            fix = suggestion(wrong, known, "See --help for all options")
            raise SettingsError("wrong option", what, fix) from None
        return cls._checked({"_cli_settings_source": options})

    @classmethod
    def _checked(cls, values: dict[str, Any]) -> Self:
        _warn_of_mistyped_variables(cls.model_fields)
        try:
            return cls(**values)
        except ValidationError as error:
            raise cls._explain(error) from None

    @classmethod
    def _not_given(cls, name: str, value: Any) -> bool:
        field = cls.model_fields[name]
        zero_is_a_value = field.default not in (None, 0) and not any(
            getattr(limit, "gt", None) == 0 for limit in field.metadata
        )
        is_zero = not isinstance(value, bool) and value == 0
        return value == "" or (is_zero and not zero_is_a_value and name != "seed")

    @classmethod
    def _explain(cls, error: ValidationError) -> SettingsError:
        lines, fixes = [], []
        for one in error.errors():
            name = ".".join(map(str, one["loc"]))
            lines.append(f"{name} = {one['input']!r} ({one['msg']})")
            variable = f"{PREFIX}{name.upper()}"
            if one["type"] == "greater_than" and cls.model_fields[name].default is None:
                fixes.append(f"Leave {name} out ({variable}), for what the plan gives")
            else:
                fixes.append(f"Change the parameter, the option or {variable}")
        return SettingsError("wrong setting", "; ".join(lines), "; ".join(fixes))

    @field_validator("dataset", "model", "storage", mode="after")
    @classmethod
    def _absolute(cls, value: str, info: Any) -> str:
        """Make a relative folder absolute; leave names, hub ids and URIs alone."""
        if value in ("", SAMPLE) or "://" in value:
            return value
        path = Path(value).expanduser()
        looks_like_hub_id = info.field_name == "model" and not (
            path.is_dir() or value.startswith((".", "/", "~"))
        )
        return value if looks_like_hub_id else str(path.resolve())

    @field_validator("storage")
    @classmethod
    def _bare(cls, value: str) -> str:
        """Refuse a bucket with its key or address in it: other paths are made of it."""
        if "://" in value and not {"@", "?"}.isdisjoint(value):
            variables = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL"
            raise ValueError(f"a bucket and folder alone, the rest in {variables}")
        return value

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
        if self.progress:
            return self.progress == "yes"
        return not os.environ.get("CI") and sys.stderr.isatty()


def _add_option(parser: Any, *names: str, **options: Any) -> Any:
    """Add an option to a parser; one of a single letter in both forms: -k and --k."""
    if all(len(name) == 2 for name in names):
        names = (*names, *(f"-{name}" for name in names))
    return ArgumentParser.add_argument(parser, *names, **options)


def suggestion(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return the fix for a name that isn't known: the nearest one that is."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.75)
    return f"Did you mean {near[0]}" if near else otherwise


def _warn_of_mistyped_variables(known: Iterable[str]) -> None:
    names = [name.upper() for name in known]
    for variable in sorted(os.environ):
        name = variable.removeprefix(PREFIX)
        if name == variable or name in names:
            continue
        if near := suggestion(name, names).replace("mean ", f"mean {PREFIX}"):
            _warn_once(
                str(SettingsError("no setting has this variable", variable, near))
            )


@functools.cache
def _warn_once(warning: str) -> None:
    print(f"warning: {warning}", file=sys.stderr)
