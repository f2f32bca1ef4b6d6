"""Digests of a split's images by their bytes: whether two splits share one."""

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from system.data.shards.manifest import SplitHandle
from system.data.shards.shard_reader import SplitReader
from system.errors import BrokenStorageError
from system.storage.feature_store import LOG, FeatureStore
from system.storage.files import Folder

_BYTES = 8  # of a digest: among 10^7 images two others are alike by chance once in 10^5 checks
_COLUMN = "digest"


def image_digests(
    handle: SplitHandle, store: Folder, note: Callable[[str], None] = LOG.warning
) -> NDArray[np.uint64]:
    """The digest (rows,) of each image's bytes as stored, in the split's file order.

    Computed once for the same shards, whoever asks, and kept in `store`. Quarantined rows count.
    `note` takes a line on kept ones that are damaged, which are computed again.
    """
    key = FeatureStore.key(what="image bytes", shards=[shard.sha256 for shard in handle.shards])
    name = f"{key}.parquet"
    if store.exists(name):
        try:
            return _column(store.read_table(name))
        except BrokenStorageError as error:
            note(f"{error}; it is made again")
    made = pa.table({_COLUMN: pa.array(_computed(handle), pa.uint64())})
    store.write_table(name, made)
    return _column(made)


def _column(table: pa.Table) -> NDArray[np.uint64]:
    digests: NDArray[np.uint64] = table.column(_COLUMN).to_numpy()
    return digests


def _computed(handle: SplitHandle) -> Iterator[int]:
    every = SplitHandle(handle.task, handle.split, handle.shards)
    with SplitReader(every) as reader:
        for values in reader.values(("image",)):
            digest = hashlib.blake2b(values["image"], digest_size=_BYTES).digest()
            yield int.from_bytes(digest, "big")
