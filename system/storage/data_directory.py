"""The directory of what runs share: task shards, features, latents, finished models."""

from dataclasses import dataclass
from typing import Protocol

from system.storage.files import Folder

SETTING = "data_path"  # the key of the config that names the directory
PROBE_BYTES = 1 << 20


class DataConfig(Protocol):
    """The part of a run's config that says where shared data lie."""

    @property
    def data_path(self) -> str:
        """A local path or URI."""
        ...


@dataclass(frozen=True)
class DataDirectory:
    """`<data_path>/`: each entry is computed once and found by all runs."""

    folder: Folder

    @classmethod
    def of(cls, experiment: DataConfig) -> "DataDirectory":
        """The data directory of an experiment."""
        return cls(Folder.of(experiment.data_path, SETTING))

    def probe(self) -> None:
        """Write and read back as much as a small run adds. Raises StorageError naming data_path."""
        self.folder.probe(PROBE_BYTES)

    def benchmark(self, name: str) -> Folder:
        """The prepared task shards of a benchmark."""
        return self.folder.child(name)

    def store(self, kind: str) -> Folder:
        """Values of one kind that are computed once: "features", "embeddings", "latents", ..."""
        return self.folder.child(kind)

    def model(self, kind: str, digest: str) -> Folder:
        """A finished model, by a digest of all that determines it."""
        return self.folder.child("models").child(f"{kind}-{digest}")
