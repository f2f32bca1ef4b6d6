"""One trial as a Ray Tune trainable.

It is a class and not a function: inside Tune's function trainables Ray Train refuses its local
mode, in which a trial trains in its own process.
"""

import functools
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ray import tune
from typing_extensions import override

from actors.handle import SharedStreams
from system.errors import PromptideError
from system.loggers.run_loggers import require_destinations
from system.storage.run_directory import RunDirectory
from system.storage.writer_lock import sole_writer
from system.stream.task_source import StreamHaltedError
from tuning.run.trial_kind import FAILURE, Reports
from tuning.search.sweep_plan import kind_of


class Job:
    """Work of a `WorkerThread`; `done` is set when it has ended, with or without an error."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.work = work
        self.done = threading.Event()


class WorkerThread:
    """Runs jobs one after the other in a single daemon thread.

    PyTorch and the C library keep memory for every thread that ever computed and never return it: a
    process that ran each trial in a new thread grew by the trial's working memory every time.
    """

    def __init__(self) -> None:
        self._jobs: queue.Queue[Job] = queue.Queue()
        # A daemon, so that a killed actor does not wait for the end of its trial.
        threading.Thread(target=self._run, name="promptide-trial", daemon=True).start()

    def start(self, work: Callable[[], None]) -> Job:
        """Run `work`, which must not raise, after all earlier jobs."""
        job = Job(work)
        self._jobs.put(job)
        return job

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                job.work()
            finally:
                job.done.set()


@functools.cache
def worker_thread() -> WorkerThread:
    """The thread in which this process runs its trials."""
    return WorkerThread()


class SweepTrial(tune.Trainable):
    """A trial, trained in the process's worker thread; a step of Tune is a task of the stream.

    A process whose trial has ended takes the next one (`reuse_actors`). Keys of `config`:
    - "experiment": a plain dict, as its kind parses it;
    - "metric": names of the metrics whose mean is the score;
    - "streams": name of the sweep's `SharedStreams`, None if its trials lease no tasks;
    - "tasks": the number of tasks after which the trial ends for now;
    - "logs": the `destinations` of the sweep's own process.
    """

    @override
    def setup(self, config: dict[str, Any]) -> None:
        self._name = str(config["experiment"]["run_name"])
        name = config["streams"]
        self._streams = None if name is None else SharedStreams.find(name)
        # A queue per trial: a late report of the last trial must not reach the next one.
        self._reports: Reports = queue.Queue()
        work = functools.partial(_run_reporting, config, self._streams, self._reports)
        self._job = worker_thread().start(work)

    @override
    def step(self) -> dict[str, Any]:
        report = self._reports.get()  # blocks until the next task is finished
        if isinstance(report, BaseException):
            raise report
        return report

    @override
    def cleanup(self) -> None:
        # Halted again every second: a stream that is not open yet misses the halt. The end is
        # waited for, as the trial's workers hold their resources until then.
        while not self._job.done.wait(timeout=1.0):
            if self._streams is not None:
                self._streams.halt(self._name)

    @override
    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self.setup(new_config)
        return True

    @override
    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing: the state of a trial is its run directory."""

    @override
    def load_checkpoint(self, checkpoint: Any) -> None:
        """Load nothing; `setup` reads the run directory."""


def _run_reporting(
    config: Mapping[str, Any], streams: SharedStreams | None, reports: Reports
) -> None:
    try:
        run_trial(config, streams, reports)
    except BaseException as error:  # whatever it is, `step` must not wait for a report for ever
        reports.put(error)


def run_trial(config: Mapping[str, Any], streams: SharedStreams | None, reports: Reports) -> None:
    """Run a trial to its end, as the only writer of its directory.

    An error that the user can mend is stored in failure.json, for the sweep's table. Raises
    StorageError when another sweep is writing the directory, or took it over while this trial was
    suspended. `streams` as in `TrialKind.run`.
    """
    kind = kind_of(config["experiment"])
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
