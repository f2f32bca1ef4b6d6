"""A user does not see which file to fetch, or reads a wrong size, if these fail."""

import io

import pytest
from rich.console import Console

from system.data.prepare.diagnosis import Diagnosis, Finding, Room
from system.data.prepare.needed_files import COCO, NeededFile
from system.report.terminal.diagnosis_table import print_diagnosis, size_text


def printed(*findings: Finding, width: int = 160) -> str:
    stream = io.StringIO()
    room = Room("disk", 2_000, 1_000)
    print_diagnosis(
        "mine", "/data/mine", Diagnosis(findings, (room,), None), Console(file=stream, width=width)
    )
    return stream.getvalue()


def missing(option: str, path: str) -> Finding:
    needed = NeededFile(option, path, COCO["annotations2014"])
    return Finding(needed, (option,), path, "missing", 0, 0, None)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 KB"), (13_510_573_713, "13.5 GB")],
)
def test_sizes_are_in_units_of_a_thousand(size: int, text: str) -> None:
    assert size_text(size) == text


def test_an_archive_is_named_once_for_all_that_is_in_it() -> None:
    shown = printed(missing("captions", "a/c.json"), missing("instances", "a/i.json"))
    assert shown.count("annotations_trainval2014.zip") == 1
    assert "for a/c.json, a/i.json" in shown
    assert "252.9 MB (252,872,794 bytes)" in shown
    assert "/data/mine has no task shards" in shown


def test_an_address_is_one_line_however_narrow_the_terminal() -> None:
    """Else it cannot be copied."""
    shown = printed(missing("captions", "a/c.json"), width=40)
    assert f"  {COCO['annotations2014'].address}\n" in shown


def test_files_are_counted_against_those_published() -> None:
    needed = NeededFile("images", "train2014", COCO["train2014"], images=True)
    found = Finding(needed, ("images",), "/x/[train]2014", "incomplete", 7, 5_000, 82783)
    assert "7 of 82,783" in printed(found)
    assert "/x/[train]2014" in printed(found)
