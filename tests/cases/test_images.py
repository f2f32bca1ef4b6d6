"""Pictures go in as other pictures than they are, or are refused without saying why."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from system.data.shards.images import decode_image
from system.data.shards.loading import read_images
from system.data.shards.manifest import Manifest, SplitHandle
from system.data.shards.shard_reader import SplitReader
from system.data.shards.split_objects import LeftOut, read_object_masks
from tests.cases.conftest import Prepared

Case = Callable[[str], Path]
Prepare = Callable[..., Prepared]

ONE_TASK = "benchmark.options.task_by=dataset"
SPLITS = (
    "benchmark.options.splits={train:{captions:train/captions.json,"
    "instances:train/_annotations.coco.json,images:train},"
    "test:{captions:valid/captions.json,instances:valid/_annotations.coco.json,images:valid}}",
    "benchmark.options.tasks=[apple,pear]",
)
GREY = 7  # of the pictures beside the one that matters


def handles(manifest: Manifest) -> list[SplitHandle]:
    return [task.handle(split) for task in manifest.tasks for split in task.splits]


def seen(manifest: Manifest) -> dict[str, NDArray[np.uint8]]:
    """Each image as training and evaluation see it, by its name."""
    return {
        row.file_name: np.asarray(decode_image(row.image, row.file_name, row.decoding))
        for handle in handles(manifest)
        for row in read_images(handle, range(handle.rows))
    }


def test_transparent_icons_stand_on_the_background(case: Case, prepare: Prepare) -> None:
    root = case("png-transparent")
    white = seen(prepare("folder", root, ONE_TASK).manifest())
    black = seen(prepare("folder", root, ONE_TASK, "benchmark.options.background=black").manifest())
    assert len(white) == 10
    for name, image in white.items():
        assert image[0, 0].tolist() == [255, 255, 255]
        assert (image.min(), image.max()) == (0, 255), "a dark line on white"
        assert black[name].max() == 0
    ended = prepare("folder", root, ONE_TASK, "benchmark.options.background='#0000ff'")
    assert seen(ended.manifest())["0.png"][0, 0].tolist() == [0, 0, 255]
    assert "are the same pictures as images of another split" in ended.ended.output


def test_a_background_that_is_no_colour_is_refused(case: Case, prepare: Prepare) -> None:
    root = case("png-transparent")
    refusal = prepare("folder", root, ONE_TASK, "benchmark.options.background=whit").refused()
    assert "benchmark.options.background: 'whit'" in refusal


def test_first_picture_of_a_phones_file_is_read(case: Case, prepare: Prepare) -> None:
    root = case("jpeg-mpo")
    manifest = prepare("folder", root, ONE_TASK).manifest()
    found = seen(manifest)
    for path in root.glob("*.jpg"):
        with Image.open(path) as image:
            image.seek(0)
            assert np.array_equal(found[path.name], np.asarray(image.convert("RGB")))


def test_pointer_in_place_of_an_image_is_named(case: Case, prepare: Prepare) -> None:
    root = case("lfs-pointer")
    refusal = prepare("folder", root, ONE_TASK).refused()
    assert "is a Git LFS pointer" in refusal
    assert "git lfs pull" in refusal


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "the file is empty"),
        (b"<html><body>404</body></html>", "is a page in HTML"),
        (b"AccessDenied", "it is a text that begins with 'AccessDenied'"),
    ],
)
def test_what_is_there_in_place_of_an_image_is_named(
    tmp_path: Path, prepare: Prepare, content: bytes, named: str
) -> None:
    root = pictures(tmp_path)
    (root / "x.png").write_bytes(content)
    assert named in prepare("folder", root, ONE_TASK).refused()
    ended = prepare("folder", root, ONE_TASK, "benchmark.options.on_error=quarantine")
    assert "x.png" not in seen(ended.manifest())
    (row,) = pq.read_table(ended.folder / "quarantine.parquet").to_pylist()
    assert named in row["reason"]


def pictures(root: Path, **saved: Any) -> Path:
    """A folder of images with captions, among them `x.png`."""
    root = root / "pictures"
    root.mkdir()
    lines = ["file_name,caption,split"]
    for number in range(6):
        name = "x.png" if number == 0 else f"{number}.png"
        Image.new("RGB", (4, 3), (number, GREY, GREY)).save(root / name)
        lines.append(f"{name},a picture,{('train', 'val', 'test')[number % 3]}")
    (root / "captions.csv").write_text("\n".join(lines))
    return root


def palette() -> Image.Image:
    image = Image.new("P", (4, 3), 1)
    image.putpalette([0, 0, 0, 250, 0, 0])
    image.putpixel((0, 0), 0)
    return image


KINDS: dict[str, tuple[Image.Image, str, dict[str, Any], list[int], list[int]]] = {
    "16 bits": (
        Image.fromarray(np.full((3, 4), 100 * 257, np.uint16)),
        "PNG",
        {},
        [100, 100, 100],
        [100, 100, 100],
    ),
    "palette": (palette(), "PNG", {"transparency": bytes([0, 255])}, [255] * 3, [250, 0, 0]),
    "palette's colour": (palette(), "PNG", {"transparency": 0}, [255] * 3, [250, 0, 0]),
    "LA": (Image.new("LA", (4, 3), (40, 0)), "PNG", {}, [255] * 3, [255] * 3),
    "CMYK": (
        Image.new("CMYK", (4, 3), (0, 255, 255, 0)),
        "JPEG",
        {"quality": 100},
        [254, 0, 0],
        [254, 0, 0],
    ),
    "GIF": (palette(), "GIF", {"transparency": 0}, [255] * 3, [250, 0, 0]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_pictures_keep_their_colours(tmp_path: Path, prepare: Prepare, kind: str) -> None:
    root = pictures(tmp_path)
    image, encoding, settings, first, last = KINDS[kind]
    image.save(root / "x.png", encoding, **settings)
    found = seen(prepare("folder", root, ONE_TASK).manifest())["x.png"].astype(int)
    assert abs(found[0, 0] - first).max() <= 1
    assert abs(found[-1, -1] - last).max() <= 1


def turned(path: Path, image: Image.Image) -> None:
    """Save a picture as a phone that is held upright does: on its side, with a tag that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)


def test_phones_upright_pictures_are_turned(tmp_path: Path, prepare: Prepare) -> None:
    root = pictures(tmp_path)
    upright = Image.fromarray(np.arange(4 * 6 * 3, dtype=np.uint8).reshape(6, 4, 3))
    turned(root / "x.png", upright)
    ended = prepare("folder", root, ONE_TASK)
    manifest = ended.manifest()
    assert np.array_equal(seen(manifest)["x.png"], np.asarray(upright))
    table = pq.read_table(manifest.tasks[0].splits["train"][0].uri, columns=["width", "height"])
    assert table.to_pylist()[0] == {"width": 4, "height": 6}
    assert manifest.unoriented == {}


def test_annotated_pictures_stay_as_their_boxes_have_them(case: Case, prepare: Prepare) -> None:
    """Boxes and masks are of the stored frame; how many that concerns is said."""
    root = case("coco-zero-area")
    path = root / "train" / "train_1.jpg"
    with Image.open(path) as image:
        stored = image.convert("RGB")
    turned(path, stored.transpose(Image.Transpose.ROTATE_270))
    ended = prepare("coco", root, *SPLITS)
    manifest = ended.manifest()
    assert manifest.unoriented == {"train": 1}
    assert "orientation tags not applied in train: 1" in ended.ended.output
    assert seen(manifest)["train_1.jpg"].shape == (48, 64, 3)


def test_a_picture_in_two_splits_is_refused_or_leaves_the_training_split(
    tmp_path: Path, prepare: Prepare
) -> None:
    root = pictures(tmp_path)
    shutil.copy(root / "x.png", root / "5.png")  # of the train and the test split
    refusal = prepare("folder", root, ONE_TASK).refused()
    for named in ("'x.png' of split 'train'", "'5.png' of split 'test'", "on_error=quarantine"):
        assert named in refusal
    ended = prepare("folder", root, ONE_TASK, "benchmark.options.on_error=quarantine")
    assert ended.manifest().counts == {"all": {"train": 1, "val": 2, "test": 2}}
    assert "quarantined: 1 image in two splits: x.png" in ended.ended.output


def test_objects_without_area_go_in_and_are_left_out_of_the_masks(
    case: Case, prepare: Prepare
) -> None:
    """MSCOCO's own training annotations have two of them."""
    manifest = prepare("coco", case("coco-zero-area"), *SPLITS).manifest()
    apples = manifest.task("apple").handle("train")
    with SplitReader(apples) as reader:
        stored = [len(row["masks"]) for row in reader.values(["masks"])]
    left_out = LeftOut()
    masks = list(read_object_masks(apples, left_out))
    assert (sum(stored), len(masks), left_out.count) == (3, 2, 1)
    assert "train_0.jpg: instance 1" in str(left_out)
