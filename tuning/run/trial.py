"""One trial as Ray Tune sees it.

A class and not a function: inside Tune's function trainables Ray Train refuses its local mode, in
which a trial trains in its own process.
"""

import functools
import queue
from collections.abc import Mapping
from typing import Any

from ray import tune

from actors.handle import SharedStreams
from system.errors import PromptideError
from system.loggers.open_loggers import require_destinations
from system.storage.run_directory import RunDirectory
from system.storage.writer_lock import sole_writer
from system.stream.task_source import StreamHaltedError
from tuning.run.lasting_thread import lasting_thread
from tuning.run.records import FAILURE
from tuning.run.trial_kind import Reports, kind_named


class SweepTrial(tune.Trainable):
    """Trains in the process's lasting thread; a step of Tune is a task of the stream.

    `config`: {"experiment": a plain dict as its kind parses it, "metric": names, "streams": the
    name of the sweep's `SharedStreams`, None if its trials lease no tasks, "tasks": after how many
    it ends for now, "logs": the `destinations` that the sweep's own process has}. A process whose
    trial has ended takes the next one at once.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Start the trial, or go on with what its directory has."""
        self._name = str(config["experiment"]["run_name"])
        name = config["streams"]
        self._streams = None if name is None else SharedStreams.find(name)
        self._reports: Reports = queue.Queue()
        work = functools.partial(self._run, config, self._streams, self._reports)
        self._job = lasting_thread().start(work)

    def step(self) -> dict[str, Any]:
        """Wait for the next task; raises what the trial ended with."""
        report = self._reports.get()
        if isinstance(report, BaseException):
            raise report
        return report

    def cleanup(self) -> None:
        """End the stream if it still runs; its workers, if any, then give back what they hold."""
        while not self._job.done.wait(timeout=1.0):
            if self._streams is not None:
                self._streams.halt(self._name)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another trial."""
        self.cleanup()
        self.setup(new_config)
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: a trial's state is its run directory."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: see `save_checkpoint`."""

    @staticmethod
    def _run(config: Mapping[str, Any], streams: SharedStreams | None, reports: Reports) -> None:
        try:
            run_trial(config, streams, reports)
        except BaseException as error:
            reports.put(error)


def run_trial(config: Mapping[str, Any], streams: SharedStreams | None, reports: Reports) -> None:
    """Run a trial to its end, as the only writer of its directory.

    What ends it by the user's fault is left in failure.json for the sweep's table. Raises
    StorageError when another sweep has the directory, or took it from a trial that stood still.
    `streams` as in `TrialKind.run`.
    """
    kind = kind_named(config["experiment"])
    experiment = kind.parse(config["experiment"])
    folder = RunDirectory.of(experiment).folder

    def lost() -> None:
        if streams is not None:
            streams.halt(experiment.run_name)

    with sole_writer(folder, on_lost=lost):
        folder.delete(FAILURE)
        try:
            require_destinations(experiment, config["logs"])
            kind.run(experiment, config["metric"], config["tasks"], reports, streams)
        except StreamHaltedError:
            reports.put({"done": True})  # the sweep stopped it
        except PromptideError as error:
            folder.write_json(FAILURE, {"kind": type(error).__name__, "message": str(error)})
            raise
