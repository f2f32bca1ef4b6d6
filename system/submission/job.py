"""A job: a command, the packages and the environment that it runs with, the target it goes to."""

import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from system.errors import ConfigError
from system.escapes import visible, yaml_is_plain
from system.registry import Registry
from system.submission.command import JobCommand
from system.submission.config import Install, SubmitConfig
from system.submission.job_environment import HOOK, STOPPING, VARIABLE
from system.uris import expanded

PACKAGE = "promptide"
THE_CLUSTERS = frozenset({"ray", PACKAGE})  # a job cannot bring another Ray than the cluster's


@dataclass(frozen=True)
class Job:
    """A command with its settings, to be sent or rendered into a file."""

    command: JobCommand
    config: SubmitConfig

    def runtime_env(self, sealed: str | None = None) -> dict[str, Any]:
        """Ray's runtime environment, without a working directory.

        `sealed` holds the variables of `submit.env`, see `job_environment`.
        """
        variables = dict(STOPPING)
        env: dict[str, Any] = {"env_vars": variables}
        packages = job_requirements(self.config.install)
        if packages is not None:
            env["pip"] = {"packages": packages, "pip_check": False}
        if sealed is not None:
            variables[VARIABLE] = sealed
            env["worker_process_setup_hook"] = HOOK
        return env

    def working_dir(self) -> dict[str, Any]:
        """The part of the runtime environment that sends the code along."""
        return {"working_dir": str(self.config.folder), "excludes": self.excludes}

    @property
    def excludes(self) -> list[str]:
        """Patterns as in .gitignore: those configured, and the folders of data and runs."""
        folder, found = self.config.folder, list(self.config.excludes)
        for key in ("data_path", "storage_path", "cache_path"):
            value = self.command.values.get(key)
            if value is None:  # cache_path, unless it is set
                continue
            place = folder / value  # an absolute one stands for itself
            if ":" not in value and place.is_relative_to(folder) and place != folder:
                found.append(f"/{place.relative_to(folder)}/")
        return list(dict.fromkeys(found))


def job_requirements(install: Install) -> list[str] | None:
    """Lines for pip, sorted; None where the job takes what the nodes have.

    A version in the lock replaces promptide's own bounds. Raises ConfigError naming the extra or
    the line that cannot be used.
    """
    if install.extras is None and install.lock is None:
        return None
    found: dict[str, str] = {}
    if install.extras is not None:
        found |= {name: str(item) for name, item in _needed(install.extras)}
    if install.lock is not None:
        for item in _locked(install.lock):
            found[canonicalize_name(item.name)] = str(item)
    return sorted(text for name, text in found.items() if name not in THE_CLUSTERS)


def _needed(extras: tuple[str, ...]) -> Iterator[tuple[str, Requirement]]:
    """promptide's requirements with these extras, by canonical name, without their markers."""
    known = importlib.metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    for extra in extras:
        if extra not in known:
            raise ConfigError(
                f"submit.install.extras holds {extra!r}; promptide has {', '.join(sorted(known))}"
            )
    for text in importlib.metadata.requires(PACKAGE) or []:
        item = Requirement(text)
        wanted = ({"extra": extra} for extra in ("", *extras))
        if item.marker is None or any(item.marker.evaluate(names) for names in wanted):
            item.marker = None
            yield canonicalize_name(item.name), item


def _locked(file: str) -> Iterator[Requirement]:
    try:
        lines = expanded(file).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"submit.install.lock={file} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip().removesuffix("\\").strip()
        if not text or text.startswith("--hash="):
            continue
        try:
            yield Requirement(text)
        except InvalidRequirement as error:
            raise ConfigError(
                f"submit.install.lock={file}, line {number}: {text!r} is no requirement such as "
                "torch==2.13.0"
            ) from error


class Target(Protocol):
    """A kind of cluster that takes jobs."""

    #: Whether the command runs in the working directory itself, and not in a copy of it.
    in_place: bool
    #: The keys of `submit` that it reads, beside `target` and `options`; others are refused.
    takes: frozenset[str]

    def render(self, job: Job) -> str:
        """The file that `--render` prints; it holds no value of an environment variable."""
        ...

    def send(self, job: Job) -> str:
        """Send the job and return its id. Raises ConfigError if the target takes files only."""
        ...


TARGETS: Registry[Target] = Registry("submit.target", "system.submission.targets", "TARGET")


class _Plain(yaml.SafeDumper):  # type: ignore[misc]
    """Quotes every text that any reader of YAML could take for a number or a truth value.

    Kubernetes' reader takes `1e3` for a number, PyYAML's does not, and each knows other words.
    """


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    if yaml_is_plain(text):
        return dumper.represent_str(text)
    one_line = text.isprintable()
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if one_line else '"')


_Plain.add_representer(str, _text)


def yaml_text(value: Any, *comment: str) -> str:
    """A YAML document in the order of its keys, below a comment."""
    head = [f"# {visible(text)}\n" for text in comment]
    body = yaml.dump(value, Dumper=_Plain, sort_keys=False, width=1000, allow_unicode=True)
    return "".join([*head, str(body)])
