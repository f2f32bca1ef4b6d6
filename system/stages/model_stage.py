"""Stages that train one model from a benchmark: their config, and how Ray Train runs them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from system.config import BenchmarkConfig, ClusterConfig, check_name_and_seed
from system.data.manifest import Manifest
from system.parsing import parse_dataclass
from system.registry import Registry
from system.stages.interrupts import own_interrupt_handler
from system.stages.worker_group import scaling_config
from system.storage.files import Folder
from system.storage.locations import absolute
from system.storage.run_directory import RunDirectory

#: What comes to the terminal: a line about where the training stands.
Tell = Callable[[str], None]


@dataclass(frozen=True)
class ModelExperiment:
    """Everything that the training of a model depends on."""

    run_name: str
    storage_path: str
    data_path: str
    seed: int
    benchmark: BenchmarkConfig
    stage: dict[str, Any]  # name: a registered model stage; the rest are its own settings
    cluster: ClusterConfig

    def __post_init__(self) -> None:
        check_name_and_seed(self.run_name, self.seed)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> ModelExperiment:
        """Parse composed values, leaving out the sections of other kinds of runs.

        Raises ConfigError naming the field. Local paths are made absolute.
        """
        own = {key: value for key, value in values.items() if key in cls.__dataclass_fields__}
        parsed = parse_dataclass(cls, own, "config")
        return replace(
            parsed,
            storage_path=absolute(parsed.storage_path),
            data_path=absolute(parsed.data_path),
        )

    def to_dict(self) -> dict[str, Any]:
        """A plain dict that `from_values` takes: for Ray workers and for config.yaml."""
        return asdict(self)

    def manifest(self) -> Manifest:
        """The manifest of the prepared benchmark; see `Manifest.prepared`."""
        folder = Folder.of(self.data_path).child(self.benchmark.name)
        return Manifest.prepared(folder, self.benchmark.name)

    def models(self, kind: str, digest: str) -> Folder:
        """Where a finished model lies, by what determines it; shared by all runs."""
        return Folder.of(self.data_path).child("models").child(f"{kind}-{digest}")


class ModelStage(Protocol):
    """One kind of model that can be trained."""

    def finished(self, experiment: ModelExperiment) -> bool:
        """Whether the model is there already; checks the settings and the data first."""
        ...

    def loop(self, config: dict[str, Any]) -> None:
        """Ray Train's `train_loop_per_worker`; `config` is `ModelExperiment.to_dict()`."""
        ...

    def report(self, experiment: ModelExperiment, tell: Tell) -> None:
        """Write the finished model's figures into the run directory and tell the main ones."""
        ...


MODEL_STAGES: Registry[ModelStage] = Registry("stage", "system.stages")


def fit(experiment: ModelExperiment, stage: ModelStage) -> None:
    """Train the stage's model on Ray Train, going on from the run's last checkpoint.

    Ray is connected. Raises what Ray Train raises.
    """
    import ray.train
    from ray.train.torch import TorchTrainer

    directory = RunDirectory.of(experiment).folder

    cluster = experiment.cluster
    trainer = TorchTrainer(
        stage.loop,
        train_loop_config=experiment.to_dict(),
        scaling_config=scaling_config(cluster),
        run_config=ray.train.RunConfig(
            # Under a name of old, Ray would take a finished run's word that nothing is to be done.
            name=f"start-{uuid.uuid4().hex[:8]}",
            storage_path=directory.child("ray_train").uri,
            failure_config=ray.train.FailureConfig(max_failures=cluster.max_failures),
        ),
    )
    with own_interrupt_handler():
        trainer.fit()
