"""One Ray Train run for one model, watched by the driver."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from ray.exceptions import RayError

from actors.failures import GROUP_FAILURES, Retries, cause
from actors.progress_board import ProgressBoard
from system.engine.checkpoint import log_so_far
from system.engine.model_stage import ModelExperiment, ModelStage, Show, fit
from system.engine.repeating import repeating
from system.errors import PromptideError, StorageError
from system.storage.run_directory import RunDirectory

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_BETWEEN_READS = 10.0  # of the log, which is on storage

Trained = Callable[[Sequence[Mapping[str, float]]], None]


def run_model(
    experiment: ModelExperiment, stage: ModelStage, watch: Show, trained: Trained
) -> None:
    """Train a stage's model, going on from the run's last checkpoint.

    Ray is connected. `watch` is called twice a second with where the training stands, `trained` now
    and then with all rows of its log. A worker group that dies, or loses its storage, is started
    again: see `Retries`. Raises the worker's own PromptideError, or one with its traceback.
    """
    folder = RunDirectory.of(experiment).folder
    board = ProgressBoard.start()

    def look() -> None:
        standing = board.standing()
        if standing is not None:
            watch(*standing)

    def read() -> None:
        trained(log_so_far(folder))

    retries = Retries(experiment.cluster.max_failures)
    try:
        with (
            repeating(look, SECONDS_BETWEEN_LOOKS, name="promptide-progress", passing=(RayError,)),
            repeating(read, SECONDS_BETWEEN_READS, name="promptide-log", passing=(StorageError,)),
        ):
            while True:
                try:
                    fit(experiment, stage, board)
                    break
                except StorageError as error:  # without workers, the loop's own
                    failure: PromptideError = error
                except GROUP_FAILURES as error:
                    failure = cause(error, RunDirectory.of(experiment).logs.uri)
                retries.wait_after(failure, stage.epochs_done(experiment))
    finally:
        with suppress(StorageError):
            read()  # what an interrupted training has learned, too
    look()  # what happened since the last look
