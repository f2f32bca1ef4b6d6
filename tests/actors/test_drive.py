"""The driver: what is tried again, what is told to whom, and that Ctrl-C works after it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ray.train.torch import TorchConfig
from rich.console import Console
from typing_extensions import override

from actors import drive
from actors.beating import beating_loop
from actors.drive import Place, Run, Watch, complete, fit, own_interrupt_handler
from actors.failures import Retries, StreamFailedError
from actors.pulse import Pulse
from actors.rank_process import Finding, RankProcess, end
from actors.stall_watch import OnNodes, StalledError, StallWatch
from system.engine.epochs import DivergedError
from system.errors import PromptideError, QuarantinedError, StorageError, run_redacted
from system.loggers.points import ModelCurves
from system.storage.files import Folder
from system.stream.task_source import StreamHaltedError
from tests.loggers.event_files import scalars
from tests.loggers.test_model_loggers import experiment

METRICS = {"iou": 0.5, "training_log": [{"epoch": epoch, "loss": 2.0} for epoch in range(3)]}


class FakeRun(Run):
    """A run whose workers are functions: one for each time that they are started."""

    def __init__(self, root: Path, *fits: Callable[[FakeRun], None]) -> None:
        self.experiment = experiment(root)
        self.curves = ModelCurves(("iou",))
        self.fits = list(fits)
        self.log: list[dict[str, Any]] = []
        self.there = False
        self.happened: list[str] = []
        self.noted: list[int] = []

    @override
    def check(self) -> None: ...

    @override
    def before(self) -> Sequence[Run]:
        return ()

    @override
    @contextmanager
    def sole_maker(self, at: Place) -> Iterator[bool]:
        yield self.there

    @override
    @contextmanager
    def opened(self) -> Iterator[None]:
        self.happened.append("opened")
        try:
            yield
        finally:
            self.happened.append("closed")

    @override
    def loop(self) -> tuple[Callable[[dict[str, Any]], None], dict[str, Any]]:
        raise NotImplementedError

    @override
    @contextmanager
    def progress(self, console: Console) -> Iterator[Watch]:
        yield lambda seen: self.happened.append(f"seen {seen}")

    @override
    def look(self, watch: Watch) -> None:
        watch(len(self.log))

    @override
    def learned(self) -> Sequence[Mapping[str, Any]]:
        return list(self.log)

    @override
    def note(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.noted.append(len(rows))

    @override
    def finish(self) -> Mapping[str, Any] | None:
        self.happened.append("finished")
        return METRICS

    @override
    def report(self, console: Console) -> None: ...


def learn(run: FakeRun, epochs: int = 1) -> None:
    """Workers that learn something."""
    run.log += [{"epoch": len(run.log) + more, "loss": 2.0} for more in range(epochs)]


def fail(error: Exception, epochs: int = 0) -> Callable[[FakeRun], None]:
    """Workers that end badly, after some epochs."""

    def failing(run: FakeRun) -> None:
        learn(run, epochs)
        raise error

    return failing


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let runs be fitted by their functions, and note the waits between."""
    slept: list[float] = []
    monkeypatch.setattr(drive, "fit", lambda run, say: run.fits.pop(0)(run))
    monkeypatch.setattr(drive, "GROUP_FAILURES", (ConnectionError,))
    monkeypatch.setattr(drive, "Retries", lambda limit: Retries(limit, sleep=slept.append))
    return slept


def limited(run: FakeRun, failures: int) -> FakeRun:
    """The run with another limit of failures."""
    cluster = replace(run.experiment.cluster, max_failures=failures)
    run.experiment = replace(run.experiment, cluster=cluster)
    return run


def test_a_group_that_dies_is_started_again_and_what_it_learned_counts(
    tmp_path: Path, waits: list[float]
) -> None:
    """Each finished epoch starts the count of failures anew."""
    died, away = fail(ConnectionError("died"), epochs=1), fail(StorageError("away"), epochs=1)
    run = limited(FakeRun(tmp_path, died, away, learn), failures=1)
    assert complete(run, Place()) == METRICS
    assert waits == [1, 1]
    assert run.fits == []


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (DivergedError("nan"), DivergedError),
        (ConnectionError("rank 0 died"), StreamFailedError),
        (StorageError("away"), StorageError),
    ],
)
def test_a_failure_that_stays_ends_the_run_with_its_own_error(
    tmp_path: Path, waits: list[float], error: Exception, raised: type[PromptideError]
) -> None:
    """Loggers still get what was learned, and what was opened is closed."""
    run = FakeRun(tmp_path, fail(error, epochs=2))
    with pytest.raises(raised):
        complete(run, Place())
    assert run.happened == ["opened", "closed"]
    assert run.noted == [2]
    losses = scalars(tmp_path / "model" / "tensorboard")
    assert len(losses) == 2


def test_skipped_rows_start_the_group_anew_at_once(tmp_path: Path, waits: list[float]) -> None:
    """They are not read again, so it is no failure that counts."""
    run = FakeRun(tmp_path, fail(QuarantinedError("two images")), learn)
    complete(run, Place())
    assert waits == []


def test_whoever_halted_a_run_is_told_no_more(tmp_path: Path, waits: list[float]) -> None:
    """A sweep has compared what it needed."""
    run = FakeRun(tmp_path, fail(StreamHaltedError("halted"), epochs=1))
    told: list[int] = []
    with pytest.raises(StreamHaltedError):
        complete(run, Place(), lambda rows: told.append(len(rows)))
    assert told == []


def test_all_that_is_learned_is_told_once_to_everyone(
    tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reports of a sweep, loggers and files of a live run show the same tasks or epochs."""
    monkeypatch.setattr(FakeRun, "seconds_between_reads", 0.01)
    told: list[int] = []

    def slowly(run: FakeRun) -> None:
        for _ in range(3):
            learn(run)
            until = time.monotonic() + 30
            while len(told) < len(run.log):
                assert time.monotonic() < until, "nothing was told while the workers ran"
                time.sleep(0.005)

    run = FakeRun(tmp_path, slowly)
    complete(run, Place(Console(quiet=True)), lambda rows: told.append(len(rows)))
    assert told == run.noted == [1, 2, 3]
    found = scalars(tmp_path / "model" / "tensorboard")
    assert [point[:2] for point in found if point[0] == "train/loss"] == [
        ("train/loss", epoch + 1) for epoch in range(3)
    ]
    assert run.happened[-3:] == ["seen 3", "closed", "finished"]


def test_a_model_that_another_run_made_meanwhile_is_not_trained(
    tmp_path: Path, waits: list[float]
) -> None:
    """Its log and results go to this run's loggers all the same."""
    run = FakeRun(tmp_path)
    run.there = True
    assert complete(run, Place()) == METRICS
    assert run.happened == ["finished"]
    found = scalars(tmp_path / "model" / "tensorboard")
    assert [point[0] for point in found] == ["train/loss"] * 3 + ["final/iou"]


def test_a_handler_left_behind_is_taken_out() -> None:
    """Ray Train's stays installed after `fit`, and Ctrl-C would do nothing any more."""
    before = signal.getsignal(signal.SIGINT)
    with own_interrupt_handler():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGINT) is before


def test_it_is_taken_out_when_the_run_ends_badly() -> None:
    before = signal.getsignal(signal.SIGINT)

    def run() -> None:
        with own_interrupt_handler():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        run()
    assert signal.getsignal(signal.SIGINT) is before


def test_ray_trains_exit_is_ctrl_c() -> None:
    """Or the command would end without its message, and with another exit code."""

    def run() -> None:
        with own_interrupt_handler():
            raise SystemExit(1)

    with pytest.raises(KeyboardInterrupt):
        run()


class FakeTrainer:
    """Ray Train's, as far as `fit` needs it; it notes how it was made."""

    made: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, loop: object, **settings: Any) -> None:
        self.made.append({"loop": loop, **settings})

    def fit(self) -> None: ...


def test_the_timeout_of_collectives_is_torchs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Null leaves Ray Train's own, which is that of runs from before there was the setting."""
    monkeypatch.setattr(drive, "TorchTrainer", FakeTrainer)
    FakeTrainer.made.clear()
    for seconds in (None, 90):
        run = FakeRun(tmp_path)
        cluster = replace(run.experiment.cluster, collective_timeout=seconds)
        run.experiment = replace(run.experiment, cluster=cluster)
        monkeypatch.setattr(run, "loop", lambda: (print, {}))
        fit(run)
    own, given = (made["torch_config"].timeout_s for made in FakeTrainer.made)
    assert (own, given) == (TorchConfig().timeout_s, 90)


@pytest.mark.parametrize("seconds", [None, 60.0])
def test_workers_have_a_pulse_where_stalls_are_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float | None
) -> None:
    monkeypatch.setattr(drive, "TorchTrainer", FakeTrainer)
    FakeTrainer.made.clear()
    run = FakeRun(tmp_path)
    cluster = replace(run.experiment.cluster, stall_seconds=seconds)
    run.experiment = replace(run.experiment, cluster=cluster)
    monkeypatch.setattr(run, "loop", lambda: (print, {}))
    monkeypatch.setattr(run, "pulse_board", lambda start: FakeBoard())
    fit(run)
    loop = FakeTrainer.made[0]["loop"]
    assert loop.func is run_redacted  # no secret leaves a worker with its error
    assert loop.args == ((print if seconds is None else beating_loop),)


class FakeBoard:
    """A board with one rank that stands still."""

    beats = 0

    def pulses(self, patience: float) -> list[Pulse]:
        self.beats += 1
        process = RankProcess(1 << 30, "node", "ab12", 3, 4, 12)
        return [Pulse(0, process, self.beats, 7, "train, task 'food', epoch 0, step 2")]

    def forget(self) -> None: ...


def test_a_group_that_stood_still_fails_by_the_name_of_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not by what Ray says of workers that were killed for it."""
    ended = threading.Event()

    def on_nodes(function: Callable[..., Any], pulses: Sequence[Pulse]) -> list[Any]:
        if function is end:
            ended.set()
        return [Finding(None, None, "stacks") for _ in pulses]

    class Stalled(FakeTrainer):
        @override
        def fit(self) -> None:
            assert ended.wait(30), "the rank was left standing"
            raise ConnectionError("a worker died")

    now = iter(range(0, 100_000, 5))

    def watch(limit: float, logs: Folder, say: Callable[[str], None], nodes: OnNodes) -> StallWatch:
        return StallWatch(limit, logs, say, nodes, lambda: next(now))

    monkeypatch.setattr(drive, "TorchTrainer", Stalled)
    monkeypatch.setattr(drive, "on_nodes", on_nodes)
    monkeypatch.setattr(drive, "SECONDS_BETWEEN_PULSES", 0.01)
    monkeypatch.setattr(drive, "StallWatch", watch)
    run = FakeRun(tmp_path)
    cluster = replace(run.experiment.cluster, stall_seconds=60.0)
    run.experiment = replace(run.experiment, cluster=cluster)
    monkeypatch.setattr(run, "loop", lambda: (print, {}))
    monkeypatch.setattr(run, "pulse_board", lambda start: FakeBoard())
    said: list[str] = []
    with pytest.raises(StalledError, match=r"rank 0 .*\[train, task 'food', epoch 0, step 2\]"):
        fit(run, said.append)
    assert "rank 0" in said[0]
    assert (tmp_path / "model" / "logs" / "stall-ab12.log").exists()
