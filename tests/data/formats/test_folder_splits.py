"""Images go to splits or tasks that nobody meant, or yesterday's draw changes, if these fail."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from system.data.formats.column_names import FoundColumns
from system.data.formats.folder_splits import (
    SPLITS,
    Division,
    Draw,
    Shares,
    SplitBy,
    Survey,
    TaskBy,
    split_named,
    split_of_file,
)
from system.errors import DataError

BARE = FoundColumns("file_name", "caption", None, None, None)


def test_drawn_shares_are_those_asked_for() -> None:
    shares = Shares(val=0.1, test=0.3, seed=3)
    drawn = [shares.split_of(f"cats/{i}.png") for i in range(10_000)]
    assert abs(drawn.count("val") - 1000) < 150
    assert abs(drawn.count("test") - 3000) < 200
    # pinned: another hash would move everybody's images to other splits
    assert [Shares().split_of(name) for name in "abcdef"] == [
        *("train", "train", "test", "train", "train", "test")
    ]


def draw_twice(names: list[str], shares: Shares) -> tuple[Draw, bool]:
    """Draw all names for one task as `folder` does: again if a split was left empty."""
    draw = Draw(shares)
    counts = Counter(draw.split_of(name) for name in names)
    for name in names:
        draw.note("a", name)
    return draw, draw.mend({split: {"a": counts[split]} for split in SPLITS}, ["a"])


@given(
    st.sets(st.text(min_size=1), min_size=3, max_size=12),
    st.sampled_from([(0.1, 0.2), (0.0, 0.2), (0.001, 0.001), (0.49, 0.5), (0.998, 0.001)]),
    st.integers(0, 3),
)
def test_each_split_gets_an_image_and_full_draws_stay(
    found: set[str], parts: tuple[float, float], seed: int
) -> None:
    names, shares = sorted(found), Shares(*parts, seed)
    plain = {name: shares.split_of(name) for name in names}
    draw, moved = draw_twice(names, shares)
    mended = {name: draw.split_of(name) for name in names}
    assert set(mended.values()) == set(shares.splits)
    assert moved == (set(plain.values()) != set(shares.splits))
    changed = [name for name in names if mended[name] != plain[name]]
    assert len(changed) == len(set(shares.splits) - set(plain.values()))
    again, _ = draw_twice(names[::-1], shares)  # the order of rows is nothing to it
    assert {name: again.split_of(name) for name in names} == mended


def test_a_task_too_small_for_a_draw_is_named_with_the_ways_out() -> None:
    with pytest.raises(DataError, match=r"task 'a' has 2 images, but a draw of train, val, test"):
        draw_twice(["x", "y"], Shares())
    draw, _ = draw_twice(["x", "y"], Shares(val=0))
    assert {draw.split_of("x"), draw.split_of("y")} == {"train", "test"}


def test_splits_are_known_by_several_names() -> None:
    assert split_named("Validation") == split_named(" dev") == split_named("VALID") == "val"
    assert split_named("restval") == split_named("training") == "train"
    assert split_named("testA") is split_named("") is split_named("trains") is None


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("data/train-00000-of-00002.parquet", "train"),
        ("validation.jsonl", "val"),
        ("captions_test.json", "test"),
        ("default/train/0000.parquet", "train"),
        ("my-test-run/0000.parquet", None),
        ("train_test.csv", None),
        ("captions.csv", None),
    ],
)
def test_a_tables_name_says_its_split(path: str, split: str | None) -> None:
    assert split_of_file(Path("/x") / path) == split


def divided(
    names: list[str],
    columns: FoundColumns = BARE,
    files: tuple[str, ...] = ("captions.csv",),
    split_by: SplitBy | None = None,
    task_by: TaskBy | None = None,
) -> Division:
    survey = Survey()
    for name in names:
        survey.add(name, None)
    return survey.divide(columns, [Path(file) for file in files], split_by, task_by, "all")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.png", "b.png"], ("draw", "dataset", ("all",))),
        (["cats/a.png", "dogs/b.png"], ("draw", "directory", ("cats", "dogs"))),
        (["train/a.png", "Test/b.png"], ("directory", "dataset", ("all",))),
        (["train/dogs/a.png", "val/cats/b.png"], ("directory", "directory", ("dogs", "cats"))),
        (["train/dogs/a.png", "train/cats/b.png"], ("draw", "directory", ("dogs", "cats"))),
        (["train/a.png", "cats/b.png"], ("draw", "directory", ("train", "cats"))),
        (["train/a.png", "test.png"], ("draw", "directory", ("train",))),
        (["images/train/a.png", "images/val/b.png"], ("directory", "directory", ("images",))),
        (["i/train/dogs/a.png", "i/dev/cats/b.png"], ("directory", "directory", ("dogs", "cats"))),
        (["dogs/train/a.png", "cats/test/b.png"], ("directory", "directory", ("dogs", "cats"))),
        ([], ("draw", "dataset", ("all",))),
    ],
)
def test_directories_called_as_splits_are_no_tasks(
    names: list[str], expected: tuple[str, str, tuple[str, ...]]
) -> None:
    division = divided(names)
    assert (division.split_by, division.task_by, division.tasks) == expected


def test_the_users_word_on_splits_and_tasks_comes_first() -> None:
    names = ["train/dogs/a.png", "test/cats/b.png"]
    assert divided(names, split_by="draw").tasks == ("train", "test")
    assert divided(names, task_by="dataset").tasks == ("all",)
    column = FoundColumns("file_name", "caption", None, "split", None)
    assert divided(names, column).split_by == "column"
    assert divided(names, column).tasks == ("dogs", "cats")
    assert divided(names, column, split_by="directory").split_by == "directory"
    assert divided(names, column, split_by="column").tasks == ("dogs", "cats")
    with pytest.raises(DataError, match=r"split_by=column: the table has no column split"):
        divided(names, split_by="column")


def test_several_tables_are_splits_by_their_names() -> None:
    shards = ("train-0.parquet", "train-1.parquet")
    assert divided(["a.png"], files=(*shards, "test-0.parquet")).split_by == "file"
    assert divided(["a.png"], files=shards).split_by == "draw"
    assert divided(["a.png"], files=(*shards, "more.parquet")).split_by == "draw"
    assert divided(["a.png"], files=("train.csv",)).split_by == "draw"


def test_an_image_beside_the_directories_is_a_broken_row() -> None:
    with pytest.raises(DataError, match=r"row 2: file name 'b\.png' has no directory .*task_by"):
        divided(["cats/a.png", "b.png"]).task_without_column("b.png", "row 2")
    by_directory = divided(["train/a.png", "cats/b.png"], split_by="directory")
    assert by_directory.split_by_directory("train/a.png", "row 1") == "train"
    with pytest.raises(DataError, match=r"row 2: directory 1 of 'cats/b\.png' is no split"):
        by_directory.split_by_directory("cats/b.png", "row 2")
    with pytest.raises(DataError, match="is no split"):
        by_directory.split_by_directory("train", "row 3")
