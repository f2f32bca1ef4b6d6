"""The manifest of a prepared benchmark: which shards hold which task's splits."""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import PurePosixPath
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from system.data.shards.schema import READ_VERSIONS, SCHEMA_VERSION
from system.errors import ConfigError, DataError
from system.storage.data_directory import SETTING
from system.storage.files import Folder, filesystem_of
from system.storage.foreign_json import MOST_BYTES, parse_json
from system.storage.seal import DamagedError, check_json
from system.uris import absolute, join, parent, relative

MANIFEST_NAME = "manifest.json"
JOINED = "all"  # the name of the one task that joins others

_PREPARE = "run `promptide prepare` for this benchmark again"
_HASH_BLOCK = 1 << 20
_MOST_GROUP_ROWS = 1 << 20  # readers hold a row group; `prepare` writes far fewer


@dataclass(frozen=True)
class Shard:
    """One Parquet file of a task's split: where it lies, its rows and its checksum."""

    uri: str  # absolute path or pyarrow filesystem URI
    rows: int
    row_groups: tuple[int, ...]  # rows of each row group
    sha256: str

    def verify(self, *, deep: bool = False) -> None:
        """Compare the file's row groups, and with `deep` its checksum, with this entry.

        Raises: DataError naming the shard if it is missing, unreadable or another file.
        """
        filesystem, path = filesystem_of(self.uri)
        try:
            with filesystem.open_input_file(path) as stream:
                metadata = pq.ParquetFile(stream).metadata
                groups = tuple(
                    metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)
                )
                if groups != self.row_groups:
                    raise DataError(
                        f"shard {self.uri}: its row groups hold {groups} rows, the manifest says "
                        f"{self.row_groups}: {_PREPARE}"
                    )
                if deep:
                    stream.seek(0)
                    digest = hashlib.sha256()
                    while block := stream.read(_HASH_BLOCK):
                        digest.update(block)
                    if digest.hexdigest() != self.sha256:
                        raise DataError(
                            f"shard {self.uri}: its checksum is not the manifest's: {_PREPARE}"
                        )
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"shard {self.uri}: cannot be read ({error}): {_PREPARE}") from error


@dataclass(frozen=True)
class SplitHandle:
    """Handle of one split of one task, with which a worker reads its rows.

    `without` are the numbers, in the shards' own count, of quarantined rows: a reader skips them
    and numbers the others from 0. `parts` are the splits that a joined one consists
    of, in the order of their rows; empty for a task's own.
    """

    task: str
    split: str
    shards: tuple[Shard, ...]
    without: frozenset[int] = frozenset()
    parts: tuple["SplitHandle", ...] = ()

    @classmethod
    def joined(cls, handles: Sequence["SplitHandle"], task: str | None = None) -> "SplitHandle":
        """Concatenate the rows of several tasks' splits of one name.

        `task` names the whole; None: by the names of the parts.
        """
        starts = accumulate((handle.stored_rows for handle in handles), initial=0)
        return cls(
            " + ".join(handle.task for handle in handles) if task is None else task,
            handles[0].split,
            tuple(shard for handle in handles for shard in handle.shards),
            frozenset(
                start + row
                for start, handle in zip(starts, handles, strict=False)
                for row in handle.without
            ),
            tuple(handles),
        )

    @property
    def members(self) -> tuple["SplitHandle", ...]:
        """The splits of single tasks that it consists of: its parts, or itself alone."""
        return self.parts or (self,)

    def leaving_out(self, rows: Collection[int]) -> "SplitHandle":
        """The same without `rows`, by their numbers in the shards."""
        if not self.parts:
            return replace(self, without=frozenset(rows))
        starts = accumulate((part.stored_rows for part in self.parts), initial=0)
        left = [
            part.leaving_out([row - start for row in rows if 0 <= row - start < part.stored_rows])
            for start, part in zip(starts, self.parts, strict=False)
        ]
        return SplitHandle.joined(left, self.task)

    @property
    def rows(self) -> int:
        """Number of rows of the split."""
        return self.stored_rows - len(self.without)

    @property
    def stored_rows(self) -> int:
        """Number of rows in the shards."""
        return sum(shard.rows for shard in self.shards)


@dataclass(frozen=True)
class TaskEntry:
    """A task's name and the shards of each of its splits, or the tasks that it joins."""

    name: str
    splits: dict[str, tuple[Shard, ...]]
    parts: tuple["TaskEntry", ...] = ()  # of a joined task, whose own `splits` are empty

    def handle(self, split: str) -> SplitHandle:
        """Make the handle of one split of this task.

        Raises: DataError for a split that the task, or one that it joins, does not have.
        """
        if self.parts:
            return SplitHandle.joined([part.handle(split) for part in self.parts], self.name)
        if split not in self.splits:
            raise DataError(
                f"task {self.name!r} has no split {split!r}: it has {', '.join(self.splits)}"
            )
        return SplitHandle(self.name, split, self.splits[split])


@dataclass(frozen=True)
class Manifest:
    """A prepared benchmark: its tasks in stream order, their shards and their source."""

    version: int
    benchmark: str
    source: dict[str, object]
    tasks: tuple[TaskEntry, ...]
    parts: tuple["Manifest", ...] = ()  # of several benchmarks as one: see `combined`

    @classmethod
    def combined(
        cls, benchmark: str, parts: Sequence["Manifest"], source: dict[str, object]
    ) -> "Manifest":
        """Join prepared benchmarks to one whose tasks are all of theirs, in their order.

        Tasks of one name are told apart by their benchmarks' names before theirs.
        Raises: ConfigError for a benchmark that is there twice.
        """
        names = [part.benchmark for part in parts]
        if len(set(names)) != len(names):
            raise ConfigError(f"benchmark.sources={names}: each benchmark once")
        known = Counter(entry.name for part in parts for entry in part.tasks)
        tasks = tuple(
            replace(entry, name=f"{part.benchmark} {entry.name}")
            if known[entry.name] > 1
            else entry
            for part in parts
            for entry in part.tasks
        )
        return cls(SCHEMA_VERSION, benchmark, source, tasks, tuple(parts))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over names and shard checksums, the same wherever the shards lie."""
        names = [
            [task.name, [[split, [s.sha256 for s in task.splits[split]]] for split in task.splits]]
            for task in self.tasks
            if not task.parts
        ]
        return hashlib.sha256(json.dumps([self.benchmark, names]).encode()).hexdigest()

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Rows of each split of each task: {task: {split: rows}}."""
        return {
            task.name: {split: task.handle(split).rows for split in task.splits}
            for task in self.tasks
        }

    @property
    def skipped(self) -> dict[str, dict[str, int]]:
        """Rows that the reader left out on purpose: {split: {reason: rows}}."""
        return cast(dict[str, dict[str, int]], self.source.get("skipped", {}))

    @property
    def quarantined(self) -> dict[str, dict[str, Any]]:
        """Broken rows: {kind of fault: {"rows": how many, "first": some of their names}}."""
        return cast(dict[str, dict[str, Any]], self.source.get("quarantined", {}))

    @property
    def unoriented(self) -> dict[str, int]:
        """Images with an orientation tag that is not applied: {split: images}."""
        return cast(dict[str, int], self.source.get("unoriented", {}))

    @property
    def lost_words(self) -> dict[str, int]:
        """Expressions of which cleaning left no trace of some positive words: {split: count}."""
        counts = cast(dict[str, dict[str, int]], self.source.get("positive_words", {}))
        return {split: of["lost"] for split, of in counts.items() if of.get("lost")}

    @property
    def in_two_splits(self) -> dict[str, int]:
        """Images of drawn splits whose picture is in another drawn split too: {split: images}."""
        return cast(dict[str, int], self.source.get("in_two_splits", {}))

    def order(self, tasks: Sequence[str] | None, *, growing: bool = False) -> tuple[str, ...]:
        """Return the tasks that `benchmark.tasks` names, all of them for null.

        Raises: ConfigError if it names one twice, or none, which only a `growing` stream allows.
        """
        order = tuple(entry.name for entry in self.tasks) if tasks is None else tuple(tasks)
        if len(set(order)) != len(order) or not (order or growing):
            raise ConfigError(f"benchmark.tasks={list(order)} must name each task once")
        return order

    def joined(self, tasks: Sequence[str] | None) -> "Manifest":
        """The same with one more task, `JOINED`: these tasks as one, all of them for null.

        Raises: ConfigError as `order` does, or if the benchmark has a task of that name.
        """
        if any(entry.name == JOINED for entry in self.tasks):
            raise ConfigError(
                f"stream.joined=true: benchmark {self.benchmark!r} has a task {JOINED!r} already, "
                "which is what all of them joined are called; prepare it with another name"
            )
        entry = TaskEntry(JOINED, {}, tuple(self.task(name) for name in self.order(tasks)))
        return replace(self, tasks=(*self.tasks, entry))

    def task(self, name: str) -> TaskEntry:
        """Find a task by name.

        Raises: DataError for a name that the benchmark does not have.
        """
        for entry in self.tasks:
            if entry.name == name:
                return entry
        known = ", ".join(entry.name for entry in self.tasks)
        raise DataError(f"benchmark {self.benchmark!r} has no task {name!r}: it has {known}")

    @classmethod
    def prepared(cls, folder: Folder, benchmark: str) -> "Manifest":
        """Load the manifest of the benchmark prepared in `folder`; its shards are not checked.

        Raises: DataError saying how to prepare it.
        """
        if not folder.exists(MANIFEST_NAME):
            raise DataError(
                f"benchmark {benchmark!r} is not prepared ({folder.uri} has no {MANIFEST_NAME}); "
                "run `promptide prepare` with the same overrides first"
            )
        return cls.load(folder.uri)

    def verify(self, *, deep: bool = False) -> None:
        """Check that every shard exists with its rows; with `deep` compare checksums too.

        Raises: DataError naming the first shard that is missing or another file.
        """
        for task in self.tasks:
            for shards in task.splits.values():
                for shard in shards:
                    shard.verify(deep=deep)

    def save(self, root: str) -> None:
        """Write `manifest.json` under `root` (path or URI) in one step, shards relative to it.

        Raises: StorageError if it cannot be written.
        """
        root = absolute(root)
        content = {
            "version": self.version,
            "benchmark": self.benchmark,
            "fingerprint": self.fingerprint,
            "source": self.source,
            "parts": [{"benchmark": p.benchmark, "fingerprint": p.fingerprint} for p in self.parts],
            "tasks": []
            if self.parts
            else [
                {
                    "name": task.name,
                    "splits": {
                        split: [shard_to_json(shard, root) for shard in shards]
                        for split, shards in task.splits.items()
                    },
                }
                for task in self.tasks
            ],
        }
        Folder.of(root, SETTING).write_json(MANIFEST_NAME, content)

    @classmethod
    def load(cls, root: str) -> "Manifest":
        """Read `manifest.json` under `root` (path or URI); shards become absolute.

        Raises: DataError if it is missing, not JSON, of another version or lacks a field.
        """
        root = absolute(root)
        uri = join(root, MANIFEST_NAME)
        content = read_json(uri)
        if not isinstance(content, dict) or content.get("version") not in READ_VERSIONS:
            found = content.get("version") if isinstance(content, dict) else None
            raise DataError(
                f"{uri}: field version is {found!r}, this promptide reads {SCHEMA_VERSION}: "
                f"{_PREPARE}"
            )
        try:
            if content.get("parts"):
                return cls._load_combined(root, content)
            manifest = cls(
                content["version"],
                content["benchmark"],
                dict(content["source"]),
                tuple(
                    TaskEntry(
                        task["name"],
                        {
                            split: tuple(shard_from_json(shard, root) for shard in shards)
                            for split, shards in task["splits"].items()
                        },
                    )
                    for task in content["tasks"]
                ),
            )
        except DataError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(f"{uri}: a field is missing or wrong ({error}): {_PREPARE}") from error
        if manifest.fingerprint != content.get("fingerprint"):
            raise DataError(f"{uri}: field fingerprint does not fit the shards: {_PREPARE}")
        return manifest

    @classmethod
    def _load_combined(cls, root: str, content: dict[str, Any]) -> "Manifest":
        parts = []
        for entry in content["parts"]:
            part = cls.load(join(parent(root), entry["benchmark"]))
            if part.fingerprint != entry["fingerprint"]:
                raise DataError(
                    f"{root}: benchmark {part.benchmark!r}, which it is made of, was prepared anew "
                    "since: make it again by `promptide prepare benchmark.sources=[...] --replace`"
                )
            parts.append(part)
        return cls.combined(content["benchmark"], parts, dict(content["source"]))


def shard_to_json(shard: Shard, root: str) -> dict[str, object]:
    """Describe a shard relative to `root`, which must be a part of its address."""
    return {
        "path": relative(shard.uri, root),
        "rows": shard.rows,
        "row_groups": list(shard.row_groups),
        "sha256": shard.sha256,
    }


def shard_from_json(entry: dict[str, Any], root: str) -> Shard:
    """Build a shard from its description.

    Raises: KeyError, TypeError for missing fields, DataError for a path outside of `root` or rows
    that do not add up.
    """
    path = PurePosixPath(entry["path"])
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"field path {entry['path']!r} of a shard leaves {root}: {_PREPARE}")
    groups = tuple(int(rows) for rows in entry["row_groups"])
    if not all(0 < rows <= _MOST_GROUP_ROWS for rows in groups):
        raise DataError(
            f"field row_groups of shard {path}: one has less than 1 row or more than "
            f"{_MOST_GROUP_ROWS}: {_PREPARE}"
        )
    if sum(groups) != entry["rows"]:
        raise DataError(f"fields rows and row_groups of shard {path} do not agree: {_PREPARE}")
    return Shard(join(root, str(path)), entry["rows"], groups, str(entry["sha256"]))


def read_json(uri: str) -> Any:
    """Read a JSON file that `prepare` wrote.

    Raises: DataError naming the file if it is missing, damaged or not JSON.
    """
    filesystem, path = filesystem_of(uri)
    try:
        with filesystem.open_input_stream(path) as stream:
            data = bytes(stream.read(MOST_BYTES + 1))
        return check_json(data, parse_json(data))
    except FileNotFoundError as error:
        raise DataError(f"{uri} does not exist: {_PREPARE}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{uri}: cannot be read as JSON ({error}): {_PREPARE}") from error
    except DamagedError as error:
        raise DataError(f"{uri}: is damaged ({error}): delete it, then {_PREPARE}") from error
