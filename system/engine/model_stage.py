"""Stages that train one model from a benchmark: their config, and how Ray Train runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from system.config.parse import parse_dataclass
from system.config.schema import BaseExperiment, with_absolute_model_paths
from system.data.prepare.origin import require_origin
from system.data.shards.manifest import Manifest
from system.engine.whereabouts import here
from system.engine.worker_group import WorkerGroup
from system.engine.worker_log import RankLog
from system.errors import ConfigError
from system.registry import Registry
from system.storage.data_directory import DataDirectory
from system.storage.files import Folder
from system.storage.run_directory import REPORT, RunDirectory
from system.uris import absolute

#: What comes to the terminal: a line about what came out.
Tell = Callable[[str], None]
#: Where a stage stands: the phase, how much of it is done, of how much, and its metrics in words.
#: Workers call it; it has to survive pickling, and must be cheap enough for every step.
Show = Callable[[str, int, int, str], None]


def show_nothing(phase: str, done: int, total: int, values: str) -> None:
    """For a stage that nobody watches."""


_WRITTEN: Mapping[object, str] = {None: "null", (): "[]"}  # of values, as in YAML


@dataclass(frozen=True)
class ModelExperiment(BaseExperiment):
    """Everything that the training of a model depends on."""

    stage: dict[str, Any]  # name: a registered model stage; the rest are its own settings

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, unset in (("order", "given"), ("similarity", None), ("held_out", ())):
            if getattr(self.benchmark, name) != unset:
                raise ConfigError(
                    f"benchmark.{name}={getattr(self.benchmark, name)} is for streams: a model's "
                    f"stage reads all tasks at once; leave it {_WRITTEN.get(unset, unset)}"
                )

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> ModelExperiment:
        """Parse composed values, leaving out the sections of other kinds of runs.

        Raises ConfigError naming the field. Local paths are made absolute.
        """
        own = {key: value for key, value in values.items() if key in cls.__dataclass_fields__}
        parsed = parse_dataclass(cls, with_absolute_model_paths(own), "config")
        return replace(
            parsed,
            storage_path=absolute(parsed.storage_path),
            data_path=absolute(parsed.data_path),
            cache_path=parsed.cache_path and absolute(parsed.cache_path),
        )

    def manifest(self) -> Manifest:
        """The manifest of the prepared benchmark; see `Manifest.prepared`, `require_origin`."""
        benchmark = self.benchmark
        folder = DataDirectory.of(self).benchmark(benchmark.name)
        manifest = Manifest.prepared(folder, benchmark.name)
        require_origin(manifest, benchmark.dataset, benchmark.options, folder.uri)
        return manifest

    def with_stage(self, stage: Mapping[str, Any]) -> ModelExperiment:
        """A run of its own for another stage, named after this one.

        Raises ConfigError for a stage that there is not.
        """
        name = f"{self.run_name}-{stage.get('name')}"
        return model_experiment({**self.to_dict(), "run_name": name, "stage": dict(stage)})


class ModelStage(Protocol):
    """One kind of model that can be trained."""

    @property
    def experiment(self) -> type[ModelExperiment]:
        """The class that describes its runs, with more sections if it needs more."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """Keys of metrics.json, dotted, that a sweep may go by; larger is better."""
        ...

    @property
    def logged(self) -> tuple[str, ...]:
        """Keys of metrics.json, metrics or sections of them, that loggers get."""
        ...

    def place(self, experiment: ModelExperiment) -> Folder:
        """Where the finished model lies; the same for all runs of the same settings and data."""
        ...

    def before(self, experiment: ModelExperiment) -> Sequence[ModelExperiment]:
        """The experiments whose models this one builds on, in the order to run them."""
        ...

    def finished(self, experiment: ModelExperiment) -> bool:
        """Whether the model is there already; checks the settings and the data first."""
        ...

    def loop(self, config: dict[str, Any]) -> None:
        """Ray Train's `train_loop_per_worker`; `started` tells what the config holds."""
        ...

    def report(self, experiment: ModelExperiment, tell: Tell) -> None:
        """Write the finished model's metrics into the run directory and report the main ones."""
        ...


def _now_a_stream(name: str) -> str | None:
    if name != "alignment":
        return None
    return (
        "stage.name=alignment: stage 3 is a stream of one joined task now; start it anew, with "
        "experiment=rec or experiment=diff_prompt_small and without the old config's file"
    )


MODEL_STAGES: Registry[ModelStage] = Registry(
    "stage", "system", "STAGE", file="stage", elsewhere=_now_a_stream
)


def stage_of(experiment: ModelExperiment) -> ModelStage:
    """The stage that an experiment trains. Raises ConfigError for an unknown one."""
    return MODEL_STAGES.get(experiment.stage["name"])


def model_experiment(values: Mapping[str, Any]) -> ModelExperiment:
    """The experiment of composed values, of the class that their stage asks for.

    Raises ConfigError naming the field.
    """
    return MODEL_STAGES.get(values["stage"].get("name")).experiment.from_values(values)


def started(config: Mapping[str, Any]) -> tuple[ModelExperiment, Show]:
    """The experiment, and whom to tell where it stands, from the config of a worker's loop."""
    show: Show = config["show"]

    def moving(phase: str, done: int, total: int, values: str) -> None:
        here().move()
        show(phase, done, total, values)

    return model_experiment(config["experiment"]), moving


def tell_model(tell: Tell, values: Mapping[str, str], model: Folder, run: Folder) -> None:
    """Report a model's metrics, where it lies, and where its page is."""
    for name, value in values.items():
        tell(f"{name}: {value}")
    tell(f"model: {model.uri}")
    tell(f"report: {run.file_uri(REPORT)}")


@contextmanager
def worker_of(experiment: ModelExperiment) -> Iterator[tuple[WorkerGroup, RankLog]]:
    """Join the group that Ray Train started this process for; each start has a log of its own."""
    with here().doing("start"):
        group = WorkerGroup.join()
    torch.set_num_threads(max(1, int(experiment.cluster.cpus_per_worker)))
    logs = RunDirectory.of(experiment).logs
    starts = sum(name.startswith(f"rank-{group.rank}-") for name in logs.names())
    log = RankLog(logs, group.rank, generation=starts)
    with log.ending(), here().doing(str(experiment.stage["name"])):
        yield group, log
