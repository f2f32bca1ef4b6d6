"""A user is sent to the wrong place, or for a file that nobody reads, if these fail."""

import re
from pathlib import Path

import pytest

from system.config.compose import CONFIG_DIRECTORY, composed_values
from system.data.prepare.needed_files import COCO, KARPATHY, NEEDS, Archive, coco_archive

BENCHMARKS = sorted((CONFIG_DIRECTORY / "benchmark").glob("*.yaml"))


@pytest.mark.parametrize("file", BENCHMARKS, ids=lambda file: file.stem)
def test_every_benchmark_lists_its_files(file: Path) -> None:
    """Before any of them is there, and each under an option that the benchmark has."""
    config = composed_values([f"benchmark={file.stem}"])["benchmark"]
    if config["dataset"] == "sources":
        return  # its files are other benchmarks
    listed = NEEDS.get(config["dataset"])({**config["options"], "root": "/nowhere"})
    for needed in listed or ():
        value = config["options"]
        for key in re.split(r"[.\[]", needed.option):
            value = value[int(key[:-1])] if key.endswith("]") else value[key]
        assert value is None or isinstance(value, str | list)


@pytest.mark.parametrize("archive", [*COCO.values(), KARPATHY], ids=lambda a: a.address)
def test_a_checksum_is_a_whole_one(archive: Archive) -> None:
    assert archive.sha256 is not None
    assert re.fullmatch(r"[0-9a-f]{64}", archive.sha256)
    assert archive.size is not None


def test_files_of_mscoco_are_found_by_their_names() -> None:
    assert coco_archive("images/train2014") is COCO["train2014"]
    assert coco_archive("annotations/captions_val2017.json") is COCO["annotations2017"]
    assert coco_archive("annotations/mine.json") is None
