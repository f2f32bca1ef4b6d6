"""The JSON header beside saved weights: what they are, in which format."""

from typing import TypeVar

from system.config.parse import parse_dataclass
from system.errors import StorageError
from system.storage.files import Folder

T = TypeVar("T")


def read_header(
    folder: Folder, name: str, kind: type[T], newest: int, *, absent: str, foreign: str
) -> T:
    """The header `name` of a folder as the dataclass `kind`, up to format `newest`.

    `absent` says what to do where there is none, `foreign` what a file of another kind is not, and
    what to do. Raises StorageError for these and a newer format, ConfigError naming a key that is
    missing or unknown.
    """
    if not folder.exists(name):
        raise StorageError(f"{folder.uri} holds no {name}; {absent}")
    values, file = folder.read_json(name), folder.file_uri(name)
    if not isinstance(values, dict):
        raise StorageError(f"{file} is no {foreign}")
    version = values.get("format_version")
    if isinstance(version, int) and version > newest:
        raise StorageError(f"{file} has format {version}, newer than {newest}; update promptide")
    return parse_dataclass(kind, values, file)
