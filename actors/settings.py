"""Settings of a task stream: all that a process on any node needs to open it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from actors.journal.journal import begun_with
from actors.state.task_stream_state import TaskStream
from system.config.schema import StreamConfig
from system.data.shards.manifest import JOINED, Manifest
from system.storage.data_directory import DataDirectory
from system.storage.run_directory import RunDirectory
from system.uris import absolute

if TYPE_CHECKING:  # it needs torch, which would take the actor seconds at each start
    from system.config.schema import ExperimentConfig


@dataclass(frozen=True)
class StreamSettings:
    """Paths or URIs that the stream's node can reach, and the tasks in their order.

    `manifest_root` is the directory of manifest.json; `tasks` None stands for the manifest's order.
    The stream ends after `until` tasks for now; None: after its last. `members` are the tasks that
    the one task of a joined stream consists of; None: all of the manifest's.
    """

    journal_uri: str
    manifest_root: str
    tasks: tuple[str, ...] | None = None
    evaluation_splits: tuple[str, ...] = ("test",)
    config: StreamConfig = field(default_factory=StreamConfig)
    until: int | None = None
    members: tuple[str, ...] | None = None

    @classmethod
    def of(
        cls,
        experiment: ExperimentConfig,
        tasks: Sequence[str] | None,
        until: int | None = None,
    ) -> StreamSettings:
        """The stream of a run, in its run directory; see `StreamSettings.tasks`."""
        return cls(
            RunDirectory.of(experiment).stream.uri,
            DataDirectory.of(experiment).benchmark(experiment.benchmark.name).uri,
            None if tasks is None else tuple(tasks),
            experiment.evaluation.splits,
            experiment.stream,
            until,
            experiment.benchmark.tasks if experiment.stream.joined else None,
        )

    @classmethod
    def begun(cls, experiment: ExperimentConfig) -> StreamSettings:
        """The stream of a run as its journal says that it began, or will begin."""
        begun = begun_with(RunDirectory.of(experiment).stream)
        start = (JOINED,) if experiment.stream.joined else experiment.benchmark.tasks
        return cls.of(experiment, begun or start)

    def goes_on_from(self, other: StreamSettings) -> bool:
        """Whether this is the same stream as `other`, which ended earlier for now."""
        later = other.until is not None and (self.until is None or self.until > other.until)
        return later and replace(self, until=other.until) == other

    def anywhere(self) -> StreamSettings:
        """The same for a process with another working directory, all tasks by name.

        Raises what reading the manifest raises.
        """
        manifest = Manifest.load(self.manifest_root)
        given = tuple(entry.name for entry in manifest.tasks) if self.tasks is None else self.tasks
        return replace(
            self,
            journal_uri=absolute(self.journal_uri),
            manifest_root=absolute(self.manifest_root),
            tasks=given,
        )

    def open(self) -> TaskStream:
        """The stream in the caller's own process. Raises what manifest and stream raise."""
        manifest = Manifest.load(self.manifest_root)
        return TaskStream(
            self.journal_uri,
            manifest.joined(self.members) if self.config.joined else manifest,
            self.tasks,
            evaluation_splits=self.evaluation_splits,
            config=self.config,
            until=self.until,
        )
