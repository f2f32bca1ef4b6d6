"""Prepared data and what runs compute from them: in one place, or in two."""

from pathlib import Path

import pytest

from system.config.compose import compose
from system.errors import StorageError
from system.storage.data_directory import DataDirectory


def directory(root: Path, *overrides: str) -> DataDirectory:
    return DataDirectory.of(compose([f"data_path={root / 'data'}", *overrides]))


def test_all_is_in_data_path_unless_cache_path_is_set(tmp_path: Path) -> None:
    """Runs of earlier versions find what they computed."""
    one = directory(tmp_path)
    assert one.benchmark("x").path == f"{tmp_path}/data/x"
    assert one.store("features").path == f"{tmp_path}/data/features"
    assert one.model("mask_vae", "1").path == f"{tmp_path}/data/models/mask_vae-1"


def test_with_cache_path_nothing_that_is_computed_goes_to_data_path(tmp_path: Path) -> None:
    two = directory(tmp_path, f"cache_path={tmp_path / 'cache'}")
    assert two.benchmark("x").path == f"{tmp_path}/data/x"
    assert two.store("features").path == f"{tmp_path}/cache/features"
    assert two.model("mask_vae", "1").path == f"{tmp_path}/cache/models/mask_vae-1"
    two.probe()
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("setting", ["data_path", "cache_path"])
def test_the_place_that_cannot_be_written_is_named(tmp_path: Path, setting: str) -> None:
    """The other setting would not help; for data that are read alone there is cache_path."""
    (tmp_path / "a-file").write_text("in the way")
    place = directory(tmp_path, f"{setting}={tmp_path / 'a-file'}")
    with pytest.raises(StorageError) as raised:
        place.probe()
    assert f"set another {setting}" in str(raised.value)
    assert ("cache_path=FOLDER" in str(raised.value)) == (setting == "data_path")
