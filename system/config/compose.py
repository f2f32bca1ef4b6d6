"""From Hydra's configs and a user's overrides to plain values, and to an experiment."""

import re
import typing
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from system.config.differences import differences, plain
from system.config.overrides import advice, key_of, readable, texts_in
from system.config.protocol import with_protocol
from system.config.schema import ExperimentConfig
from system.errors import ConfigError
from system.redaction import has_credentials
from system.uris import expanded

STREAM = "stream"  # the name of all stages that are streams; others are of models
CONFIG_DIRECTORY = Path(__file__).resolve().parents[2] / "configs"
_OPTIONS = "benchmark.options."
_BATCH, _SMALL = "stage.batch_size", "stage.small_tasks"
_SOURCES = "benchmark.sources="
_INSIDE_OPTION = re.compile(r"benchmark\.options\.[^.=]+(\.|=\{)")


def compose(overrides: Sequence[str], file: str | None = None) -> ExperimentConfig:
    """The config of a command from its Hydra overrides, or from a resolved config's file.

    Raises ConfigError for what Hydra cannot compose: an unknown key, group or option.
    """
    return experiment_of(composed_values(overrides, file))


def stage_name(values: Mapping[str, Any]) -> str:
    """The name of the stage, which says what kind of run composed values are of.

    Each configs/stage/*.yaml has one. A stored config without it is a stream's.
    """
    stage = values.get("stage")
    return str(stage.get("name", STREAM)) if isinstance(stage, Mapping) else STREAM


def experiment_of(values: Mapping[str, Any]) -> ExperimentConfig:
    """The experiment of composed values; the section `tune` belongs to sweeps alone.

    Raises ConfigError for the values of a model's training.
    """
    name = stage_name(values)
    if name != STREAM:
        raise ConfigError(f"stage.name={name} trains a model, and this is for streams of tasks")
    sections = {key: value for key, value in values.items() if key != "tune"}
    if isinstance(stage := values.get("stage"), Mapping):
        sections["stage"] = {key: value for key, value in stage.items() if key != "name"}
    return ExperimentConfig.from_dict(sections).with_absolute_paths()


def _check_keys(overrides: Sequence[str]) -> None:
    values = composed_values(overrides)
    if stage_name(values) == STREAM:  # a model's stage checks its own keys later
        experiment_of(values)


def composed_values(
    overrides: Sequence[str],
    file: str | None = None,
    root: str = "config",
    parse: Callable[[Sequence[str]], object] = _check_keys,
    schema: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """All that the configs say, resolved, as a plain mapping; see `compose`.

    Without a file it starts from configs/`root`.yaml, whose keys `parse` knows. With one, such as a
    run's config.yaml or a sweep's best.yaml, it starts from there and the overrides are values,
    since its groups are chosen already. `schema` has the types of the keys, an experiment's by
    default: what is a text there is taken as it stands, see `readable`.
    """
    for override in overrides:
        if "=" not in override[1:] and not override.startswith("~"):
            raise ConfigError(f"{override!r} is no override; write key=value, such as seed=1")
    if schema is None:
        schema = typing.get_type_hints(ExperimentConfig)
    if file is None:
        overrides = _long_form(overrides)

    def composed(schema: Mapping[str, Any]) -> dict[str, Any]:
        words = readable(overrides, schema)
        if file is None:
            found = _values_of_groups(words, root, parse)
        else:
            found = _values_of_file(file, words, schema)
        stage = found.get("stage")
        if isinstance(stage, dict) and stage_name(found) == STREAM:
            by_hand = {key_of(text) for text in overrides}
            if "small_tasks" not in stage or by_hand & {_BATCH, _SMALL} == {_BATCH}:
                stage["small_tasks"] = "stop"  # whoever gives a number wants that number
        return with_protocol(found, overrides)

    values = composed(schema)
    _refuse_secrets(values)
    if file is None and not any(key_of(text).startswith(_OPTIONS) for text in overrides):
        return values
    options = _options_of(values)  # which dataset's they are is known only now
    return values if options is None else composed({**schema, _OPTIONS.rstrip("."): options})


def _refuse_secrets(values: Any, where: str = "") -> None:
    """Raises ConfigError for a URI with a password or a signed query.

    A config is written into run directories, and shown by Ray and by lists of processes.
    """
    if isinstance(values, Mapping):
        for key, value in values.items():
            _refuse_secrets(value, f"{where}.{key}" if where else str(key))
    elif isinstance(values, list | tuple):
        for number, value in enumerate(values):
            _refuse_secrets(value, f"{where}[{number}]")
    elif isinstance(values, str) and has_credentials(values):
        raise ConfigError(
            f"{where}={values} holds a password or a signature, which others would read in the "
            "run's files and in lists of processes and jobs; take it out and set it in the "
            "environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for s3://, RAY_JOB_HEADERS "
            "for submit.address; for a job with their names in submit.env"
        )


def _options_of(values: Mapping[str, Any]) -> type | None:
    """The dataclass of the dataset's options in composed values; None if it is not known."""
    # Late, by name, as registries import their parts: the room of the data lies above this one.
    datasets = import_module("system.data.prepare.dataset").DATASETS
    name = (values.get("benchmark") or {}).get("dataset")
    return datasets.get(name).options if name in datasets else None


def _values_of_groups(
    overrides: Sequence[str], root: str, parse: Callable[[Sequence[str]], object]
) -> dict[str, Any]:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    overrides = _forcing_unlisted(overrides)
    OmegaConf.register_new_resolver("joined", lambda names: "+".join(map(str, names)), replace=True)
    try:
        with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
            composed = hydra_compose(root, overrides=list(overrides))
        values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        unknown = re.match(r"Could not override '([^']+)'", str(error))
        forced = [
            f"++{override}" if unknown and override.partition("=")[0] == unknown[1] else override
            for override in overrides
        ]
        if forced != list(overrides):
            parse(forced)  # our own message for an unknown key is the better one
        raise ConfigError(_explain(error)) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _long_form(overrides: Sequence[str]) -> list[str]:
    """The overrides, `benchmark.sources=[...]` as the group and the option that it is short for."""
    found: list[str] = []
    for text in overrides:
        if text.startswith(_SOURCES):
            found += ["benchmark=sources", text.replace(_SOURCES, f"{_OPTIONS}sources=", 1)]
        else:
            found.append(text)
    return found


def _forcing_unlisted(overrides: Sequence[str]) -> list[str]:
    """The overrides, those of keys that no YAML names as Hydra wants them.

    Keys of `tune` are checked by the section's own dataclass, `sharing` and `task_start`, which
    every method takes, by `method_kind`, and keys inside a data set's option, such as a split of
    one's own, when it is prepared.
    """
    unlisted = ("tune.", "method.sharing=", "method.task_start=")
    return [
        f"++{text}" if text.startswith(unlisted) or _INSIDE_OPTION.match(text) else text
        for text in overrides
    ]


def group_words(overrides: Sequence[str]) -> list[str]:
    """The user's words as Hydra takes them; for overrides that `composed_values` took."""
    words = readable(_long_form(overrides), typing.get_type_hints(ExperimentConfig))
    return _forcing_unlisted(words)


def given_options(overrides: Sequence[str], file: str | None = None) -> frozenset[str]:
    """Return the keys in `benchmark.options` that somebody wrote, or prefixes of such keys.

    That is the user, or an experiment's file: all options but those that are as the benchmark's
    group has them. A resolved config's file gives all, which the empty prefix says. For overrides
    that `composed_values` took: it says what is wrong with others.
    """
    if file is not None:
        return frozenset({""})
    overrides = _long_form(overrides)
    keys = map(key_of, overrides)
    written = {key.removeprefix(_OPTIONS) for key in keys if key.startswith(_OPTIONS)}
    of_group, composed = _options(overrides)
    return frozenset(written | differences(plain(of_group), plain(composed)).keys())


def _options(overrides: Sequence[str]) -> tuple[Any, Any]:
    """The options in the file of the chosen benchmark, and as composed."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        composed = hydra_compose("config", group_words(overrides), return_hydra_config=True)
    name = composed.hydra.runtime.choices.benchmark
    group = OmegaConf.load(CONFIG_DIRECTORY / "benchmark" / f"{name}.yaml")
    options = OmegaConf.to_container(composed.benchmark.options, resolve=True)
    return OmegaConf.to_container(group)["options"], options  # type: ignore[index, call-overload]


def _values_of_file(
    file: str, overrides: Sequence[str], schema: Mapping[str, Any]
) -> dict[str, Any]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import SafeLoader, YAMLError
    from yaml import compose as yaml_nodes

    path = expanded(file)
    try:
        config = OmegaConf.load(path)
        texts = texts_in(yaml_nodes(path.read_text("utf-8"), Loader=SafeLoader), schema)
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise ConfigError(f"--config {file} cannot be read: {error}") from error
    if not isinstance(config, DictConfig):
        raise ConfigError(f"--config {file} holds no config; give a run's config.yaml")
    groups = {path.name for path in CONFIG_DIRECTORY.iterdir() if path.is_dir()}
    try:
        for key, text in texts:
            OmegaConf.update(config, key, text)
        for override in OverridesParser.create().parse_overrides(list(overrides)):
            if override.key_or_group in groups:
                raise ConfigError(
                    f"{override.input_line}: with --config the groups are chosen already; "
                    f"override values, such as {override.key_or_group}.KEY=value"
                )
            if override.is_delete():
                raise ConfigError(f"{override.input_line}: with --config nothing can be removed")
            OmegaConf.update(config, override.key_or_group, override.value(), force_add=True)
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(_explain(error)) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


# `+key=value`, which Hydra proposes for an unknown key, is no remedy here: keys are fixed.
NOT_FOR_USERS = (
    "full_key:",
    "object_type=",
    "Set the environment",
    "To append to your config",
    "Config search path",
    "provider=",
    "See https:",
)


def _explain(error: Exception) -> str:
    """Hydra's message with its cause, without the parts that speak to programmers."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    cause = error.__cause__
    if cause is not None:
        lines += [line for line in str(cause).splitlines() if line.strip()]
    keep = [
        line.strip() for line in dict.fromkeys(lines) if not line.strip().startswith(NOT_FOR_USERS)
    ]
    override = getattr(error, "override", None)  # what Hydra could not parse
    if override is None:
        return f"config: {' '.join(keep)}"
    return f"config: {override}: {' '.join(keep)}{advice(override)}"
