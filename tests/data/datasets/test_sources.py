"""Two data sets cannot be one stream, or tasks of one are another's, if these fail."""

from pathlib import Path

import pytest
from rich.console import Console

from system.cli.prepared_experiment import prepared_experiment
from system.config.compose import compose
from system.data.prepare.dataset import DATASETS
from system.data.shards.loading import read_images
from system.data.shards.manifest import Manifest
from system.errors import ConfigError, DataError
from tests.data.coco_files import prepare_coco, write_coco


def prepare_two(root: Path) -> Path:
    for name, tasks in (("first", ("animal", "food")), ("second", ("food", "sport"))):
        source = write_coco(root / "raw" / name, {"train": 3, "test": 2}, tasks)
        prepared = prepare_coco(source, root / "data" / name)
        Manifest(2, name, prepared.source, prepared.tasks).save(str(root / "data" / name))
    return root / "data"


def combine(data: Path, *names: str, replace: bool = False) -> Manifest:
    options = {"sources": list(names)}
    return DATASETS.get("sources")("both", str(data / "both"), options, None, replace=replace)


def test_tasks_come_one_benchmark_after_the_other(tmp_path: Path) -> None:
    data = prepare_two(tmp_path)
    combine(data, "first", "second")
    both = Manifest.load(str(data / "both"))
    both.verify(deep=True)
    assert list(both.counts) == ["animal", "first food", "second food", "sport"]
    second = Manifest.load(str(data / "second"))
    for mine, theirs in (("second food", "food"), ("sport", "sport")):
        handle, own = both.task(mine).handle("test"), second.task(theirs).handle("test")
        rows = [row.image for row in read_images(handle, range(handle.rows))]
        assert rows == [row.image for row in read_images(own, range(own.rows))]
    turned = combine(data, "second", "first", replace=True)
    assert turned.fingerprint != both.fingerprint


def test_what_is_not_prepared_or_was_prepared_anew_is_named(tmp_path: Path) -> None:
    data = prepare_two(tmp_path)
    with pytest.raises(DataError, match="benchmark 'third' is not prepared"):
        combine(data, "first", "third")
    with pytest.raises(ConfigError, match="each benchmark once"):
        combine(data, "first", "first")
    combine(data, "first", "second")
    source = write_coco(tmp_path / "other", {"train": 4, "test": 2}, ("food", "sport"))
    again = prepare_coco(source, data / "second")
    Manifest(2, "second", again.source, again.tasks).save(str(data / "second"))
    with pytest.raises(DataError, match="'second', which it is made of, was prepared anew"):
        Manifest.load(str(data / "both"))
    assert combine(data, "first", "second", replace=True).counts["sport"]["train"] == 4


def test_the_short_form_names_the_benchmark_after_its_sources(tmp_path: Path) -> None:
    data = prepare_two(tmp_path)
    words = ["benchmark.sources=[first,second]", f"data_path={data}"]
    experiment = prepared_experiment(words, None, Console(quiet=True))
    assert experiment.benchmark.name == "first+second"
    assert experiment.run_name == "first+second-lpi-seed0"
    assert compose(words).benchmark.options == {"sources": ["first", "second"]}
    assert Manifest.load(str(data / "first+second")).tasks[-1].name == "sport"
