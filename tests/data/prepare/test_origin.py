"""Another data set's shards are trained on, or written over unseen, if these fail."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from system.data.prepare.dataset import DATASETS
from system.data.prepare.origin import Origin, prepared_at, require_origin
from system.data.shards.manifest import Manifest
from system.errors import ConfigError
from system.storage.files import Folder
from tests.data.coco_files import png

OPTIONS = {"caption_rule": "none", "task_by": "dataset"}


def write(root: Path, first: int) -> Path:
    root.mkdir()
    rows = [f"{n}.png,number {n}" for n in range(first, first + 30)]
    (root / "captions.csv").write_text("\n".join(["file_name,caption", *rows]))
    for n in range(first, first + 30):
        (root / f"{n}.png").write_bytes(png((8, 6), n))
    return root


def prepare(root: Path, output: Path, *, again: bool = False, **options: str) -> Manifest:
    values = {"root": str(root), **OPTIONS, **options}
    return DATASETS.get("folder")("pets", str(output), values, None, replace=again)


def rows(output: Path) -> list[str]:
    return sorted(path.name for path in output.rglob("*.parquet"))


def test_other_data_under_one_name_are_refused_with_the_ways_out(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", 0), write(tmp_path / "b", 50)
    before = prepare(first, tmp_path / "out")
    with pytest.raises(ConfigError) as refused:
        prepare(second, tmp_path / "out")
    for part in (str(first), str(second), "benchmark.name=NAME", "--replace"):
        assert part in str(refused.value)
    assert prepared_at(Folder.of(tmp_path / "out")) == before
    assert prepare(second, tmp_path / "out", again=True).fingerprint != before.fingerprint


def test_other_options_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    root = write(tmp_path / "a", 0)
    prepare(root, tmp_path / "out")
    (root / "captions.csv").unlink()
    with pytest.raises(ConfigError, match=r"caption_rule='lpi' \(prepared with 'none'\)"):
        prepare(root, tmp_path / "out", caption_rule="lpi")


def test_moved_data_are_the_same_and_nothing_is_written(tmp_path: Path) -> None:
    first = write(tmp_path / "a", 0)
    before = prepare(first, tmp_path / "out")
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")}
    moved = Path(shutil.copytree(first, tmp_path / "b", copy_function=shutil.copyfile))
    shutil.rmtree(first)
    after = prepare(moved, tmp_path / "out")
    assert after.fingerprint == before.fingerprint
    recorded = Origin.recorded(after)
    assert recorded.options["root"] == str(moved)
    assert {path: path.stat().st_mtime_ns for path in shards} == shards


def test_one_other_pixel_is_other_data(tmp_path: Path) -> None:
    first = write(tmp_path / "a", 0)
    prepare(first, tmp_path / "out")
    moved = Path(shutil.copytree(first, tmp_path / "b"))
    data = bytearray((moved / "3.png").read_bytes())
    data[-20] ^= 1
    (moved / "3.png").write_bytes(data)
    with pytest.raises(ConfigError, match="was prepared from another source"):
        prepare(moved, tmp_path / "out")


def test_more_files_in_the_same_place_are_prepared_again(tmp_path: Path) -> None:
    root = write(tmp_path / "a", 0)
    before = prepare(root, tmp_path / "out")
    with (root / "captions.csv").open("a") as stream:
        stream.write("\n0.png,a second caption")
    assert prepare(root, tmp_path / "out").fingerprint != before.fingerprint


def test_a_manifest_of_an_earlier_version_is_compared_by_what_it_says(tmp_path: Path) -> None:
    root = write(tmp_path / "a", 0)
    manifest = prepare(root, tmp_path / "out")
    source = {key: value for key, value in manifest.source.items() if key != "origin"}
    earlier = replace(manifest, source=source)
    require_origin(earlier, "any", {**OPTIONS, "task_by": "directory"}, "out")
    with pytest.raises(ConfigError, match=r"caption_rule='lpi' \(prepared with 'none'\)"):
        require_origin(earlier, "folder", {**OPTIONS, "caption_rule": "lpi"}, "out")


def test_a_run_on_other_options_than_prepared_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "a", 0)
    manifest = prepare(root, tmp_path / "out")
    options = {"root": "anywhere", **OPTIONS}
    require_origin(manifest, "folder", options, "out")
    with pytest.raises(ConfigError, match=r"benchmark\.dataset=coco \(prepared as folder\)"):
        require_origin(manifest, "coco", options, "out")
    with pytest.raises(ConfigError, match=r"task_by='directory' \(prepared with 'dataset'\)"):
        require_origin(manifest, "folder", {**options, "task_by": "directory"}, "out")
