"""One trial: a whole stream through the same code as `promptide run`, reporting to Ray Tune.

A class and not a function: inside Tune's function trainables Ray Train refuses its local mode, in
which a stream trains in the trial's own process.
"""

import functools
import queue
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ray import tune

from actors.stream_run import close_stream, run_stream
from system.config import ExperimentConfig
from system.errors import PromptideError
from system.preflight import check_experiment
from system.stages.task_source import ConsumerStatus, StreamClosedError
from system.storage.results import finish_run
from system.storage.run_directory import RunDirectory
from tuning.figures import RECALL, TASKS_DONE, recall_so_far
from tuning.lasting_thread import lasting_thread
from tuning.records import FAILURE

Report = dict[str, Any]


class StreamTrial(tune.Trainable):
    """Trains in the process's lasting thread; a step of Tune is a task of the stream.

    `config`: {"experiment": a plain dict for ExperimentConfig, "metric": names}. A process whose
    stream has ended takes the next trial at once.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Start the stream, or go on with what its journal has."""
        self._name = str(config["experiment"]["run_name"])
        self._reports: queue.Queue[Report | BaseException] = queue.Queue()
        self._job = lasting_thread().start(functools.partial(self._run, config, self._reports))

    def step(self) -> Report:
        """Wait for the next task; raises what the stream ended with."""
        report = self._reports.get()
        if isinstance(report, BaseException):
            raise report
        return report

    def cleanup(self) -> None:
        """End the stream if it still runs; its workers, if any, then give back what they hold."""
        while not self._job.done.wait(timeout=1.0):
            close_stream(self._name)

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
    def _run(config: Mapping[str, Any], reports: "queue.Queue[Report | BaseException]") -> None:
        try:
            run_trial(ExperimentConfig.from_dict(config["experiment"]), config["metric"], reports)
        except BaseException as error:
            reports.put(error)


class TaskReports:
    """Passes on the average recall so far after each task, each task once and in order."""

    def __init__(
        self, metric: Sequence[str], tasks: int, reports: "queue.Queue[Report | BaseException]"
    ) -> None:
        self.metric = metric
        self.tasks = tasks
        self.reports = reports
        self.told = 0

    def learned(self, committed: Sequence[Mapping[str, Any]], done: bool = False) -> None:
        """Tell what is new in what the stream committed; the last task once all files are there."""
        rows = [row for payload in committed for row in payload["rows"]]
        upto = len(committed) if done else min(len(committed), self.tasks - 1)
        figures = recall_so_far(rows, self.metric, upto)
        for task in range(self.told, upto):
            figure = figures[task]
            self.reports.put(
                {
                    RECALL: float("nan") if figure is None else figure,
                    TASKS_DONE: task + 1,
                    "done": task + 1 == self.tasks,
                }
            )
        self.told = max(self.told, upto)


def run_trial(
    experiment: ExperimentConfig,
    metric: Sequence[str],
    reports: "queue.Queue[Report | BaseException]",
) -> None:
    """Learn the trial's stream and write its figures.

    What ends it by the user's fault is left in failure.json for the sweep's table.
    """
    folder = RunDirectory.of(experiment).folder
    folder.delete(FAILURE)
    try:
        started = time.perf_counter()
        checked = check_experiment(experiment)
        told = TaskReports(metric, len(checked.tasks), reports)
        ready = time.perf_counter()
        left = run_stream(experiment, checked.manifest, checked.tasks, _unwatched, told.learned)
        ended = time.perf_counter()
        if len(left.committed) < len(checked.tasks):
            raise StreamClosedError("closed between two tasks")
        finish_run(
            experiment,
            checked.manifest.fingerprint,
            checked.tasks,
            left.committed,
            left.access_log,
            {"start": ready - started, "stream": ended - ready},
        )
        told.learned(left.committed, done=True)
    except StreamClosedError:
        reports.put({"done": True})  # the sweep stopped it
    except PromptideError as error:
        folder.write_json(FAILURE, {"kind": type(error).__name__, "message": str(error)})
        raise


def _unwatched(_: ConsumerStatus) -> None:
    """Trials show themselves by the tasks they report."""
