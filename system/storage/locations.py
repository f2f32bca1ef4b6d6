"""Local paths and pyarrow filesystem URIs, treated alike."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from system.errors import StorageError


def absolute(uri: str) -> str:
    """Return a local path made absolute (`~` expanded); a URI comes back as it is."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def join(root: str, *parts: str) -> str:
    """Append path parts to a path or URI; a URI's query (`?region=...`) stays at the end."""
    base, mark, query = root.partition("?") if "://" in root else (root, "", "")
    return "/".join([base.rstrip("/"), *parts]) + mark + query


def relative(uri: str, root: str) -> str:
    """Return the part of `uri` that `join` appended to `root`."""
    if "://" in root:
        uri, root = uri.partition("?")[0], root.partition("?")[0]
    base = root.rstrip("/") + "/"
    assert uri.startswith(base), (uri, root)
    return uri[len(base) :]


def filesystem_of(uri: str) -> tuple[fs.FileSystem, str]:
    """Open the filesystem of a path or URI.

    Returns: the filesystem and the path inside it.
    Raises: StorageError for a scheme that pyarrow does not know or cannot reach.
    """
    if "://" not in uri:
        return fs.LocalFileSystem(), absolute(uri)
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StorageError(
            f"{uri}: no filesystem for this address ({error}): give a local path or a URI that "
            "pyarrow.fs.FileSystem.from_uri reads"
        ) from error
    return filesystem, path


@contextmanager
def storage_errors(uri: str, action: str) -> Iterator[None]:
    """Turn the operating system's errors inside the block into a StorageError on `uri`."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{uri}: cannot {action} ({error}): check that the place exists, has room and may be "
            "written to"
        ) from error
