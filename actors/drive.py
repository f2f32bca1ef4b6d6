"""Runs, and the driver that carries any of them out: it starts Ray Train, watches, tries again."""

from __future__ import annotations

import signal
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray.train
from ray.exceptions import RayError
from ray.train.torch import TorchConfig, TorchTrainer
from rich.console import Console

from actors.beating import beating_loop
from actors.failures import GROUP_FAILURES, Retries, cause
from actors.pulse import PulseBoard
from actors.stall_watch import SECONDS_BETWEEN_LOOKS as SECONDS_BETWEEN_PULSES
from actors.stall_watch import StalledError, StallWatch, on_nodes
from system.config.schema import BaseExperiment
from system.errors import PromptideError, QuarantinedError, StorageError, run_redacted
from system.loggers.points import Curves
from system.loggers.run_loggers import RunLoggers
from system.repeating import repeating
from system.storage.run_directory import RunDirectory
from system.storage.writer_lock import interrupt_main
from system.stream.task_source import StreamHaltedError

SECONDS_BETWEEN_LOOKS = 0.5

#: Takes where a run stands, and shows it.
Watch = Callable[[Any], None]
#: Takes all that was learned so far: one mapping per task of a stream, per epoch of a model.
Learned = Callable[[Sequence[Mapping[str, Any]]], None]


class Run(ABC):
    """A stream, or the training of a model, as a command or a trial carries it out.

    In this order: `check`, then the runs of `before`, then `complete`, then `report`.
    """

    experiment: BaseExperiment
    #: What loggers draw of it.
    curves: Curves
    #: Whether the results were there already when `check` looked.
    finished = False
    #: What `check` found that is worth a line on the terminal.
    notes: Sequence[str] = ()
    #: Between two calls of `learned`.
    seconds_between_reads = SECONDS_BETWEEN_LOOKS

    @property
    def directory(self) -> RunDirectory:
        """Where the run's files are."""
        return RunDirectory.of(self.experiment)

    @abstractmethod
    def check(self) -> None:
        """Check settings and data, before anything is written, and set `finished`.

        Raises ConfigError, DataError or AdapterMismatchError naming the field or file.
        """

    @abstractmethod
    def before(self) -> Sequence[Run]:
        """The runs whose models this one builds on, in their order."""

    def sole_maker(self, at: Place) -> AbstractContextManager[bool]:
        """Keep other runs from making the same thing at once; whether it is there by then."""
        return nullcontext(False)

    @abstractmethod
    def opened(self) -> AbstractContextManager[None]:
        """What the workers and the driver share while the workers run."""

    @abstractmethod
    def loop(self) -> tuple[Callable[[dict[str, Any]], None], dict[str, Any]]:
        """Ray Train's `train_loop_per_worker`, and the config it takes; inside `opened`."""

    def pulse_board(self, start: str) -> PulseBoard | None:
        """Where the workers of one start post their pulses; inside `opened`. None: nowhere."""
        return None

    @abstractmethod
    def progress(self, console: Console) -> AbstractContextManager[Watch]:
        """Bars or lines on the terminal that show what `look` gives."""

    @abstractmethod
    def look(self, watch: Watch) -> None:
        """Give `watch` where the run stands, if anything is known; inside `opened`."""

    @abstractmethod
    def learned(self) -> Sequence[Mapping[str, Any]]:
        """All that was learned so far; inside `opened`."""

    def note(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write what can be read meanwhile, from all that was learned so far."""
        return

    @abstractmethod
    def finish(self) -> Mapping[str, Any] | None:
        """Write the results from what the workers left; metrics.json, or None if it goes on later.

        Raises StreamHaltedError for a run that a sweep stopped.
        """

    @abstractmethod
    def report(self, console: Console) -> None:
        """Write the page of a finished run, and print its main results and where they are."""


@dataclass(frozen=True)
class Place:
    """From where a run is carried out; by default from a trial: unwatched, Ray is connected."""

    console: Console | None = None
    #: Connects Ray for the block, once the run really starts.
    cluster: Callable[[], AbstractContextManager[None]] = nullcontext
    #: When another run took over the making of a shared model; see `sole_writer`.
    on_lost: Callable[[], None] = interrupt_main

    def tell(self, line: str) -> None:
        """Print a line, where anybody reads it."""
        if self.console is not None:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def complete(run: Run, at: Place, learned: Learned | None = None) -> Mapping[str, Any] | None:
    """Carry out a run that was checked, or go on with it; its metrics, None if it goes on later.

    `learned` gets what the loggers get. Raises what `drive` and `Run.finish` raise.
    """
    # Only now, after the runs before this one: W&B ends all logs of a process with the first.
    with RunLoggers(run.experiment, run.curves) as loggers:

        def tell(rows: Sequence[Mapping[str, Any]]) -> None:
            if learned is not None:
                learned(rows)
            loggers.learned(rows)
            run.note(rows)

        if not run.finished:
            with run.sole_maker(at) as run.finished:
                if not run.finished:
                    with at.cluster(), _watched(run, at.console) as watch:
                        drive(run, watch, tell, at.tell)
        metrics = run.finish()
        if metrics is not None:
            loggers.final(metrics)
    return metrics


def drive(run: Run, watch: Watch, learned: Learned, say: Callable[[str], None]) -> None:
    """Run the workers to the run's end, from where they were; Ray is connected.

    `watch` is called twice a second, `learned` when more was learned. A worker group that dies, or
    loses its storage, or stands still (`say` gets where), is started again: see `Retries`. Raises
    the worker's own PromptideError, or StreamFailedError with its traceback.
    """
    reported = 0

    def tell() -> None:
        nonlocal reported
        rows = run.learned()
        if len(rows) > reported:
            reported = len(rows)
            learned(rows)

    # What goes wrong in a look the worker group meets too, and says.
    passing = (PromptideError, RayError)
    with run.opened():
        try:
            with (
                repeating(
                    lambda: run.look(watch),
                    SECONDS_BETWEEN_LOOKS,
                    name="promptide-progress",
                    passing=passing,
                ),
                repeating(
                    tell, run.seconds_between_reads, name="promptide-learned", passing=passing
                ),
            ):
                _until_done(run, say)
        except StreamHaltedError:
            raise  # whoever halted it wants no more of it
        except BaseException:
            with suppress(*passing):
                tell()
            raise
        run.look(watch)
        tell()


def _until_done(run: Run, say: Callable[[str], None]) -> None:
    """Fit, and again after each failure that may pass."""
    retries = Retries(run.experiment.cluster.max_failures)
    while True:
        try:
            fit(run, say)
            return
        # Without workers the loop's own; or of a group that stood still, and was ended for it.
        except (StorageError, QuarantinedError, StalledError) as error:
            failure: PromptideError = error
        except GROUP_FAILURES as error:
            failure = cause(error, run.directory.logs.uri)
        try:
            done = len(run.learned())
        except (PromptideError, RayError):
            done = 0  # unknown at the moment
        retries.wait_after(failure, done)


def fit(run: Run, say: Callable[[str], None] = lambda _: None) -> None:
    """One Ray Train run of the workers.

    Raises what Ray Train raises, at the first failure, and StalledError.
    """
    loop, config = run.loop()
    cluster = run.experiment.cluster
    start = uuid.uuid4().hex[:8]
    board = None if cluster.stall_seconds is None else run.pulse_board(start)
    if board is not None:
        loop, config = beating_loop, {"loop": loop, "config": config, "board": board}
    collectives = TorchConfig()
    if cluster.collective_timeout is not None:
        collectives = TorchConfig(timeout_s=cluster.collective_timeout)
    trainer = TorchTrainer(
        partial(run_redacted, loop),
        train_loop_config=config,
        torch_config=collectives,
        scaling_config=ray.train.ScalingConfig(
            num_workers=cluster.workers,
            use_gpu=cluster.gpu,
            resources_per_worker={"CPU": cluster.cpus_per_worker},
            placement_strategy=cluster.placement,
        ),
        run_config=ray.train.RunConfig(
            # Under a name of old, Ray would take a finished run's word that nothing is to be done.
            name=f"start-{start}",
            storage_path=run.directory.folder.child("ray_train").uri,
            # Ray would try a diverged loss again too, and at once.
            failure_config=ray.train.FailureConfig(max_failures=0),
        ),
    )
    with own_interrupt_handler(), _watching_progress(run, board, say):
        trainer.fit()


@contextmanager
def _watching_progress(
    run: Run, board: PulseBoard | None, say: Callable[[str], None]
) -> Iterator[None]:
    """End the workers inside the block if they stand still, and raise StalledError for it."""
    limit = run.experiment.cluster.stall_seconds
    if board is None or limit is None:
        yield
        return
    watch = StallWatch(limit, run.directory.logs, say, on_nodes)
    try:
        with repeating(
            lambda: watch.look(board.pulses(SECONDS_BETWEEN_PULSES)),
            SECONDS_BETWEEN_PULSES,
            name="promptide-stalls",
            passing=(RayError,),
        ):
            yield
    except Exception as error:
        if watch.found is None or isinstance(error, StalledError):
            raise
        raise watch.found from error
    except (KeyboardInterrupt, SystemExit) as error:  # as Ray Train has it
        if watch.found is None or not watch.interrupted:
            raise
        raise watch.found from error
    finally:
        with suppress(RayError):
            board.forget()


@contextmanager
def own_interrupt_handler() -> Iterator[None]:
    """Let Ctrl-C during `fit` be KeyboardInterrupt, and put back the handler of before after it.

    Ray Train's handler aborts its workers and exits. After `fit` there are none, and it would
    swallow every later Ctrl-C of the process.
    """
    # Only the main thread may set handlers, so none is set in another.
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT) if in_main else None
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        if in_main:
            signal.signal(signal.SIGINT, before)


def _watched(run: Run, console: Console | None) -> AbstractContextManager[Watch]:
    # Trials show themselves by what they report.
    return nullcontext(lambda _: None) if console is None else run.progress(console)
