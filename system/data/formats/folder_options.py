"""The options of a user's own data set: a folder of images with a captions file."""

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from system.data.formats.captions_file import CaptionsFile
from system.data.prepare.captions import clean_caption
from system.errors import ConfigError, DataError, OnError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Columns:
    """The captions file's columns; null for an optional one ignores it.

    An optional column that keeps its usual name is used if the file has it; another name must be
    there.
    """

    file_name: str = "file_name"
    caption: str = "caption"
    task: str | None = "task"
    split: str | None = "split"
    image_id: str | None = "image_id"

    def found_in(self, file: CaptionsFile) -> "Columns":
        """Leave out optional columns that the file has not.

        Raises: DataError naming a column that must be there, and those there are.
        """
        found: dict[str, Any] = {}
        usual = asdict(Columns())
        for role, name in asdict(self).items():
            optional = name == usual[role] and role not in ("file_name", "caption")
            if name is not None and name not in file.columns and not optional:
                raise DataError(
                    f"{file.path}: has no column {name!r}; it has {', '.join(file.columns)}: set "
                    f"benchmark.options.columns.{role}"
                )
            found[role] = name if name in file.columns else None
        return Columns(**found)

    @property
    def names(self) -> list[str]:
        """The columns that are read."""
        return [name for name in asdict(self).values() if name is not None]


@dataclass(frozen=True)
class Shares:
    """The parts of a task's images, from 0 to 1, that become "val" and "test" if no column says so.

    An image's split follows from `seed` and its file name alone, so it stays when rows are added.
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

    def split_of(self, file_name: str) -> str:
        """Draw an image's split: SHA-256 of seed and name, read as a number from 0 to 1."""
        digest = hashlib.sha256(f"{self.seed}/{file_name}".encode("utf-8", "surrogatepass"))
        drawn = int.from_bytes(digest.digest()[:8], "big") / 2**64
        if drawn < self.val:
            return "val"
        return "test" if drawn < self.val + self.test else "train"


@dataclass(frozen=True)
class FolderSource:
    """A folder of images with a captions file, and how it becomes a benchmark.

    `captions` and `images` are relative to `root`. Without a task column, `task_by` says what an
    image's task is: the first "directory" of its file name, or "dataset", one task called
    `task_name`. `tasks` orders them and leaves out others; null: as they first appear.
    """

    root: str
    captions: str = "captions.csv"
    images: str = "."
    columns: Columns = field(default_factory=Columns)
    task_by: Literal["directory", "dataset"] = "directory"
    task_name: str = "all"
    tasks: tuple[str, ...] | None = None
    shares: Shares = field(default_factory=Shares)
    caption_rule: str = "none"
    on_error: OnError = "stop"

    def __post_init__(self) -> None:
        clean_caption("", self.caption_rule)  # an unknown rule is told before files are read
