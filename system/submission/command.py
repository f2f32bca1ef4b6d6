"""The command of a job: checked where a mistake costs nothing, and written as a shell line."""

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from system.config import composed_values
from system.errors import ConfigError
from system.overrides import override
from system.storage.locations import absolute
from system.submission.config import SubmitConfig

#: Keys whose files have to outlive the job, and those that a single command adds.
PLACES = ("storage_path", "data_path", "adapters")
FURTHER_PLACES = {"pretrain": ("backbone.path",)}


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
    ) -> "JobCommand":
        """Compose the command's config, and see that the job finds and keeps its files.

        `in_place` jobs run in the working directory itself; others in a copy that is thrown away.
        Raises ConfigError naming the key.
        """
        overrides = [text for text in arguments if "=" in text or text.startswith("~")]
        values = composed_values(overrides, file)
        more = [] if in_place else list(_kept_places(name, values, config))
        if not any(text.lstrip("+").startswith("cluster.address=") for text in overrides):
            more.append("cluster.address=auto")
        if file is not None and not in_place:
            file = _sent_file(file, values, config)
        python = config.python
        if python is None:  # a job with packages of its own has its own Python too
            has_own = config.install.extras is not None or config.install.lock is not None
            python = "python" if has_own else sys.executable
        return cls(name, (*arguments, *more), file, python, values)

    @property
    def words(self) -> tuple[str, ...]:
        """What stands behind `promptide`."""
        file = () if self.file is None else ("--config", self.file)
        return (self.name, *self.arguments, *file)

    @property
    def line(self) -> str:
        """For a POSIX shell."""
        return shlex.join((self.python, "-m", "system.app", *self.words))


def check_room(values: Mapping[str, Any], config: SubmitConfig) -> None:
    """Whether a cluster of `submit.nodes` has room for the workers.

    Raises ConfigError with the arithmetic, instead of a cluster that is paid for and waits.
    """
    cluster, nodes = values["cluster"], config.nodes
    workers = max(int(cluster["workers"]), 1)
    need = workers * float(cluster["cpus_per_worker"])
    if need > nodes.count * nodes.cpus:
        raise ConfigError(
            f"cluster.workers={workers} x cluster.cpus_per_worker={cluster['cpus_per_worker']:g} "
            f"need {need:g} CPUs, submit.nodes.count={nodes.count} x submit.nodes.cpus={nodes.cpus}"
            f" are {nodes.count * nodes.cpus}"
        )
    if cluster["gpu"] and workers > nodes.count * nodes.gpus:
        raise ConfigError(
            f"cluster.workers={workers} need a GPU each, submit.nodes.count={nodes.count} x "
            f"submit.nodes.gpus={nodes.gpus} are {nodes.count * nodes.gpus}"
        )


def _kept_places(name: str, values: Mapping[str, Any], config: SubmitConfig) -> Iterator[str]:
    for key in (*PLACES, *FURTHER_PLACES.get(name, ())):
        value: Any = values
        for part in key.split("."):
            value = value[part]
        if value is None or ":" in value or Path(value).expanduser().is_absolute():
            continue
        if not config.same_machine:
            raise ConfigError(
                f"{key}={value!r} is relative, and the job runs in a copy of the working directory "
                "that is thrown away; give a path that all nodes share, or a URI such as s3://"
            )
        yield override(key, absolute(value))


def _sent_file(file: str, values: Mapping[str, Any], config: SubmitConfig) -> str:
    path = Path(file).expanduser()
    if config.same_machine:
        return str(path.resolve())
    if path.is_absolute():
        return file  # on storage that the nodes share
    left_out = [folder.strip("/") for folder in config.excludes]
    left_out += [str(values[key]).removeprefix("./").rstrip("/") for key in PLACES[:2]]
    inside = path.resolve()
    if not inside.is_relative_to(config.folder) or any(
        inside.is_relative_to(config.folder / folder) for folder in left_out
    ):
        raise ConfigError(
            f"--config {file} is not sent with the job: copy it into submit.working_dir="
            f"{config.working_dir}, outside of {', '.join(left_out)}"
        )
    return str(inside.relative_to(config.folder))
