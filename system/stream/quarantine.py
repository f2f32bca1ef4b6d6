"""Training images that do not decode are put aside once, by name, and the stream goes on."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from system.data.shards.faults import Fault
from system.data.shards.loading import broken_images
from system.data.shards.manifest import SplitHandle
from system.errors import DataError, QuarantinedError

#: Records a task's broken rows; returns how many of them are new.
Record = Callable[[str, dict[int, Fault]], int]


@contextmanager
def putting_aside(
    tasks: Iterable[str], open_train: Callable[[str], SplitHandle], record: Record
) -> Iterator[None]:
    """Answer a DataError inside the block by looking through the training images of `tasks`.

    Raises QuarantinedError when some were broken that were not known to be: who starts again reads
    the others alone. Else the error stands: a broken shard, say, is no image's fault.
    """
    try:
        yield
    except DataError as error:
        if not sum(record(task, broken_images(open_train(task))) for task in tasks):
            raise
        raise QuarantinedError(f"{error}; it was put aside") from error
