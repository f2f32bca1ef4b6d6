"""Annotations are lost or mixed up between images if these fail."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from system.data.datasets.coco import CocoSource, read_coco
from system.data.shards.faults import Faults
from system.errors import DataError
from tests.data.coco_files import (
    edit_json,
    put,
    read_rows,
    strict_index,
    write_coco,
)


@pytest.fixture
def source(tmp_path: Path) -> CocoSource:
    return replace(write_coco(tmp_path, {"train": 3}), caption_rule="lpi")


def test_refs_of_other_splits_are_passed_over_but_some_must_be_ours(source: CocoSource) -> None:
    refs = Path(source.root) / "annotations" / "refs_train.json"
    edit_json(refs, put(0, "split", value="testA"))
    assert len(read_rows(source, "train")[0].expressions) == 1

    def rename(content: Any) -> None:
        for ref in content:
            ref["split"] = "testA"

    edit_json(refs, rename)
    with pytest.raises(DataError, match=r"holds no expression of split 'train'"):
        strict_index(source, "train")


@pytest.mark.parametrize("kind", ["captions", "instances", "refs"])
def test_file_damaged_in_the_middle_is_one_clear_error(source: CocoSource, kind: str) -> None:
    """A download that broke off must not become a smaller dataset."""
    path = Path(source.root) / "annotations" / f"{kind}_train.json"
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content.replace(b'"id"', b'"id', 1), b""):
        path.write_bytes(damaged if damaged != content else content[1:])
        message = rf"{kind}_train\.json: cannot be read as JSON \(.*\): fetch the file again$"
        for on_error in ("stop", "quarantine"):
            with pytest.raises(DataError, match=message):
                read_coco(source, Faults(on_error))
