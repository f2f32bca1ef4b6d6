"""Writing one split's shards, from where an interrupted call stopped."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Protocol

from pyarrow import fs

from system.data.prepare.shard_files import TaskShardWriter
from system.data.shards.faults import Fault, Faults
from system.data.shards.images import Decoding, check_image
from system.data.shards.manifest import Shard, read_json, shard_from_json, shard_to_json
from system.data.shards.parallel import bounded_map
from system.data.shards.schema import ImageRecord
from system.data.shards.sound_shards import require_sound
from system.errors import DataError
from system.storage.data_directory import SETTING
from system.storage.files import Folder, filesystem_of, storage_errors
from system.uris import join

_SPLIT_RECORD = "split.json"


class SplitSource(Protocol):
    """One split of a dataset: all rows, whose images are read one by one.

    The rows of a task follow each other. All but `fingerprint` are called from several threads.
    """

    @property
    def fingerprint(self) -> str:
        """Changes whenever the records would."""

    def __len__(self) -> int:
        """Return the number of images."""

    def name(self, index: int) -> str:
        """Name one image for the user, without reading it."""

    def load(self, index: int) -> ImageRecord:
        """Read one image. Raises: DataError if it cannot be read."""


@dataclass
class SplitRecord:
    """Progress of a split's writing: `split.json` beside its shards.

    `shards` hold what is left of the first `rows` images after those in `faults`; `unoriented` of
    these have an orientation tag that is not applied.
    """

    shards: dict[str, list[Shard]]
    content: int = 0  # of all rows that could be read: see `content_of`
    faults: list[Fault] = field(default_factory=list)
    rows: int = 0
    unoriented: int = 0
    finished: bool = False

    def save(self, folder: str, root: str) -> None:
        """Write the record in one step. Raises: StorageError."""
        content = {
            "rows": self.rows,
            "unoriented": self.unoriented,
            "finished": self.finished,
            "shards": {
                task: [shard_to_json(shard, root) for shard in shards]
                for task, shards in self.shards.items()
            },
            "content": f"{self.content:064x}",
            "faults": [asdict(fault) for fault in self.faults],
        }
        Folder.of(folder, SETTING).write_json(_SPLIT_RECORD, content)

    @classmethod
    def load(cls, folder: str, root: str, tasks: Mapping[str, str]) -> "SplitRecord | None":
        """Read the record and look at its shards; None if there is none or it is of no use."""
        uri = join(folder, _SPLIT_RECORD)
        filesystem, path = filesystem_of(uri)
        with storage_errors(folder, "look for finished shards", SETTING):
            if filesystem.get_file_info(path).type != fs.FileType.File:
                return None
        try:
            content = read_json(uri)
            record = cls(
                {
                    task: [shard_from_json(entry, root) for entry in content["shards"][task]]
                    for task in tasks
                },
                int(content["content"], 16),
                [Fault(**fault) for fault in content["faults"]],
                int(content["rows"]),
                int(content["unoriented"]),
                bool(content["finished"]),
            )
            for shard in (shard for shards in record.shards.values() for shard in shards):
                require_sound(shard)
        except (DataError, KeyError, TypeError, ValueError):
            return None
        return record


def content_of(row: ImageRecord) -> int:
    """Digest a row as read, its image's bytes too, as a number; see `add_contents`."""
    # Plain tuples, as the text of nested dataclasses takes three times as long to make.
    instances = [(i.box, i.category, i.super_category, i.mask.counts) for i in row.instances]
    expressions = [(e.instance, e.text) for e in row.expressions]
    head = (row.image_id, row.file_name, row.width, row.height, row.captions, row.task)
    text = repr((head, instances, expressions))
    if row.spanned:
        text += repr(row.spanned)
    digest = hashlib.sha256(text.encode("utf-8", "backslashreplace"))
    digest.update(hashlib.sha256(row.image).digest())
    return int.from_bytes(digest.digest(), "big")


def add_contents(*contents: int) -> int:
    """Join digests of rows to that of all of them, in whichever order."""
    return sum(contents) % (1 << 256)


def write_split(
    records: SplitSource,
    folder: str,
    root: str,
    *,
    split: str,
    tasks: Mapping[str, str],
    decoding: Decoding,
    faults: Faults,
    spanned: bool,
    row_group_rows: int,
    shard_rows: int,
    threads: int,
    progress: Callable[[int, int], None] | None,
) -> SplitRecord:
    """Write a split's shards into `folder`, which is under `root`; `tasks` is {task: file name}.
    `spanned`: whether an expression of the split has spans or others, for the shards' columns.

    What an earlier call finished is kept: all of it, or the whole shards of an interrupted one.
    Broken images found now or then are added to `faults`. `progress` is called after each
    image with the images done and the images of the split.
    Raises: DataError under "stop" for an image that is broken; StorageError.
    """
    record = SplitRecord.load(folder, root, tasks)
    if record is None:
        record = SplitRecord({task: [] for task in tasks})
        filesystem, path = filesystem_of(folder)
        with storage_errors(folder, "start the split's folder", SETTING):
            filesystem.create_dir(path, recursive=True)
            filesystem.delete_dir_contents(path)
    faults.found.extend(record.faults)
    if record.finished:
        return record

    def load_checked(index: int) -> tuple[ImageRecord | DataError, int, bool]:
        content = 0
        try:
            row = records.load(index)
            content = content_of(row)
            name = f"image {row.file_name!r} of split {split!r}"
            image = check_image(row.image, name, row.width, row.height, decoding)
        except DataError as error:
            # Handled by the consumer, so that faults are in the images' order.
            return error, content, False
        row = replace(row, width=image.width, height=image.height)
        return row, content, image.unoriented

    found = len(faults.found) - len(record.faults)  # where this split's faults begin

    def save(rows: int) -> None:
        record.rows, record.faults = rows, faults.found[found:]
        record.save(folder, root)

    total = len(records)
    writer: TaskShardWriter | None = None
    task = ""
    try:
        indices = range(record.rows, total)
        for index, (row, content, unoriented) in zip(
            indices, bounded_map(load_checked, indices, threads=threads), strict=True
        ):
            if isinstance(row, DataError):
                record.content = add_contents(record.content, content)
                with faults.row(split, records.name(index)):
                    raise row
            else:
                if writer is None or row.task != task:
                    if writer is not None:
                        record.shards[task] += writer.close()
                        save(index)
                    task = row.task
                    first = len(record.shards[task])
                    writer = TaskShardWriter(
                        folder,
                        tasks[task],
                        first,
                        row_group_rows,
                        shard_rows,
                        decoding,
                        spanned=spanned,
                    )
                record.content = add_contents(record.content, content)
                shard = writer.append(row)
                record.unoriented += unoriented
                if shard is not None:
                    record.shards[task].append(shard)
                    save(index + 1)
            if progress is not None:
                progress(index + 1, total)
        if writer is not None:
            record.shards[task] += writer.close()
    except BaseException:
        if writer is not None:
            writer.abandon()
        raise
    record.finished = True
    save(total)
    return record
