"""Several prepared benchmarks as one stream of tasks: nothing is read or written twice."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from system.config.parse import parse_dataclass
from system.data.prepare.dataset import Dataset, Progress
from system.data.prepare.moved_data import refuse_other_origin
from system.data.prepare.origin import Origin
from system.data.shards.manifest import Manifest
from system.errors import ConfigError
from system.storage.data_directory import SETTING
from system.storage.files import Folder
from system.uris import absolute, join, parent


@dataclass(frozen=True)
class Sources:
    """Names of benchmarks prepared under the same data_path, in the order of the stream."""

    sources: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("benchmark.sources=[]: at least one prepared benchmark is needed")


def combine_sources(
    benchmark: str,
    output: str,
    options: Mapping[str, Any],
    progress: Progress | None,
    *,
    replace: bool = False,
) -> Manifest:
    """Write the manifest of several prepared benchmarks as one, which refers to their shards.

    Raises: ConfigError, DataError naming a benchmark that is not prepared, StorageError.
    """
    source = parse_dataclass(Sources, options, "benchmark.options")
    origin = Origin.of("sources", options)
    if not replace:
        refuse_other_origin(origin, benchmark, output)
    beside = parent(absolute(output))
    parts = [
        Manifest.prepared(Folder.of(join(beside, name), SETTING), name) for name in source.sources
    ]
    manifest = Manifest.combined(benchmark, parts, {"format": "sources", **origin.to_source()})
    manifest.save(output)
    return manifest


DATASET = Dataset(Sources, combine_sources)
