"""Learned prompts on disk: one JSON header and one safetensors file per task, no pickle."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeVar

from torch import Tensor

from system.config.parse import parse_dataclass
from system.config.protocol import FORMER, RELEASED, former_settings
from system.config.schema import check_seed
from system.errors import AdapterMismatchError, BrokenStorageError, ConfigError
from system.storage.files import Folder
from system.storage.seal import DamagedError, read_tensors, tensor_file

HEADER = "adapter.json"
FORMAT_VERSION = 1
T = TypeVar("T")


@dataclass(frozen=True)
class AdapterHeader:
    """Backbone, method and benchmark that the adapters were learned with; they fit no others."""

    backbone: str
    backbone_fingerprint: str
    method: dict[str, Any]
    benchmark: str
    benchmark_fingerprint: str
    protocol: str
    seed: int
    tasks: tuple[str, ...]
    router: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)  # fields of InputConfig
    #: What the frozen model computed in; None: written by an earlier version, which did not say.
    precision: Literal["fp32", "bf16"] | None = None
    format_version: int = FORMAT_VERSION


def read_header(
    folder: Folder, name: str, kind: type[T], newest: int, *, absent: str, foreign: str
) -> T:
    """The header `name` of a folder as the dataclass `kind`, up to format `newest`.

    `absent` says what to do where there is none, `foreign` what a file of another kind is not, and
    what to do. Raises BrokenStorageError for these and a newer format, ConfigError naming a key
    that is missing or unknown.
    """
    if not folder.exists(name):
        raise BrokenStorageError(f"{folder.uri} holds no {name}; {absent}")
    values, file = folder.read_json(name), folder.file_uri(name)
    if not isinstance(values, dict):
        raise BrokenStorageError(f"{file} is no {foreign}")
    version = values.get("format_version")
    if isinstance(version, int) and version > newest:
        raise BrokenStorageError(
            f"{file} has format {version}, newer than {newest}; update promptide"
        )
    return parse_dataclass(kind, values, file)


class AdapterFolder:
    """The `adapters/` folder of a run, or one that was copied from it."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def save_header(self, header: AdapterHeader) -> None:
        """Write the header; the tasks' files follow one by one."""
        self.folder.write_json(HEADER, asdict(header))

    def header(self) -> AdapterHeader:
        """The header.

        Raises StorageError if the folder holds none or a newer format, ConfigError naming a key
        that is missing or unknown.
        """
        if not self.folder.exists(HEADER) and self.count():
            raise self.folder.missing(HEADER)
        header = read_header(
            self.folder,
            HEADER,
            AdapterHeader,
            FORMAT_VERSION,
            absent="give a run's adapters folder",
            foreign="adapter header; copy the adapters folder again",
        )
        _check(header, self.folder.file_uri(HEADER))
        if header.protocol != FORMER:
            return header
        method, inputs = former_settings(header.method)
        return replace(header, protocol=RELEASED, method=method, inputs=inputs)

    def count(self) -> int:
        """How many tasks, from the first on, have a file."""
        names = set(self.folder.names())
        return next(i for i in range(len(names) + 1) if task_file(i) not in names)

    def save_task(self, index: int, state: Mapping[str, Tensor]) -> str:
        """Write one task's tensors; returns the file's name."""
        name = task_file(index)
        tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
        self.folder.write(name, tensor_file(tensors))
        return name

    def task(self, index: int, most_bytes: int | None = None) -> dict[str, Tensor]:
        """One task's tensors.

        Raises BrokenStorageError naming a file that is damaged or gone, AdapterMismatchError before
        it is read if it has more than `most_bytes`.
        """
        name = task_file(index)
        if not self.folder.exists(name) and self.folder.exists(HEADER):
            raise self.folder.missing(name)  # it, not the storage: no later try would find it
        with self.folder.opened(name) as stream:
            size = stream.size()
            if most_bytes is not None and size > most_bytes:
                raise AdapterMismatchError(
                    f"{self.folder.file_uri(name)} has {size:,} bytes, out of proportion to the "
                    f"frozen model, for which at most {most_bytes:,} are read"
                )
            data = bytes(stream.read())
        try:
            return read_tensors(data)
        except DamagedError as error:
            raise self.folder.damaged(name, error) from error


def _check(header: AdapterHeader, file: str) -> None:
    """Raises ConfigError naming the first field of a header that no run has written."""
    if len(set(header.tasks)) < len(header.tasks):
        raise ConfigError(f"{file}: tasks={list(header.tasks)} must name each task once")
    if not isinstance(header.method.get("name"), str):
        raise ConfigError(f"{file}: method.name is missing, or no text")
    centers = header.router.get("centers") if header.router else 1
    if not isinstance(centers, int) or isinstance(centers, bool) or centers < 1:
        raise ConfigError(f"{file}: router.centers={centers!r} must be a whole number from 1 on")
    try:
        check_seed(header.seed)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def task_file(index: int) -> str:
    """File name of a task's tensors; the index is its place in the stream."""
    return f"task-{index:04d}.safetensors"


def require_same_backbone(header: AdapterHeader, name: str, fingerprint: str) -> None:
    """Raises AdapterMismatchError when an adapter was learned on other weights."""
    if header.backbone_fingerprint != fingerprint:
        raise AdapterMismatchError(
            f"the adapters were learned on backbone {header.backbone!r} "
            f"(fingerprint {header.backbone_fingerprint[:12]}), not on {name!r} "
            f"({fingerprint[:12]}); set backbone.path to the one they belong to"
        )


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under `prefix.`."""
    return {f"{prefix}.{key}": value for key, value in state.items()}


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that `prefixed` put under `prefix.`, by their own names."""
    start = prefix + "."
    return {key[len(start) :]: value for key, value in state.items() if key.startswith(start)}
