"""The datasets that `promptide prepare` knows, and the folders on disk that they are read from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from system.data.shards.manifest import Manifest
from system.errors import DataError
from system.registry import Registry
from system.uris import absolute

#: Called with the phase, the rows done and the rows in all.
Progress = Callable[[str, int, int], None]


class Preparer(Protocol):
    """Prepares a dataset from the `options` of its benchmark config.

    Writes task shards and manifest under `output` (path or URI). A benchmark that is there from
    another source is only written over with `replace`. Raises ConfigError for that and for unknown
    options, DataError naming file and field, StorageError.
    """

    def __call__(
        self,
        benchmark: str,
        output: str,
        options: Mapping[str, Any],
        progress: Progress | None,
        *,
        replace: bool = False,
    ) -> Manifest:
        """Prepare the benchmark and return its manifest."""
        ...


@dataclass(frozen=True)
class Dataset:
    """A dataset's entry in the registry: how it is prepared, and the dataclass of its options.

    By the latter `composed_values` knows which options are texts.
    """

    options: type[Any]
    prepare: Preparer

    def __call__(
        self,
        benchmark: str,
        output: str,
        options: Mapping[str, Any],
        progress: Progress | None,
        *,
        replace: bool = False,
    ) -> Manifest:
        """Prepare the benchmark and return its manifest; see `Preparer`."""
        return self.prepare(benchmark, output, options, progress, replace=replace)


DATASETS: Registry[Dataset] = Registry("dataset", "system.data", "DATASET")


def dataset_root(root: str) -> Path:
    """Return the folder that `benchmark.options.root` names.

    Raises: DataError if it does not exist.
    """
    path = Path(absolute(root))
    if not path.is_dir():
        raise DataError(
            f"benchmark.options.root: the folder {path} does not exist: set it to the folder that "
            "holds the dataset's images and annotations"
        )
    return path


def dataset_folder(root: Path, name: str, field: str) -> Path:
    """Return a folder in the root; `field` is the option of `benchmark.options` that names it.

    Raises: DataError if it does not exist.
    """
    path = root / name
    if not path.is_dir():
        raise DataError(
            f"benchmark.options.{field}: the folder {path} does not exist: fetch the dataset or "
            "correct this field"
        )
    return path


def require_splits(root: Path, splits: Mapping[str, Mapping[str, str]]) -> None:
    """Check that all files and folders of all splits are there, before any is read.

    `splits` is {split: {option: path in the root}}; an option is below that of the split, or "" for
    the split's own.
    Raises: DataError naming all that are missing, and how to do without their splits.
    """
    missing: list[str] = []
    spare: dict[str, None] = {}
    for split, paths in splits.items():
        for option, name in paths.items():
            path, kind = root / name, "folder" if option == "images" else "file"
            if path.is_dir() if kind == "folder" else path.is_file():
                continue
            field = ".".join(filter(None, ("benchmark.options.splits", split, option)))
            missing.append(f"{field}: the {kind} {path} does not exist")
            if split != "train":
                spare[split] = None
    if not missing:
        return
    fields = "this field" if len(missing) == 1 else "these fields"
    advice = f"fetch the dataset or correct {fields}"
    if spare:
        without = " ".join(f"~benchmark.options.splits.{split}" for split in spare)
        advice += f", or go without with {without}"
    raise DataError(f"{'; '.join(missing)}: {advice}")
