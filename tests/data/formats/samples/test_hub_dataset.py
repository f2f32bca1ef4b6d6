"""Rows of a table of `datasets` get another row's image, or are decoded, if these fail."""

from pathlib import Path

import datasets
import pytest

from system.data.formats.parquet_images import TableImage
from system.data.formats.samples.hub_dataset import HubImages, HubTable, HubTables
from system.data.prepare.image_files import StoredImage
from system.data.shards.faults import Faults

FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "raw": datasets.Value("binary"),
        "texts": datasets.List(datasets.Value("string")),
        "label": datasets.ClassLabel(names=["guinea_pig", "dog"]),
    }
)


def table(rows: int = 40) -> HubTable:
    """Rows whose images are no images: nothing may decode them."""
    content = [
        {
            "image": {"bytes": b"image %d" % n, "path": f"{n}.png"},
            "raw": b"raw %d" % n,
            "texts": [f"no {n}"],
            "label": n % 2,
        }
        for n in range(rows)
    ]
    dataset = datasets.Dataset.from_list(content, features=FEATURES)
    return HubTable(Path("/x/train"), dataset, None, ("a {}.",))


@pytest.mark.parametrize("column", ["image", "raw"])
def test_each_row_has_its_own_image(column: str) -> None:
    part = table()
    images = HubImages([part], column)
    rows = list(part.rows([column, "texts"], Faults("stop")))
    assert len(rows) == 40
    for number, (where, values) in enumerate(rows):
        assert where == f"/x/train, row {number + 1}"
        assert values["texts"] == [f"no {number}"]
        image = values[column]
        assert isinstance(image, TableImage)
        assert images.read(image.stored) == f"{column} {number}".encode()
        assert images.stamp(image.stored)[0] == image.size
        assert image.name == (f"{number}.png" if column == "image" else None)


def test_a_row_of_another_size_than_when_it_was_found_is_refused() -> None:
    images = HubImages([table()], "image")
    with pytest.raises(OSError, match="row 1 has changed"):
        images.read(StoredImage(Path("/x/train"), 0, 3))


def test_classes_come_by_their_names_and_as_captions() -> None:
    part = table()
    tables = HubTables(Path("/x"), [part])
    assert tables.images == ("image", "raw")
    assert tables.captions_of("texts") == "texts"
    column = tables.captions_of("label")
    (_, first), (_, second), *_ = part.rows([column, "label"], Faults("stop"))
    assert (first["label"], first[column]) == ("guinea_pig", ["a guinea pig."])
    assert (second["label"], second[column]) == ("dog", ["a dog."])


def test_a_row_without_a_label_has_none() -> None:
    """The library writes -1 where a test set has no labels."""
    features = datasets.Features({"label": FEATURES["label"]})
    dataset = datasets.Dataset.from_list([{"label": -1}, {"label": None}], features=features)
    part = HubTable(Path("/x/test"), dataset, None, ("a {}.",))
    assert [values for _, values in part.rows(["label"], Faults("stop"))] == [{"label": None}] * 2
