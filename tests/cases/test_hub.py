"""Data sets as other tools lay them out, through the command line."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import datasets

from tests.cases.conftest import Ended, Prepared
from tests.data.coco_files import png
from tests.data.tar_files import write_tar


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


def test_tars_of_webdataset_go_in(prepare: Callable[..., Prepared], tmp_path: Path) -> None:
    """Read where they are, by the ranges that OpenCLIP's users write."""
    root = tmp_path / "tars"
    for number in range(3):
        text = f"no {number}".encode()
        members = [(f"{number:03d}.png", png((20, 16), number)), (f"{number:03d}.txt", text)]
        write_tar(root / f"{number:05d}.tar", members)
    splits = "benchmark.options.splits={train: '{00000..00001}.tar', test: 00002.tar}"
    manifest = prepare("webdataset", root, splits).manifest()
    assert manifest.counts == {"all": {"train": 2, "test": 1}}
    (root / "00001.tar").write_bytes((root / "00001.tar").read_bytes()[:700])
    line = prepare("webdataset", root, splits, "benchmark.name=other").refused()
    assert "00001.tar" in line


def test_a_data_set_of_the_hub_goes_in(prepare: Callable[..., Prepared], tmp_path: Path) -> None:
    """From the directory that the library wrote, without a network."""
    root = tmp_path / "mine"
    splits = {
        split: datasets.Dataset.from_dict(
            {"image": [{"bytes": png((20, 16), n), "path": None}], "text": [f"no {n}"]},
            features=datasets.Features(
                {"image": datasets.Image(), "text": datasets.Value("string")}
            ),
        )
        for n, split in enumerate(("train", "validation", "test"))
    }
    datasets.DatasetDict(splits).save_to_disk(str(root))
    manifest = prepare("huggingface", root).manifest()
    assert manifest.counts == {"all": {"train": 1, "val": 1, "test": 1}}


def test_doctor_says_what_is_missing_and_where_it_is(
    promptide: Callable[..., Ended], tmp_path: Path
) -> None:
    data = f"data_path={tmp_path / 'data'}"
    ended = promptide("doctor", "benchmark=lpi_coco", data)
    assert ended.refused() == (
        "benchmark 'lpi_coco': 6 of 6 files and folders are missing or incomplete: benchmark."
        "options.root is not set"
    )
    assert "http://images.cocodataset.org/zips/train2014.zip" in ended.output
    assert "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775" in ended.output
    assert "not prepared yet" in ended.output


def test_doctor_misses_nothing_of_what_is_prepared(
    prepare: Callable[..., Prepared], promptide: Callable[..., Ended], tmp_path: Path
) -> None:
    """Its shards are all that a run needs, with the options that they were made with."""
    root = tmp_path / "tars"
    for split in ("train", "test"):
        members = [("0.png", png((20, 16), len(split))), ("0.txt", b"one")]
        write_tar(root / f"food-{split}-0.tar", members)
    prepare("webdataset", root, "benchmark.options.task_by=tar").manifest()
    shutil.rmtree(root)
    words = ["benchmark=webdataset", "benchmark.name=case", f"data_path={tmp_path / 'data'}"]
    shown = promptide("doctor", *words).passed()
    assert "prepared: 2 images, 1 task, from" in shown
    ended = promptide("doctor", *words, "benchmark.options.task_by=dataset")
    assert "are missing" in ended.refused()
    assert "with benchmark.options.task_by='tar', which is 'dataset' here" in ended.output


def test_doctor_shows_paths_as_they_are(promptide: Callable[..., Ended], tmp_path: Path) -> None:
    """Square brackets are markup to the terminal's library, and may be part of a path."""
    root = tmp_path / "[red]mine[/]"
    (root / "images").mkdir(parents=True)
    (root / "images" / "1.png").write_bytes(png((20, 16)))
    words = ["benchmark=folder", f'benchmark.options.root="{root}"', f"data_path={tmp_path}/data"]
    ended = promptide("doctor", *words, "benchmark.options.images=images")
    assert "1 of 2 files and folders are missing" in ended.refused()
    (root / "captions.csv").write_text("file_name,caption\n1.png,one\n")
    shown = promptide("doctor", *words, "benchmark.options.images=images").passed()
    assert "[red]mine[/]" in shown.replace("\n", "").replace(" ", "")


def test_doctor_waits_for_nothing_heavy() -> None:
    """It is what one types first, and what is typed where the rest is not installed yet."""
    program = """
import sys
from system.app import main
code = main(["doctor", "benchmark=openmoji", "data_path=nowhere"])
heavy = {"ray", "torch", "transformers", "datasets", "webdataset", "sklearn"} & set(sys.modules)
assert not heavy, heavy
sys.exit(code)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
