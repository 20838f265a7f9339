"""Settings: precedence, names of artefacts, errors."""

from pathlib import Path

import pytest

from doggos_helpers.environment import local_home
from doggos_helpers.errors import SettingsError
from doggos_helpers.settings import ZERO_COUNTS, Settings


def test_passed_value_beats_environment_beats_default(monkeypatch):
    assert Settings.given(k=0).k == 4
    monkeypatch.setenv("DOGGOS_K", "7")
    assert Settings.given(k=0).k == 7
    assert Settings.given(k=9).k == 9


def test_zero_and_empty_mean_not_given_except_for_a_seed(monkeypatch):
    monkeypatch.setenv("DOGGOS_SEED", "5")
    monkeypatch.setenv("DOGGOS_DROPOUT", "0.4")
    monkeypatch.setenv("DOGGOS_EMBED_WORKERS", "3")
    given = Settings.given(seed=0, dropout=0.0, embed_workers=0, dataset="")
    assert (given.seed, given.dropout, given.embed_workers) == (0, 0.0, 3)
    assert Settings.given(seed="").seed == 5
    assert given.dataset == "sample"


@pytest.mark.parametrize(
    ("name", "value"), [("k", -1), ("use_gpu", "maybe"), ("epochs", "many")]
)
def test_a_wrong_value_is_named_with_its_setting(name, value):
    with pytest.raises(SettingsError, match=name) as caught:
        Settings.given(**{name: value})
    assert caught.value.exit_code == 2
    assert "DOGGOS_" in caught.value.fix


def test_no_workers_is_an_error_unless_a_notebook_says_it(monkeypatch):
    assert Settings.given(embed_workers=0, replicas=0).embed_workers is None
    for name in ("embed_workers", "train_cpus", "replicas", "gpus_per_worker"):
        with pytest.raises(SettingsError, match=f"{name} = '0'") as caught:
            Settings.from_command("x", [f"--{name.replace('_', '-')}", "0"])
        assert caught.value.fix.endswith(f"DOGGOS_{name.upper()}, or leave it out")
        with pytest.raises(SettingsError, match=name):
            Settings.given(**{name: -1})
    monkeypatch.setenv("DOGGOS_REPLICAS", "0")
    with pytest.raises(SettingsError, match="replicas"):
        Settings.given()


def test_a_variable_that_is_empty_counts_as_not_set(monkeypatch):
    monkeypatch.setenv("DOGGOS_EMBED_WORKERS", "")
    assert Settings.given().embed_workers is None


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        (["--embed-worker", "2"], "Did you mean --embed-workers"),
        (["--zzz"], "See --help"),
        (["stray"], "See --help"),
    ],
)
def test_an_unknown_option_is_two_lines(options, fix):
    with pytest.raises(SettingsError, match="wrong option") as caught:
        Settings.from_command("x", options)
    assert options[0] in caught.value.where and caught.value.fix.startswith(fix)


def test_a_mistyped_variable_is_warned_of_once_with_the_nearest_name(
    monkeypatch, capsys
):
    monkeypatch.setenv("DOGGOS_DATSET", "photos")
    monkeypatch.setenv("DOGGOS_QQQ", "1")
    monkeypatch.setenv("DOGGOS_TEST_ANYTHING", "1")
    monkeypatch.setenv("DOGGOS_CHAMPION", "folder")  # a setting of serve alone
    Settings.given()  # what a notebook calls
    Settings.from_command("x", [])
    said = capsys.readouterr().err
    assert said.count("DOGGOS_DATSET\n  Fix: Did you mean DOGGOS_DATASET.") == 1
    assert said.count("warning:") == 1  # others may be of another command


def test_every_option_of_every_command_works_as_help_prints_it(capsys):
    """Both -k and --k, and each flag; a wrong value is named and not the option."""
    for settings, program in command_settings():
        with pytest.raises(SystemExit):
            settings.from_command(program, ["--help"])
        options = printed_options(capsys.readouterr().out)
        fields = {f.alias or name: name for name, f in settings.model_fields.items()}
        names = {name.replace("_", "-") for name in fields}
        assert names <= {o.lstrip("-") for o, _ in options} and len(options) > 30
        for option, value in options:
            arguments = [
                option,
                *EXAMPLES.get(value, [value.strip("{}").split(",")[0]]),
            ]
            made = settings.from_command(program, arguments)
            name = option.lstrip("-").removeprefix("no-").replace("-", "_")
            assert fields.get(name, name) in made.model_fields_set, arguments


EXAMPLES = {"int": ["7"], "float": ["0.5"], "str": ["x"], "": []}
EXAMPLES["SecretStr"] = ["x"]


def command_settings():
    """The settings of each command, and its name."""
    from doggos_helpers.batch.notebooks import BatchSettings
    from doggos_helpers.loadtest.__main__ import LoadSettings
    from doggos_helpers.sample.__main__ import SampleSettings
    from doggos_helpers.search.__main__ import SearchSettings
    from doggos_helpers.serve.stages import ServeSettings

    return [
        *((Settings, name) for name in ("embed", "train", "evaluate", "cluster")),
        *((BatchSettings, "batch"), (LoadSettings, "loadtest")),
        *((SampleSettings, "sample"), (SearchSettings, "search")),
        (ServeSettings, "serve"),
    ]


def printed_options(text):
    """The options of a help text, each with the kind of value that stands behind it."""
    lines = [line.strip() for line in text.splitlines() if line.startswith("  -")]
    found = []
    for line in lines:
        for option in line.partition("  ")[0].split(", "):
            name, _, value = option.partition(" ")
            found.append((name, value.split("  ")[0]))
    return [(name, value) for name, value in found if name not in ("-h", "--help")]


def test_an_unknown_parameter_is_refused():
    with pytest.raises(SettingsError, match="unknown setting: epoch"):
        Settings.given(epoch=3)


def test_a_command_takes_the_same_settings(capsys):
    settings = Settings.from_command("x", ["--embed-workers", "2", "--use-gpu", "no"])
    assert (settings.embed_workers, settings.use_gpu) == (2, "no")
    with pytest.raises(SystemExit) as caught:
        Settings.from_command("x", ["--help"])
    assert caught.value.code == 0
    helped = capsys.readouterr().out
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in helped


def test_settings_are_frozen():
    with pytest.raises(Exception, match="frozen"):
        Settings().k = 3


def test_each_pair_of_data_set_and_model_has_its_own_place(tmp_path):
    (tmp_path / "a" / "dogs").mkdir(parents=True)
    (tmp_path / "b" / "dogs").mkdir(parents=True)
    choices = [
        Settings(storage=str(tmp_path), dataset=dataset, model=model)
        for dataset in ("sample", str(tmp_path / "a/dogs"), str(tmp_path / "b/dogs"))
        for model in ("sample", "openai/clip-vit-base-patch32")
    ]
    revised = Settings(storage=str(tmp_path), model_revision="abc")
    assert len({s.artefacts for s in [*choices, revised]}) == 7
    assert len({s.registered_model for s in [*choices, revised]}) == 7
    assert all(s.artefacts.parent == tmp_path for s in choices)


def test_storage_is_absolute_and_the_tracking_database_is_not_in_it(
    monkeypatch, tmp_path
):
    monkeypatch.delenv("DOGGOS_STORAGE", raising=False)
    monkeypatch.delenv("DOGGOS_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert Settings().storage_root == local_home() / "storage"
    relative = Settings(storage="here")
    assert relative.storage_root == tmp_path / "here"
    assert str(relative.storage_root) not in relative.tracking
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert Settings().tracking == "http://tracking:5000"
    assert Settings(tracking_uri="sqlite:////x.db").tracking == "sqlite:////x.db"


def test_a_relative_data_set_becomes_absolute_and_a_uri_stays(tmp_path, monkeypatch):
    (tmp_path / "dogs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert Settings(dataset="dogs").dataset == str(tmp_path / "dogs")
    assert Settings(dataset="s3://bucket/x").dataset == "s3://bucket/x"
    assert Settings(model="openai/clip").model == "openai/clip"
    assert Path(Settings(model="./dogs").model) == tmp_path / "dogs"


@pytest.mark.parametrize("name", ["storage", "dataset"])
@pytest.mark.parametrize("uri", ["s3://me:secret@b/x", "s3://b/x?region=us-east-1"])
def test_a_bucket_with_more_than_its_place_is_refused(name, uri):
    with pytest.raises(SettingsError, match="AWS_ENDPOINT_URL") as told:
        Settings.given(**{name: uri})
    assert "secret" not in str(told.value).replace("SECRET", "")


def test_a_public_bucket_is_a_data_set_and_no_storage():
    assert Settings.given(dataset="s3://anonymous@b/x").dataset == "s3://anonymous@b/x"
    with pytest.raises(SettingsError, match="a bucket and folder alone"):
        Settings.given(storage="s3://anonymous@b/x")


def test_the_settings_of_which_a_zero_counts_are_those_that_take_one():
    fields = Settings.model_fields.items()
    takes = {n for n, f in fields if any(getattr(m, "ge", 1) == 0 for m in f.metadata)}
    other = {n for n in takes if Settings.model_fields[n].default != 0}
    assert other | {"seed"} == set(ZERO_COUNTS)
    assert "keep_app" in Settings.given(keep_app=False).model_fields_set
