"""Data sets as other tools lay them out, through the command line."""

from collections.abc import Callable
from pathlib import Path

from tests.cases.conftest import Prepared
from tests.data.coco_files import png


def test_directories_of_classes_go_in(prepare: Callable[..., Prepared], tmp_path: Path) -> None:
    """No file of captions: directories name the classes, and templates make the captions."""
    root = tmp_path / "pets"
    for number, name in enumerate(f"{s}/{c}" for s in ("train", "test") for c in ("cat", "dog")):
        (root / name).mkdir(parents=True)
        (root / name / "1.png").write_bytes(png((20, 16), number))
    one_each = {"train": 1, "test": 1}
    options = ["benchmark.options.classes_per_task=1"]
    options.append('benchmark.options.templates=["a photo of a {}.", "a {}."]')
    manifest = prepare("class_folder", root, *options).manifest()
    assert manifest.counts == {"classes_1-1": one_each, "classes_2-2": one_each}
    (root / "test" / "dogs").mkdir()
    (root / "test" / "dogs" / "1.png").write_bytes(png((20, 16), 9))
    assert "no class 'dogs' among the training images" in prepare("class_folder", root).refused()
