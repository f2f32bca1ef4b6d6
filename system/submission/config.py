"""The section `submit` of the config: a job's target, environment and resources."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from system.config.compose import CONFIG_DIRECTORY, composed_values
from system.config.overrides import override
from system.config.parse import parse_dataclass
from system.errors import ConfigError
from system.uris import expanded

GIGABYTE = 1 << 30


@dataclass(frozen=True)
class Entrypoint:
    """Resources of the command's own process on the cluster, beside its workers'."""

    cpus: float
    gpus: float
    memory_gb: float
    resources: dict[str, float] | None

    def __post_init__(self) -> None:
        amounts = {"cpus": self.cpus, "gpus": self.gpus, "memory_gb": self.memory_gb}
        for name, amount in {**amounts, **(self.resources or {})}.items():
            if amount < 0:
                raise ValueError(f"entrypoint.{name}={amount} must be at least 0")


@dataclass(frozen=True)
class Install:
    """Packages installed for the job alone; both None: none."""

    extras: tuple[str, ...] | None
    lock: str | None


@dataclass(frozen=True)
class Nodes:
    """The machines of a cluster that is made for the command, all alike."""

    count: int
    cpus: int
    gpus: int
    memory_gb: int

    def __post_init__(self) -> None:
        for name, least in (("count", 1), ("cpus", 1), ("gpus", 0), ("memory_gb", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"nodes.{name}={getattr(self, name)} must be at least {least}")


@dataclass(frozen=True)
class SubmitConfig:
    """The whole section; configs/submit.yaml explains each key."""

    target: str  # a registered one: see system/submission/targets
    address: str | None
    id: str | None
    python: str | None
    same_machine: bool
    working_dir: str
    excludes: tuple[str, ...]
    env: tuple[str, ...]
    setup: tuple[str, ...]
    entrypoint: Entrypoint
    install: Install
    nodes: Nodes
    options: dict[str, Any]

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise ValueError(f"working_dir={self.working_dir!r} is no folder here")
        for name in self.env:
            if not name.isidentifier():
                raise ValueError(
                    f"env holds {name!r}, which is no name of a variable; its value is taken from "
                    "this environment, so give the name alone"
                )

    @property
    def folder(self) -> Path:
        """The working directory, absolute."""
        return expanded(self.working_dir).resolve()


def compose_submission(overrides: Sequence[str]) -> SubmitConfig:
    """From configs/submit.yaml and overrides, all of which begin with `submit`.

    Raises ConfigError naming the key.
    """
    schema = {"submit": SubmitConfig}
    values = composed_values(overrides, None, "submit", compose_submission, schema)
    return parse_dataclass(SubmitConfig, values["submit"], "submit")


def is_submission(argument: str) -> bool:
    """True for overrides of `submit`, which say how the command is sent."""
    key = argument.lstrip("+~").partition("=")[0]
    return key == "submit" or key.startswith("submit.")


def differing(config: SubmitConfig, keys: Collection[str]) -> Iterator[str]:
    """Overrides of configs/submit.yaml that give `keys` the values they have in `config`."""
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(OmegaConf.load(CONFIG_DIRECTORY / "submit.yaml"))
    assert isinstance(plain, dict)
    values = {**plain["submit"], "target": config.target}
    default = parse_dataclass(SubmitConfig, values, "submit")
    for field in fields(SubmitConfig):
        if field.name in keys:
            name = field.name
            yield from _overrides(f"submit.{name}", getattr(config, name), getattr(default, name))


def check_taken(config: SubmitConfig, taken: Collection[str]) -> None:
    """Raises ConfigError naming a key of `submit` that the target does not read."""
    others = {field.name for field in fields(SubmitConfig)} - {"target", "options", *taken}
    for text in differing(config, others):
        raise ConfigError(
            f"{text} has no effect where submit.target={config.target}, which takes target, "
            f"options, {', '.join(sorted(taken))}; leave it out"
        )


def _overrides(key: str, value: Any, default: Any) -> Iterator[str]:
    if value == default:
        return
    if is_dataclass(value):
        for field in fields(value):
            name = field.name
            yield from _overrides(f"{key}.{name}", getattr(value, name), getattr(default, name))
    else:
        yield override(key, value)


def required_address(config: SubmitConfig) -> str:
    """The dashboard's address. Raises ConfigError if there is none, or it is of another kind."""
    address = config.address
    if address is None or not address.startswith(("http://", "https://")):
        raise ConfigError(
            f"submit.address={address!r} must be the address of Ray's dashboard, such as "
            "http://127.0.0.1:8265: choose submit=local, or submit=ray_address submit.address=..."
        )
    return address
