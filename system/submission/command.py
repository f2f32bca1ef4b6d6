"""The command of a job: checked before it is sent, and written as a shell line."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from system.config.compose import composed_values
from system.config.overrides import override
from system.errors import ConfigError
from system.escapes import shell
from system.submission.config import SubmitConfig
from system.uris import absolute, expanded

#: Keys whose files have to outlive the job.
PLACES = ("storage_path", "data_path", "cache_path", "adapters")
#: Keys that may name files of this machine, or a model of a hub: a path if something is there.
INPUTS = ("backbone.path", "grounder.path", "benchmark.options.root", "benchmark.similarity")
#: Commands without data and Ray, whose answer depends on whether anything is overridden.
AS_TYPED = ("parameters",)


@dataclass(frozen=True)
class JobCommand:
    """One promptide command with its overrides, as the job runs it."""

    name: str
    arguments: tuple[str, ...]
    file: str | None  # behind --config
    python: str
    values: Mapping[str, Any]  # the composed config

    @classmethod
    def checked(
        cls,
        name: str,
        arguments: Sequence[str],
        file: str | None,
        config: SubmitConfig,
        in_place: bool,
        sends: bool = True,
    ) -> "JobCommand":
        """Compose the command's config, and check that the job finds and keeps its files.

        `in_place` jobs run in the working directory itself; others in a copy that is
        thrown away, or if nothing `sends` it, in what the nodes have.
        Raises ConfigError naming the key.
        """
        overrides = [text for text in arguments if "=" in text or text.startswith("~")]
        values = composed_values(overrides, file)
        more: list[str] = []
        if name not in AS_TYPED:
            if not in_place:
                more += _kept_places(name, values, config)
                more += _found_inputs(name, values, config, sends)
            if not any(text.lstrip("+").startswith("cluster.address=") for text in overrides):
                more.append("cluster.address=auto")
        if file is not None:
            if in_place:  # of submit.working_dir, which need not be where the file is named from
                file = str(expanded(file).resolve())
            else:
                file = _sent_file(file, values, config, sends)
        python = config.python
        if python is None:  # a job with packages of its own has its own Python too
            has_own = config.install.extras is not None or config.install.lock is not None
            python = "python" if has_own else sys.executable
        return cls(name, (*arguments, *more), file, python, values)

    @property
    def words(self) -> tuple[str, ...]:
        """The words behind `promptide`."""
        file = () if self.file is None else ("--config", self.file)
        return (self.name, *self.arguments, *file)

    @property
    def line(self) -> str:
        """For a POSIX shell."""
        return shell_line((self.python, "-m", "system.app", *self.words))


def shell_line(words: Sequence[str]) -> str:
    """Words as a line for a POSIX shell. Raises ConfigError for what no command line can hold."""
    try:
        return " ".join(map(shell, words))
    except ValueError as error:
        raise ConfigError(f"{error}: take it out of the overrides and file names") from None


def check_room(values: Mapping[str, Any], config: SubmitConfig) -> None:
    """Raises ConfigError if the workers do not fit on the nodes of `submit.nodes`.

    Else a cluster would be paid for and wait for ever.
    """
    cluster, nodes = values["cluster"], config.nodes
    workers, each = max(int(cluster["workers"]), 1), float(cluster["cpus_per_worker"])
    fit = nodes.count * int(nodes.cpus / each + 1e-9)
    if workers > fit:
        raise ConfigError(
            f"cluster.workers={workers} need cluster.cpus_per_worker={each:g} CPUs each, and {fit} "
            f"of them fit on submit.nodes.count={nodes.count} nodes of "
            f"submit.nodes.cpus={nodes.cpus}"
        )
    if cluster["gpu"] and workers > nodes.count * nodes.gpus:
        raise ConfigError(
            f"cluster.workers={workers} need a GPU each, submit.nodes.count={nodes.count} x "
            f"submit.nodes.gpus={nodes.gpus} are {nodes.count * nodes.gpus}"
        )


def _kept_places(name: str, values: Mapping[str, Any], config: SubmitConfig) -> Iterator[str]:
    for key in (*PLACES, *_made_by(name, values)):
        value = _relative(key, values)
        if value is None:
            continue
        if not config.same_machine:
            raise ConfigError(
                f"{key}={value!r} is relative, and the job runs in a copy of the working directory "
                "that is thrown away; give a path that all nodes share, or a URI such as s3://"
            )
        yield override(key, absolute(value))


def _found_inputs(
    name: str, values: Mapping[str, Any], config: SubmitConfig, sends: bool
) -> Iterator[str]:
    made = _made_by(name, values)
    for key in INPUTS:
        value = _relative(key, values)
        if key in made or value is None or not Path(value).exists():
            continue
        if config.same_machine:
            yield override(key, absolute(value))
            continue
        inside = _inside_what_is_sent(value, values, config) if sends else None
        if inside is None:
            raise ConfigError(
                f"{key}={value!r} is a path of this machine that is not sent with the job; give "
                "one that all nodes share"
            )
        if inside != Path(value):
            yield override(key, str(inside))


def _made_by(name: str, values: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys that name what the command itself makes."""
    if name != "pretrain":
        return ()
    return ("backbone.path",) if values.get("grounder") is None else ("grounder.path",)


def _relative(key: str, values: Mapping[str, Any]) -> str | None:
    """The relative local path at a key; None for anything else."""
    value: Any = values
    for part in key.split("."):
        value = None if value is None else value.get(part)
    if value is None or ":" in value or expanded(value).is_absolute():
        return None
    return str(value)


def _inside_what_is_sent(path: str, values: Mapping[str, Any], config: SubmitConfig) -> Path | None:
    """A relative path in the job's copy of the working directory; None if it is not sent."""
    inside = Path(path).resolve()
    if not inside.is_relative_to(config.folder) or any(
        inside.is_relative_to(config.folder / folder) for folder in _left_out(values, config)
    ):
        return None
    return inside.relative_to(config.folder)


def _left_out(values: Mapping[str, Any], config: SubmitConfig) -> list[str]:
    found = [folder.strip("/") for folder in config.excludes]
    places = [values[key] for key in PLACES[:3] if values.get(key) is not None]
    return found + [str(value).removeprefix("./").rstrip("/") for value in places]


def _sent_file(file: str, values: Mapping[str, Any], config: SubmitConfig, sends: bool) -> str:
    path = expanded(file)
    if config.same_machine:
        return str(path.resolve())
    if path.is_absolute():
        return file  # on storage that the nodes share
    if not sends:
        raise ConfigError(
            f"--config {file} is relative, and submit.target={config.target} sends no files; give "
            "a path that all nodes share"
        )
    inside = _inside_what_is_sent(file, values, config)
    if inside is None:
        raise ConfigError(
            f"--config {file} is not sent with the job: copy it into submit.working_dir="
            f"{config.working_dir}, outside of {', '.join(_left_out(values, config))}"
        )
    return str(inside)
