"""Features of the frozen backbone, computed once and shared by epochs, methods and runs.

A file's name is a digest of all that its content depends on: the backbone's weights, the rows,
the preprocessing. So an entry is never stale, and two runs that write the same one write the same
bytes.
"""

import hashlib
import json
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from system.storage.files import Folder


class FeatureStore:
    """A folder of unprompted features."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    @staticmethod
    def key(**depends_on: Any) -> str:
        """The name of an entry from everything that determines it."""
        text = json.dumps(depends_on, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def find(self, key: str) -> dict[str, Tensor] | None:
        """The tensors of an entry, or None. A damaged entry counts as missing and is made anew."""
        name = f"{key}.safetensors"
        if not self.folder.exists(name):
            return None
        try:
            return load(self.folder.read(name))
        except SafetensorError:
            return None

    def put(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Store an entry."""
        self.folder.write(
            f"{key}.safetensors", save({k: v.cpu().contiguous() for k, v in tensors.items()})
        )
