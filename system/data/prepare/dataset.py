"""The datasets that `promptide prepare` knows, and the folders on disk that they are read from."""

from collections.abc import Callable, Mapping
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


DATASETS: Registry[Preparer] = Registry("dataset", "system.data", "DATASET")


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
