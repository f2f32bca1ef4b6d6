"""Images are alike by their bytes, whatever they are called and wherever they lie."""

from pathlib import Path

import numpy as np
import pytest

from system.data.shards import image_digests as module
from system.data.shards.image_digests import image_digests
from system.data.shards.manifest import Manifest
from system.storage.files import Folder
from tests.data.coco_files import prepare_coco, write_coco


def test_the_same_bytes_have_the_same_digest_in_any_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Image numbers go on from split to split, and an image's bytes follow its number."""
    one = prepare_coco(write_coco(tmp_path / "a", {"train": 3, "test": 2}), str(tmp_path / "one"))
    other = prepare_coco(write_coco(tmp_path / "b", {"test": 5}), str(tmp_path / "other"))
    store = Folder.of(tmp_path / "digests")

    def digests(manifest: Manifest, split: str) -> list[int]:
        handles = [task.handle(split) for task in manifest.tasks]
        return [int(d) for handle in handles for d in image_digests(handle, store)]

    train, test = digests(one, "train"), digests(one, "test")
    assert len(set(train + test)) == 10
    assert set(digests(other, "test")) == set(train + test)
    assert len(store.names()) == 6

    def fails(*_: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(module, "_computed", fails)
    assert np.array_equal(digests(one, "train"), train)
