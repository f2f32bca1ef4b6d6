"""TensorBoard event files in the run directory, whatever storage it is on.

One file per task, or per epoch of a model, written whole when that is done: an object store has no
append, and a run that starts again writes the same files and no point twice. `tensorboard --logdir
runs` reads them.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from system.loggers.logger import LoggedConfig, LoggedRun
from system.loggers.points import Point

FOLDER = "tensorboard"


class TensorBoardLog:
    """The event files of one run."""

    def __init__(self, run: LoggedRun) -> None:
        self.folder = run.folder.child(FOLDER)

    def log(self, points: Sequence[Point], batch: int) -> None:
        """Write the batch's file; its name sorts behind those before it, as TensorBoard reads."""
        from tensorboardX import SummaryWriter

        with tempfile.TemporaryDirectory() as place:
            with SummaryWriter(place) as writer:
                for point in points:
                    writer.add_scalar(point.name, point.value, point.step)
            (written,) = Path(place).iterdir()
            self.folder.write(f"events.out.tfevents.{batch:010d}", written.read_bytes())

    def close(self, finished: bool) -> None:
        """Does nothing: each file is complete already."""


class TensorBoard:
    """The logger that is always there: it needs no setting and no service."""

    variables: tuple[str, ...] = ()

    def check(self, experiment: LoggedConfig) -> None:
        """Does nothing: nothing can be missing."""

    def destination(self, experiment: LoggedConfig) -> str:
        """Always the same."""
        return "the run directory"

    def open(self, run: LoggedRun) -> TensorBoardLog:
        """The event files of the run."""
        return TensorBoardLog(run)


LOGGER = TensorBoard()
