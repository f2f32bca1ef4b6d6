"""Splits and tasks of a user's own data set: from columns, directories, file names or a draw."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from system.data.formats.column_names import FoundColumns
from system.errors import ConfigError, DataError

SPLITS = ("train", "val", "test")

_DEEPEST = 3  # directories of a name that may say its split or task

SplitBy = Literal["column", "directory", "file", "draw"]
TaskBy = Literal["directory", "dataset"]

_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "restval": "train",  # Karpathy's name of validation images that are trained on
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
KNOWN_SPLITS = ", ".join(_SPLIT_NAMES)


def split_named(name: str) -> str | None:
    """Return the split that a name means in any case ("Validation" is "val"), None for none."""
    return _SPLIT_NAMES.get(name.strip().casefold())


def split_of_file(path: Path) -> str | None:
    """Return the split that a table's name or folder says: `train-00000-of-00002`, `val/0.parquet`.

    None if it says none, or several.
    """
    found = {split_named(word) for word in re.split(r"[^A-Za-z]+", path.stem)} - {None}
    return found.pop() if len(found) == 1 else split_named(path.parent.name)


@dataclass(frozen=True)
class Shares:
    """Shares of a task's images, from 0 to 1, that become "val" and "test" where splits are drawn.

    An image's split follows from `seed` and its name alone, so it stays when rows are added.
    """

    val: float = 0.1
    test: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.val < 0 or self.test < 0 or self.val + self.test >= 1:
            raise ConfigError(
                f"benchmark.options.shares: val={self.val} and test={self.test} must be at least 0 "
                "and leave something for train"
            )

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that are drawn."""
        return tuple(split for split in SPLITS if split == "train" or getattr(self, split) > 0)

    def place(self, name: str) -> float:
        """Draw an image's place: SHA-256 of seed and name, read as a number from 0 to 1."""
        digest = hashlib.sha256(f"{self.seed}/{name}".encode("utf-8", "surrogatepass"))
        return int.from_bytes(digest.digest()[:8], "big") / 2**64

    def split_of(self, name: str) -> str:
        """Draw an image's split."""
        place = self.place(name)
        if place < self.val:
            return "val"
        return "test" if place < self.val + self.test else "train"

    def distance(self, place: float, split: str) -> float:
        """Return how far a place is from those of a split."""
        low, high = {
            "val": (0.0, self.val),
            "test": (self.val, self.val + self.test),
            "train": (self.val + self.test, 1.0),
        }[split]
        return max(low - place, place - high, 0.0)


class Draw:
    """Draws splits by `Shares`, then mends tasks that are too small to have an image in each.

    Of a task whose draw leaves a split empty, the image nearest to that split is moved there, from
    a split that has another. Images of all other tasks stay where they were drawn.
    """

    _NEAREST = 3  # one may be alone in its split, another have been moved to a second empty one

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._moved: dict[str, str] = {}
        self._near: dict[tuple[str, str], list[tuple[float, str]]] = {}

    def split_of(self, name: str) -> str:
        """Return an image's split."""
        return self._moved.get(name) or self._shares.split_of(name)

    def note(self, task: str, name: str) -> None:
        """Note an image that can be used; `name` is what its split is drawn by."""
        place = self._shares.place(name)
        for split in self._shares.splits:
            near = self._near.setdefault((task, split), [])
            entry = (self._shares.distance(place, split), name)
            if len(near) < self._NEAREST or entry < near[-1]:
                near.append(entry)
                near.sort()
                del near[self._NEAREST :]

    def mend(self, counts: Mapping[str, Mapping[str, int]], tasks: Iterable[str]) -> bool:
        """Move images into splits that a task lacks; `counts` is {split: {task: images}}.

        Returns: whether any was moved, so that the images have to be placed once more.
        Raises: DataError for a task of fewer images than splits.
        """
        splits = self._shares.splits
        moved = False
        for task in tasks:
            own = {split: counts[split][task] for split in splits}
            total = sum(own.values())
            if total < len(splits):
                raise DataError(
                    f"task {task!r} has {total} {'image' if total == 1 else 'images'}, but a draw "
                    f"of {', '.join(splits)} needs {len(splits)}: give it more, leave it out "
                    "(benchmark.options.tasks), join all tasks (benchmark.options.task_by=dataset) "
                    "or say each image's split in a column"
                )
            for split in splits:
                if own[split]:
                    continue
                name = next(
                    name for _, name in self._near[task, split] if own[self.split_of(name)] > 1
                )
                own[self.split_of(name)] -= 1
                own[split] = 1
                self._moved[name] = split
                moved = True
        self._near.clear()
        return moved


class Survey:
    """What all rows of a table say of splits and tasks, before any image gets its own."""

    def __init__(self) -> None:
        self._tasks: dict[str, None] = {}
        # The first directories of names.
        self._directories: dict[tuple[str, ...], None] = {}

    def add(self, name: str, task: str | None) -> None:
        """Note a row's image, its name in normal form, and its task by a column."""
        if task is not None:
            self._tasks[task] = None
        self._directories[tuple(name.split("/", _DEEPEST)[:-1])] = None

    def divide(
        self,
        columns: FoundColumns,
        files: Sequence[Path],
        split_by: SplitBy | None,
        task_by: TaskBy | None,
        task_name: str,
    ) -> "Division":
        """Find out how splits and tasks are told; `split_by` and `task_by` are the user's word.

        Raises: DataError if it cannot be as the user says.
        """
        depth = self._depth_of_splits()
        named = {split_named(directories[depth]) for directories in self._directories if depth >= 0}
        of_files = {split_of_file(path) for path in files}
        if split_by is None:
            if columns.split is not None:
                split_by = "column"
            elif len(files) > 1 and None not in of_files and of_files != {"train"}:
                split_by = "file"
            elif named - {"train"}:
                split_by = "directory"
            else:
                split_by = "draw"
        elif split_by == "directory":
            depth = max(depth, 0)
        elif split_by == "draw":
            depth = -1  # directories are what they are called
        if split_by == "column" and columns.split is None:
            raise DataError(
                "benchmark.options.split_by=column: the table has no column split: set "
                "benchmark.options.columns.split"
            )
        if columns.task is not None:
            return Division(split_by, "column", depth, 0, "", tuple(self._tasks))
        place = self._place_of_tasks(depth)
        found = dict.fromkeys(
            directories[place] for directories in self._directories if len(directories) > place
        )
        if task_by == "dataset" or (task_by is None and not found):
            return Division(split_by, "dataset", depth, place, task_name, (task_name,))
        return Division(split_by, "directory", depth, place, task_name, tuple(found))

    def _depth_of_splits(self) -> int:
        """Return which of all names' directories are splits: the first, the second or, -1, none."""
        for depth in range(2):
            if self._directories and all(
                len(directories) > depth and split_named(directories[depth])
                for directories in self._directories
            ):
                return depth
        return -1

    def _place_of_tasks(self, depth: int) -> int:
        """Return which of the directories is the task, if the one at `depth` is the split."""
        if depth < 1:
            return depth + 1
        # As in images/train/cats: the first says nothing, unless it is all there is.
        one = len({directories[0] for directories in self._directories}) == 1
        deep = all(len(directories) > 2 for directories in self._directories)
        return 2 if one and deep else 0


@dataclass(frozen=True)
class Division:
    """How images get split and task; `tasks` are in the order in which they first appear.

    `split_place` and `task_place` say which directory of a name, from 0 on, is its split and task.
    """

    split_by: SplitBy
    task_by: Literal["column", "directory", "dataset"]
    split_place: int
    task_place: int
    task_name: str
    tasks: tuple[str, ...]

    def split_by_directory(self, name: str, where: str) -> str:
        """Return the split that a directory of an image's name says. Raises: DataError."""
        directories = PurePosixPath(name).parts[:-1]
        known = len(directories) > self.split_place
        split = split_named(directories[self.split_place]) if known else None
        if split is None:
            raise DataError(
                f"{where}: directory {self.split_place + 1} of {name!r} is no split "
                f"({KNOWN_SPLITS}): correct it or benchmark.options.split_by"
            )
        return split

    def task_without_column(self, name: str, where: str) -> str:
        """Return the task that an image's directory names, or the one of all. Raises: DataError."""
        if self.task_by == "dataset":
            return self.task_name
        directories = PurePosixPath(name).parts[:-1]
        if len(directories) <= self.task_place:
            raise DataError(
                f"{where}: file name {name!r} has no directory that could be its task: set "
                "benchmark.options.task_by=dataset or add a task column"
            )
        return directories[self.task_place]
