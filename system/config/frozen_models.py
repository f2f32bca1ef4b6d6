"""The config's sections `backbone` and `grounder`: the frozen models that something learns on."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from system.backbones.computation import Computation, Precision
from system.backbones.shipped import resolved
from system.storage.files import absolute

if TYPE_CHECKING:
    from system.backbones.dual_encoder import DualEncoder
    from system.grounders.grounder import Grounder

Config = TypeVar("Config", bound="FrozenModelConfig")


@dataclass(frozen=True)
class FrozenModelConfig:
    """Which kind of model, a hub id or a local directory to load it from, how it computes."""

    name: str
    path: str
    precision: Precision = "auto"
    gradient_checkpointing: bool = False
    compile: bool = False
    pretrain: dict[str, Any] | None = None  # for models that `promptide pretrain` can make

    def resolved_path(self) -> str:
        """The path, `shipped:NAME` being a directory inside this package."""
        return resolved(self.path)

    @property
    def computation(self) -> Computation:
        """The settings that say how it computes."""
        return Computation(self.precision, self.gradient_checkpointing, self.compile)

    def with_absolute_path(self: Config) -> Config:
        """The same with a local path made absolute: a Ray worker has another working directory."""
        if Path(self.path).expanduser().is_dir():
            return replace(self, path=absolute(self.path))
        return self


def with_absolute_model_paths(section: Any) -> Any:
    """A config's section in which the local paths of frozen models, at any depth, are absolute."""
    if not isinstance(section, Mapping):
        return section
    made = {key: with_absolute_model_paths(value) for key, value in section.items()}
    path = made.get("path")
    if isinstance(path, str) and isinstance(made.get("name"), str):
        made["path"] = FrozenModelConfig(made["name"], path).with_absolute_path().path
    return made


@dataclass(frozen=True)
class BackboneConfig(FrozenModelConfig):
    """A dual encoder."""

    def load(self) -> "DualEncoder":
        """The frozen backbone. Raises ConfigError naming what cannot be loaded."""
        from system.backbones.dual_encoder import BACKBONES

        return BACKBONES.get(self.name)(self.resolved_path(), self.computation)


@dataclass(frozen=True)
class GrounderConfig(FrozenModelConfig):
    """A grounder."""

    def load(self) -> "Grounder":
        """The frozen grounder. Raises ConfigError naming what cannot be loaded."""
        from system.grounders.grounder import GROUNDERS

        return GROUNDERS.get(self.name)(self.resolved_path(), self.computation)
