"""One Ray Train run for one model, watched by the driver."""

from ray.exceptions import RayError

from actors.failures import GROUP_FAILURES, Retries, cause
from actors.progress_board import ProgressBoard
from system.errors import PromptideError, StorageError
from system.stages.model_stage import ModelExperiment, ModelStage, Show, fit
from system.stages.repeating import repeating
from system.storage.run_directory import RunDirectory

SECONDS_BETWEEN_LOOKS = 0.5


def run_model(experiment: ModelExperiment, stage: ModelStage, watch: Show) -> None:
    """Train a stage's model, going on from the run's last checkpoint.

    Ray is connected. `watch` is called twice a second with where the training stands. A worker
    group that dies, or loses its storage, is started again: see `Retries`. Raises the worker's own
    PromptideError, or one with its traceback.
    """
    board = ProgressBoard.start()

    def look() -> None:
        standing = board.standing()
        if standing is not None:
            watch(*standing)

    retries = Retries(experiment.cluster.max_failures)
    with repeating(look, SECONDS_BETWEEN_LOOKS, name="promptide-progress", passing=(RayError,)):
        while True:
            try:
                fit(experiment, stage, board)
                break
            except StorageError as error:  # without workers, the loop's own
                failure: PromptideError = error
            except GROUP_FAILURES as error:
                failure = cause(error, RunDirectory.of(experiment).logs.uri)
            retries.wait_after(failure, stage.epochs_done(experiment))
    look()  # what happened since the last look
