"""One split of a data set, read and checked; images stay on disk, rows in a temporary file."""

import hashlib
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from threading import Lock

from system.data.prepare.image_files import FILES, ImageReader, StoredImage
from system.data.prepare.temporary_files import LocatedRecord, TemporaryRecords
from system.data.shards.faults import Faults
from system.data.shards.images import MAX_PIXELS
from system.data.shards.schema import ImageRecord
from system.errors import DataError

_BATCH_ROWS = 64
# Threads that load images are never further apart than a few dozen rows.
_BATCHES_HELD = 4


class SplitIndex:
    """One split, its annotations read and checked, its images found but not yet read.

    Rows are ordered by task, inside a task as the reader added them. `counts` has the rows of each
    task, `skipped` the rows left out on purpose, by reason; `faults` the broken ones. In
    a `spanned` one an expression has spans or others.
    """

    def __init__(
        self,
        split: str,
        records: TemporaryRecords,
        images: ImageReader,
        batches: Sequence[int],
        counts: dict[str, int],
        skipped: dict[str, int],
        fingerprint: str,
        faults: Faults,
        spanned: bool = False,
    ) -> None:
        self.split, self.counts, self.skipped, self.faults = split, counts, skipped, faults
        self.spanned = spanned
        self._records, self._images = records, images
        self._batches, self._fingerprint = batches, fingerprint
        self._starts = [0, *accumulate(records.sizes[batch] for batch in batches)]
        self._refused: dict[int, DataError] = {}
        self._held: OrderedDict[int, list[LocatedRecord]] = OrderedDict()
        self._lock = Lock()

    @property
    def fingerprint(self) -> str:
        """SHA-256 over rows, the size and time of each image file, and what is put aside."""
        if not self._refused:
            return self._fingerprint
        aside = f"{self._fingerprint} {sorted(self._refused)}"
        return hashlib.sha256(aside.encode()).hexdigest()

    def __len__(self) -> int:
        return self._starts[-1]

    def name(self, index: int) -> str:
        """Name one image: its file name as the annotations give it."""
        return self._row(index).record.file_name

    def refuse(self, index: int, error: DataError) -> None:
        """Make a row a broken one, which `load` answers with this error."""
        if index not in self._refused:
            self.counts[self._row(index).record.task] -= 1
            self._refused[index] = error

    def load(self, index: int) -> ImageRecord:
        """Read one image's bytes.

        Raises: DataError naming a file that cannot be read any more, or why the row is put aside.
        """
        if index in self._refused:
            raise self._refused[index]
        row = self._row(index)
        return replace(row.record, image=self.read(row.image))

    def read(self, image: StoredImage) -> bytes:
        """Read an image's bytes alone. Raises: DataError naming a file that cannot be read."""
        try:
            return self._images.read(image)
        except OSError as error:
            raise _unreadable(image, error) from error

    def places(self) -> Iterator[tuple[str, int, int | None, int]]:
        """Go through all images: path, start, length (see `StoredImage`) and size in bytes."""
        for batch in self._batches:
            yield from self._records.places(batch)

    def _row(self, index: int) -> LocatedRecord:
        place = bisect_right(self._starts, index) - 1
        with self._lock:
            rows = self._held.get(place)
            if rows is None:
                rows = self._records.read(self._batches[place])
                self._held[place] = rows
                if len(self._held) > _BATCHES_HELD:
                    self._held.popitem(last=False)
        return rows[index - self._starts[place]]


class SplitIndexBuilder:
    """Collects one split's checked records, without their images, in a temporary file.

    Memory does not grow with the split. The disk space, about 3 KB per photograph of MSCOCO, is
    taken where the system keeps temporary files (TMPDIR).
    """

    def __init__(
        self, split: str, tasks: Sequence[str], faults: Faults, images: ImageReader = FILES
    ) -> None:
        self._split, self._faults, self._images = split, faults, images
        self._records = TemporaryRecords()
        self._waiting: dict[str, list[LocatedRecord]] = {task: [] for task in tasks}
        self._batches: dict[str, list[int]] = {task: [] for task in tasks}
        self._counts = dict.fromkeys(tasks, 0)
        self._skipped: Counter[str] = Counter()
        self._spanned = False
        self._digest = hashlib.sha256(repr(tuple(tasks)).encode())

    def add(self, image: StoredImage, record: ImageRecord) -> None:
        """Add one record, its `image` empty, and the place of the image.

        `width` and `height` are as annotated, or 0 x 0 if the format gives no size: then it is
        taken from the image when that is decoded. The task must be one of the builder's.
        A file that is gone or a text that is no Unicode is the row's fault (see `Faults.row`).
        """
        assert record.task in self._waiting, record.task
        with self._faults.row(self._split, record.file_name):
            _check_size(record)
            _check_text(record)
            try:
                size, changed = self._images.stamp(image)
            except OSError as error:
                raise _unreadable(image, error) from error
            self._digest.update(repr((record, size, changed)).encode())
            if record.spanned:
                self._digest.update(repr(record.spanned).encode())
                self._spanned = True
            self._counts[record.task] += 1
            waiting = self._waiting[record.task]
            waiting.append(LocatedRecord(image, record, size))
            if len(waiting) == _BATCH_ROWS:
                self._flush(record.task)

    def skip(self, reason: str) -> None:
        """Count a row that is left out on purpose, under a short reason such as "other_task"."""
        self._skipped[reason] += 1

    def build(self) -> SplitIndex:
        """End collecting and return the split, ordered by task, then as added."""
        for task, waiting in self._waiting.items():
            if waiting:
                self._flush(task)
        self._records.finish()
        return SplitIndex(
            self._split,
            self._records,
            self._images,
            [batch for of_task in self._batches.values() for batch in of_task],
            self._counts,
            dict(self._skipped),
            self._digest.hexdigest(),
            self._faults,
            self._spanned,
        )

    def _flush(self, task: str) -> None:
        self._batches[task].append(self._records.write(self._waiting[task]))
        self._waiting[task].clear()


def _unreadable(image: StoredImage, error: OSError) -> DataError:
    return DataError(f"{image.path}: cannot be read ({error})", "missing image")


def _check_size(record: ImageRecord) -> None:
    if record.width * record.height > MAX_PIXELS:
        raise DataError(
            f"image {record.file_name!r}: its annotation says {record.width} x {record.height} "
            f"pixels, more than the {MAX_PIXELS} that are decoded: correct or remove it",
            "too large image",
        )


def _check_text(record: ImageRecord) -> None:
    texts = (*record.captions, *(expression.text for expression in record.expressions))
    for text in (record.file_name, *texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"image {record.file_name!r}: the text {text!r} is no Unicode: correct or remove "
                "the annotation",
                "text",
            ) from error
