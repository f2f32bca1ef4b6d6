"""Shards whose bytes are those that `prepare` wrote: looked at once per node and file.

Bit rot changes pixels and captions without a word from Parquet. So whoever starts a run reads its
shards whole first, compares their checksums with the manifest's, and notes the files' sizes and
times of change on the node's disk: only a file that is another one by these, or another prepare's,
is read whole again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

from system.data.shards.manifest import Manifest, Shard
from system.errors import DataError
from system.storage.files import filesystem_of
from system.storage.node_folder import temporary_folder


def require_sound_shards(manifest: Manifest) -> None:
    """What `require_sound` raises for the first shard of a benchmark that is not sound."""
    for task in manifest.tasks:
        for shards in task.splits.values():
            for shard in shards:
                require_sound(shard)


def require_sound(shard: Shard) -> None:
    """Raises DataError naming a shard that is missing, unreadable, or not as it was written."""
    with _noted(shard) as note:
        stamp = _stamp(shard)
        if note is not None and stamp is not None and os.pread(note, 100, 0) == stamp:
            return
        shard.verify(deep=True)
        if note is not None and stamp is not None:
            os.ftruncate(note, 0)
            os.pwrite(note, stamp, 0)


def _stamp(shard: Shard) -> bytes | None:
    """Size and time of change, before the file is read; None where the storage tells no time."""
    filesystem, path = filesystem_of(shard.uri)
    try:
        found = filesystem.get_file_info(path)
    except OSError as error:
        raise DataError(f"shard {shard.uri}: cannot be looked up ({error})") from error
    return None if found.mtime_ns is None else f"{found.size} {found.mtime_ns}".encode()


@contextmanager
def _noted(shard: Shard) -> Iterator[int | None]:
    """What is noted of a shard, as an open file, others kept out; None without a working disk."""
    name = hashlib.sha256(f"{shard.uri}\n{shard.sha256}".encode()).hexdigest()[:32]
    folder = temporary_folder("sound")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:
        yield None
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX)  # of several workers one reads it
        yield file
    finally:
        os.close(file)
