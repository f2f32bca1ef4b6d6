"""Reader of webdataset tars in the layout of OpenCLIP: {jpg,png,webp}, {txt} and {json} by key."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from system.data.formats.column_names import AUTO, Columns, FoundColumns
from system.data.formats.folder_rows import FolderRows, FolderSource
from system.data.formats.folder_splits import SPLITS, Shares, SplitBy
from system.data.formats.image_groups import ImageGroups
from system.data.formats.placing import Placing, collect_rows
from system.data.formats.samples.tar_samples import find_tars, listed_tars
from system.data.formats.samples.tar_tables import (
    IMAGE,
    TAR_TASK,
    TEXT,
    TarTable,
    TarTables,
    split_of_tar,
)
from system.data.prepare.dataset import Progress, dataset_root
from system.data.prepare.image_files import FILES
from system.data.prepare.needed_files import NeededFile, needs
from system.data.prepare.pipeline import CheckedDataset, ReaderOptions, preparer
from system.data.shards.faults import Faults
from system.errors import ConfigError, DataError
from system.uris import absolute


@dataclass(frozen=True)
class TarColumns:
    """What holds what: "txt" for the member, or a field of the JSON.

    "auto" takes the member `.txt` for captions, else a field of a known name; None ignores what is
    optional.
    """

    caption: str = AUTO
    task: str | None = AUTO
    split: str | None = AUTO
    image_id: str | None = AUTO

    def found_in(self, tars: TarTables) -> FoundColumns:
        """Find them in some tars. Raises: DataError naming what there is."""
        caption = self.caption
        if caption == AUTO and TEXT in tars.columns:
            caption = TEXT
        return Columns(IMAGE, caption, self.task, self.split, self.image_id).found_in(tars)


@dataclass(frozen=True)
class WebDatasetSource(ReaderOptions):
    """Tars of samples and how they become a benchmark.

    Tars are named relative to `root`, with brace ranges and `*`: those of each split by `splits`,
    or all of them by `tars`. Then a field says each sample's split, else directories or names of
    the tars (if all of them do), else it is drawn by `shares`. `task_by`: a "field" of the JSON,
    the "tar", or "dataset", one task called `task_name`; null: the field if there is one.
    """

    tars: str | tuple[str, ...] = "**/*.tar"
    splits: dict[str, str | tuple[str, ...]] | None = None
    columns: TarColumns = field(default_factory=TarColumns)
    task_by: Literal["field", "tar", "dataset"] | None = None
    task_name: str = "all"
    tasks: tuple[str, ...] | None = None
    shares: Shares = field(default_factory=Shares)

    def __post_init__(self) -> None:
        super().__post_init__()
        for split in self.splits or ():
            if split not in SPLITS:
                raise ValueError(f"splits.{split}: a split is one of {', '.join(SPLITS)}")


def read_webdataset(
    source: WebDatasetSource, faults: Faults, progress: Progress | None
) -> CheckedDataset:
    """Read and check the samples of webdataset tars; images stay in them.

    Raises: ConfigError, DataError naming tar and key, StorageError.
    """
    root = dataset_root(source.root)
    tars = TarTables(root, _find(source, root))
    columns = source.columns.found_in(tars)
    split_by = _split_by(source, tars.tars, columns)
    columns = _with_task(source, columns)
    rows = FolderSource(
        root=source.root,
        caption_rule=source.caption_rule,
        split_by=split_by,
        tasks=source.tasks,
        shares=source.shares,
    )
    reader = FolderRows(rows, columns, root, embedded=True)
    with ImageGroups() as groups:
        parts = _shown(tars.tars, progress)
        survey = collect_rows(parts, columns.names, reader, groups, faults)
        division = survey.divide(columns, (), split_by, "dataset", source.task_name)
        placing = Placing(rows, root, reader, division, FILES)
        splits = placing.splits(groups, faults)
    used = {split: index for split, index in splits.items() if len(index)}
    if not used:
        raise DataError(f"{root}: its tars hold no sample that can be used")
    return CheckedDataset(
        used,
        placing.tasks,
        {
            "format": "webdataset",
            "root": str(root),
            "tars": {split: list(_patterns(named)) for split, named in source.splits.items()}
            if source.splits is not None
            else list(_patterns(source.tars)),
            "columns": asdict(columns),
            "split_by": split_by,
            "task_by": "tar" if source.task_by == "tar" else division.task_by,
            "shares": asdict(source.shares) if split_by == "draw" else None,
            "caption_rule": source.caption_rule,
        },
        orient=True,
        drawn=used if split_by == "draw" else (),
    )


def _patterns(named: str | tuple[str, ...]) -> tuple[str, ...]:
    return (named,) if isinstance(named, str) else named


def _find(source: WebDatasetSource, root: Path) -> list[TarTable]:
    if source.splits is None:
        paths = find_tars(root, _patterns(source.tars), "benchmark.options.tars")
        tars = [TarTable(path, split_of_tar(path, root)) for path in paths]
        return sorted(tars, key=lambda tar: SPLITS.index(tar.split) if tar.split else 0)
    split_of: dict[Path, str] = {}
    for split, named in source.splits.items():
        for path in find_tars(root, _patterns(named), f"benchmark.options.splits.{split}"):
            other = split_of.setdefault(path, split)
            if other != split:
                raise ConfigError(
                    f"benchmark.options.splits: {path} is named for {other!r} and for {split!r}"
                )
    return [TarTable(path, split) for path, split in split_of.items()]


def _split_by(source: WebDatasetSource, tars: Sequence[TarTable], columns: FoundColumns) -> SplitBy:
    if source.splits is not None:
        return "file"
    if columns.split is not None:
        return "column"
    told = {tar.split: tar.path for tar in tars}
    if None in told and len(told) > 1:
        raise DataError(
            f"benchmark.options.tars: {told[None]} names no split, as others do: say which tars "
            "are of which split, such as benchmark.options.splits={train: 'a/*.tar', ...}"
        )
    return "draw" if None in told or told.keys() == {"train"} else "file"


def _with_task(source: WebDatasetSource, columns: FoundColumns) -> FoundColumns:
    """Say what tells the task: a field, the tar, or nothing."""
    if source.task_by == "field" and columns.task is None:
        raise DataError(
            "benchmark.options.task_by=field: no sample has a field 'task': set "
            "benchmark.options.columns.task"
        )
    task = {"tar": TAR_TASK, "dataset": None}.get(source.task_by or "field", columns.task)
    return replace(columns, task=task)


def _shown(
    tars: Sequence[TarTable], progress: Progress | None
) -> Iterator[tuple[str | None, TarTable]]:
    for done, tar in enumerate(tars, 1):
        yield tar.split, tar
        if progress is not None:
            progress("tars", done, len(tars))


def webdataset_files(source: WebDatasetSource) -> list[NeededFile]:
    """List the tars that the options name."""
    named = {"tars": source.tars}
    if source.splits is not None:
        named = {f"splits.{split}": of for split, of in source.splits.items()}
    root = Path(absolute(source.root)) if source.root else Path("root-is-not-set")
    return [
        NeededFile(
            option,
            ", ".join(_patterns(of)),
            images=True,
            parts=tuple(
                os.path.relpath(path, root)
                for path in listed_tars(root, _patterns(of), f"benchmark.options.{option}")
            ),
        )
        for option, of in named.items()
    ]


DATASET = preparer(WebDatasetSource, read_webdataset)
NEEDED = needs(WebDatasetSource, webdataset_files)
