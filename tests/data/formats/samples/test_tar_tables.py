"""Tars are taken for another split or task than they are of, if these fail."""

from pathlib import Path

import pytest

from system.data.formats.parquet_images import TableImage
from system.data.formats.samples.tar_tables import (
    TAR_TASK,
    TarTable,
    TarTables,
    split_of_tar,
    tar_task,
)
from system.data.shards.faults import Faults
from tests.data.tar_files import write_tar


@pytest.mark.parametrize(
    ("name", "split", "task"),
    [
        ("train/food-0001.tar", "train", "food"),
        ("food-validation-0001.tar", "val", "food"),
        ("food/test/00000.tar", "test", "food"),
        ("street_food_12.tar", None, "street food"),
        ("train-test.tar", None, "root"),
        ("contrast.tar", None, "contrast"),
        ("cifar10-train.tar", "train", "cifar10"),
    ],
)
def test_names_say_split_and_task(name: str, split: str | None, task: str) -> None:
    root = Path("/data/root")
    assert split_of_tar(root / name, root) == split
    assert tar_task(root / name) == task


def test_a_folder_above_the_root_says_no_split() -> None:
    """Else all tars below ~/test would be tests."""
    root = Path("/data/test/root")
    assert split_of_tar(root / "0.tar", root) is None


def test_columns_are_those_of_any_sample(tmp_path: Path) -> None:
    first = write_tar(tmp_path / "a.tar", [("0.jpg", b"x"), ("0.txt", b"zero")])
    second = write_tar(
        tmp_path / "b.tar", [("1.jpg", b"yy"), ("1.json", b'{"kind": "k"}'), ("2.txt", b"broken")]
    )
    tars = TarTables(tmp_path, [TarTable(first, None), TarTable(second, "test")])
    assert {*tars.columns} == {"image", "txt", "kind"}
    faults = Faults("quarantine")
    ((where, values),) = tars.tars[1].rows(tars.columns, faults)
    assert where == f"{second}: 1"
    assert (values["kind"], values[TAR_TASK]) == ("k", "b")
    image = values["image"]
    assert isinstance(image, TableImage)
    assert (image.name, image.size, image.stored.path) == ("1.jpg", 2, second)
    assert [fault.split for fault in faults.found] == ["test"]
