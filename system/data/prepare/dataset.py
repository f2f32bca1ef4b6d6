"""The datasets that `promptide prepare` knows: each turns its own files into task shards."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from system.data.shards.manifest import Manifest
from system.registry import Registry

#: Told the phase, the rows done and the rows there are.
PrepareProgress = Callable[[str, int, int], None]


class Preparer(Protocol):
    """Prepares a dataset from the `options` of its benchmark config.

    Writes task shards and manifest under `output` (path or URI). Raises ConfigError for options it
    does not know, DataError naming file and field, StorageError.
    """

    def __call__(
        self,
        benchmark: str,
        output: str,
        options: Mapping[str, Any],
        progress: PrepareProgress | None,
    ) -> Manifest:
        """Prepare the benchmark and return its manifest."""
        ...


DATASETS: Registry[Preparer] = Registry("dataset", "system.data", "DATASET")
