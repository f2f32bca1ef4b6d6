"""A dataset is not found, or a wrong folder is not named by its option, if these fail."""

from pathlib import Path

import pytest

from system.data.prepare.dataset import DATASETS, dataset_folder, dataset_root, require_splits
from system.errors import ConfigError, DataError


def test_every_published_format_is_found_by_its_modules_name() -> None:
    assert {"coco", "coco_karpathy", "flickr30k", "folder", "openmoji", "refcoco"} <= {*DATASETS}
    for name in DATASETS:
        assert callable(DATASETS.get(name))
    with pytest.raises(ConfigError, match="unknown dataset 'flickr'; did you mean 'flickr30k'"):
        DATASETS.get("flickr")


def test_folders_that_do_not_exist_are_named_by_their_options(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    assert dataset_folder(dataset_root(str(tmp_path)), "images", "images") == tmp_path / "images"
    with pytest.raises(DataError, match=r"options\.root: the folder .*no does not exist: set it"):
        dataset_root(str(tmp_path / "no"))
    with pytest.raises(DataError, match=r"options\.splits\.train\.images: the folder .*/no does"):
        dataset_folder(tmp_path, "no", "splits.train.images")


def test_all_that_splits_lack_is_said_at_once(tmp_path: Path) -> None:
    """A user would mend one field after the other."""
    (tmp_path / "train").mkdir()
    (tmp_path / "train.json").write_text("{}")
    whole = {"train": {"instances": "train.json", "images": "train"}}
    require_splits(tmp_path, whole)
    more = {"val": {"instances": "val.json", "images": "train"}, "test": {"": "test.json"}}
    with pytest.raises(DataError) as caught:
        require_splits(tmp_path, {**whole, **more})
    assert str(caught.value) == (
        f"benchmark.options.splits.val.instances: the file {tmp_path}/val.json does not exist; "
        f"benchmark.options.splits.test: the file {tmp_path}/test.json does not exist: fetch the "
        "dataset or correct these fields, or go without with ~benchmark.options.splits.val "
        "~benchmark.options.splits.test"
    )
    with pytest.raises(DataError, match=r"fetch the dataset or correct this field$"):
        require_splits(tmp_path, {"train": {"images": "no"}})
