"""Digests of what lies at the places that a config names: a run goes on when they are moved."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from system.config.schema import BaseExperiment
from system.data.prepare.origin import ROOT, prepared_at
from system.errors import StorageError
from system.storage.data_directory import DataDirectory
from system.storage.files import Folder

_OPTIONS = f"benchmark.options.{ROOT}"
_SIMILARITY = "benchmark.similarity"
_HELD_OUT = "benchmark.held_out"
#: Of a model's directory: what it is loaded from.
_MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.bin")
_BLOCK = 1 << 20


def contents_of(experiment: BaseExperiment) -> dict[str, str]:
    """Digest what a run's places hold: {dotted key of the place: SHA-256}.

    The places are the benchmark's root and similarity, held-out benchmarks, and the local
    directories of frozen models.
    What lies nowhere (yet) has no digest: its place is compared as it stands.
    """
    contents = dict(_models(experiment.to_dict()))
    benchmark = experiment.benchmark
    manifest = prepared_at(DataDirectory.of(experiment).benchmark(benchmark.name))
    if manifest is not None and ROOT in benchmark.options:
        contents[_OPTIONS] = manifest.fingerprint
    if benchmark.similarity is not None:
        folder, _, name = benchmark.similarity.rpartition("/")
        with suppress(StorageError):  # the checks before a run name it
            contents[_SIMILARITY] = hashlib.sha256(Folder.of(folder).read(name)).hexdigest()
    for name in benchmark.held_out:
        held_out = prepared_at(DataDirectory.of(experiment).benchmark(name))
        if held_out is not None:
            contents[f"{_HELD_OUT}.{name}"] = held_out.fingerprint
    return contents


def _models(section: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, str]]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _models(value, f"{where}{key}.")
        elif key != "path" or value is None:  # a model that the run trains itself has none
            continue
        elif isinstance(section.get("name"), str) and Path(value).is_dir():
            files = sorted(f for pattern in _MODEL_FILES for f in Path(value).glob(pattern))
            stamps = tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files)
            yield f"{where}{key}", _directory_digest(stamps)


@lru_cache
def _directory_digest(files: tuple[tuple[str, int, int], ...]) -> str:
    """Digest files by name and content; size and time tell when to look again."""
    digest = hashlib.sha256()
    for path, size, _ in files:
        digest.update(f"{Path(path).name} {size}\n".encode())
        with Path(path).open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()
