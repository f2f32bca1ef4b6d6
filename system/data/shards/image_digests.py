"""Digests of a split's images by their bytes: whether two splits share one."""

import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from system.data.shards.manifest import SplitHandle
from system.data.shards.shard_reader import SplitReader
from system.storage.feature_store import FeatureStore
from system.storage.files import Folder

_BYTES = 8  # of a digest: among 10^7 images two others are alike by chance once in 10^5 checks
_COLUMN = "digest"


def image_digests(handle: SplitHandle, store: Folder) -> NDArray[np.uint64]:
    """The digest (rows,) of each image's bytes as stored, in the split's file order.

    Computed once for the same shards, whoever asks, and kept in `store`. Quarantined rows count.
    """
    key = FeatureStore.key(what="image bytes", shards=[shard.sha256 for shard in handle.shards])
    name = f"{key}.parquet"
    if not store.exists(name):
        store.write_table(name, pa.table({_COLUMN: pa.array(_computed(handle), pa.uint64())}))
    found: NDArray[np.uint64] = store.read_table(name).column(_COLUMN).to_numpy()
    return found


def _computed(handle: SplitHandle) -> Iterator[int]:
    every = SplitHandle(handle.task, handle.split, handle.shards)
    with SplitReader(every) as reader:
        for values in reader.values(("image",)):
            digest = hashlib.blake2b(values["image"], digest_size=_BYTES).digest()
            yield int.from_bytes(digest, "big")
