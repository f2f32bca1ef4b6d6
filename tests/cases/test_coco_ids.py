"""Exports that number each split from 0 cannot be used, or leaks go unseen, if these fail."""

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tests.cases.conftest import Prepared

SPLITS = (
    "benchmark.options.splits={train:{captions:train/captions.json,"
    "instances:train/_annotations.coco.json,images:train},"
    "test:{captions:valid/captions.json,instances:valid/_annotations.coco.json,images:valid}}",
    "benchmark.options.tasks=[apple,pear]",
)


def test_ids_may_start_again_but_pictures_may_not(
    case: Callable[[str], Path], prepare: Callable[..., Prepared]
) -> None:
    root = case("coco-ids-restart")
    refusal = prepare("coco", root, *SPLITS).refused()  # all four are the training pictures
    assert "byte for byte" in refusal
    assert "correct" not in refusal
    for number, path in enumerate(sorted((root / "valid").glob("*.jpg"))):
        Image.new("RGB", (64, 48), (number, 200, 100)).save(path)
    assert prepare("coco", root, *SPLITS).manifest().counts == {
        "apple": {"train": 2, "test": 2},
        "pear": {"train": 2, "test": 2},
    }
