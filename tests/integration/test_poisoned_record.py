"""A training image that went bad after it was prepared."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from system.data.shards.manifest import Manifest
from system.errors import DataError
from system.report.pages.run_page import write_report
from tests.data.spoilt_shard import spoil_images
from tests.integration.in_process import learn
from tests.integration.small_stream import prepare_small_stream
from tests.report.page_reader import PageReader

SHORT = ("benchmark.tasks=[animal,food]", "stage.epochs=1")


@pytest.fixture
def spoilt(tmp_path: Path) -> tuple[Path, list[str]]:
    """A prepared benchmark, and the names of two of food's training images that broke."""
    prepare_small_stream(tmp_path)
    manifest = Manifest.load(str(tmp_path / "data" / "small"))
    return tmp_path, spoil_images(manifest.task("food").handle("train"), [5, 11])


def test_it_stops_the_run_by_name_unless_told_otherwise(spoilt: tuple[Path, list[str]]) -> None:
    root, names = spoilt
    with pytest.raises(DataError, match=rf"({names[0]}|{names[1]}) in shard .*does not decode"):
        learn(root, "stops", *SHORT)


def test_it_is_put_aside_once_by_name_and_the_stream_goes_on(
    spoilt: tuple[Path, list[str]],
) -> None:
    root, names = spoilt
    metrics = learn(root, "goes-on", *SHORT, "stage.on_error=quarantine")
    directory = root / "runs" / "goes-on"
    aside = pq.read_table(directory / "quarantine.parquet").to_pylist()
    assert [row["name"] for row in aside] == [f"food: {name}" for name in names]
    assert metrics["quarantined"]["undecodable image"]["rows"] == 2
    assert metrics["replayed_rows"] == 0
    opens = pq.read_table(directory / "access_log.parquet").to_pylist()
    read = [row["rows"] for row in opens if (row["task"], row["split"]) == ("food", "train")]
    assert read[-2:] == [38, 38]
    write_report(str(directory))
    assert f"food: {names[0]}" in PageReader.of(directory / "report.html").text
