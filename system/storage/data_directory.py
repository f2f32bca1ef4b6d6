"""The directory of what runs share: task shards, features, latents, finished models."""

from dataclasses import dataclass
from typing import Protocol

from system.errors import StorageError
from system.storage.files import Folder

SETTING = "data_path"  # the key of the config that names the directory
CACHE_SETTING = "cache_path"  # the key of another place for what runs compute
PROBE_BYTES = 1 << 20


class DataConfig(Protocol):
    """The part of a run's config that says where shared data lie."""

    @property
    def data_path(self) -> str:
        """A local path or URI."""
        ...

    @property
    def cache_path(self) -> str | None:
        """Where computed data lie if not in `data_path`: a local path or URI."""
        ...


@dataclass(frozen=True)
class DataDirectory:
    """`<data_path>/`: each entry is computed once and found by all runs.

    What runs compute from task shards lies in `computed`: the same folder, or `<cache_path>/`,
    so that prepared shards may lie where nobody may write.
    """

    folder: Folder
    computed: Folder

    @classmethod
    def of(cls, experiment: DataConfig) -> "DataDirectory":
        """The data directory of an experiment."""
        folder = Folder.of(experiment.data_path, SETTING)
        cache = experiment.cache_path
        return cls(folder, folder if cache is None else Folder.of(cache, CACHE_SETTING))

    def probe(self) -> None:
        """Write and read back as much as a small run adds, where computed data go.

        Raises StorageError naming data_path, or cache_path where that is set.
        """
        try:
            self.computed.probe(PROBE_BYTES)
        except StorageError as error:
            if self.computed.setting == CACHE_SETTING:
                raise
            raise StorageError(
                f"{error}; prepared data may stay where nobody can write: {CACHE_SETTING}=FOLDER "
                "is then for features, latents and models"
            ) from error

    def benchmark(self, name: str) -> Folder:
        """The prepared task shards of a benchmark."""
        return self.folder.child(name)

    def store(self, kind: str) -> Folder:
        """Values of one kind that are computed once: "features", "embeddings", "latents", ..."""
        return self.computed.child(kind)

    def model(self, kind: str, digest: str) -> Folder:
        """A finished model, by a digest of all that determines it."""
        return self.computed.child("models").child(f"{kind}-{digest}")
