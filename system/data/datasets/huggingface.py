"""Reader of data sets of Hugging Face's `datasets`: from its directories, its files or the Hub."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from system.data.formats.column_names import Columns
from system.data.formats.folder_rows import FolderRows, FolderSource
from system.data.formats.folder_splits import SPLITS, Shares, SplitBy, split_named
from system.data.formats.image_groups import ImageGroups
from system.data.formats.placing import Placing, collect_rows
from system.data.formats.samples.hub_dataset import (
    HUB,
    HubImages,
    HubTable,
    HubTables,
    hub_cache,
    open_splits,
)
from system.data.prepare.captions import check_templates
from system.data.prepare.dataset import Progress
from system.data.prepare.image_files import FILES
from system.data.prepare.needed_files import NeededFile, needs
from system.data.prepare.pipeline import CheckedDataset, ReaderOptions, preparer
from system.data.shards.faults import Faults
from system.errors import DataError
from system.uris import absolute


@dataclass(frozen=True)
class HuggingFaceSource(ReaderOptions):
    """A data set of the library `datasets` and how it becomes a benchmark.

    `root` is a directory of `save_to_disk`, one that `load_dataset` reads (Parquet, images), or
    hf://datasets/OWNER/NAME on the Hub, with `configuration` and `revision`. `splits` maps "train",
    "val", "test" to its own; null: those whose names mean the same, unless a column says each row's
    split; where there is one split and no such column, `shares` draws them. A column of class
    numbers is read as their names, and as captions by `templates`, with the name for `{}`.
    """

    configuration: str | None = None
    revision: str | None = None
    splits: dict[str, str] | None = None
    columns: Columns = field(default_factory=Columns)
    templates: tuple[str, ...] = ("a photo of a {}.",)
    task_name: str = "all"
    tasks: tuple[str, ...] | None = None
    shares: Shares = field(default_factory=Shares)

    def __post_init__(self) -> None:
        super().__post_init__()
        for split in self.splits or ():
            if split not in SPLITS:
                raise ValueError(f"splits.{split}: a split is one of {', '.join(SPLITS)}")
        check_templates(self.templates)


def read_huggingface(
    source: HuggingFaceSource, faults: Faults, progress: Progress | None
) -> CheckedDataset:
    """Read and check a data set of `datasets`; its images are neither decoded nor unpacked.

    Raises: ConfigError, DataError naming split, row and column, StorageError.
    """
    folder = Path(absolute(source.root))
    local = folder if folder.is_dir() else None
    opened = open_splits(source.root, source.configuration, source.revision)
    splits = _splits(source, tuple(opened))
    place = local or Path(source.root.removeprefix(HUB))
    links, files = source.follow_links, local or hub_cache()
    parts = [
        HubTable(place / name, opened[name], files, source.templates, follow_links=links)
        for name in splits
    ]
    table = HubTables(place, parts)
    columns = source.columns.found_in(table)
    columns = replace(columns, caption=table.captions_of(columns.caption))
    split_by = _split_by(source, columns.split, splits)
    rows = FolderSource(
        root=source.root,
        caption_rule=source.caption_rule,
        follow_links=links,
        split_by=split_by,
        tasks=source.tasks,
        shares=source.shares,
    )
    embedded = columns.file_name in table.images
    if not embedded and local is None:
        raise DataError(
            f"benchmark.options.root: {source.root} names its images in column "
            f"{columns.file_name!r} and does not hold them: fetch it into a folder and give that"
        )
    images = HubImages(parts, columns.file_name) if embedded else FILES
    reader = FolderRows(rows, columns, place, embedded=embedded)
    with ImageGroups() as groups:
        named = [(splits[part.path.name], part) for part in parts]
        survey = collect_rows(named, columns.names, reader, groups, faults)
        division = survey.divide(columns, (), split_by, "dataset", source.task_name)
        placing = Placing(rows, place, reader, division, images)
        found = placing.splits(groups, faults)
    used = {split: index for split, index in found.items() if len(index)}
    if not used:
        raise DataError(f"{place}: holds no row that can be used")
    return CheckedDataset(
        used,
        placing.tasks,
        {
            "format": "huggingface",
            "root": source.root if local is None else str(local),
            "configuration": source.configuration,
            "revision": source.revision,
            "splits": dict(splits),
            "columns": asdict(columns),
            "split_by": split_by,
            "shares": asdict(source.shares) if split_by == "draw" else None,
            "caption_rule": source.caption_rule,
        },
        orient=True,
        drawn=used if split_by == "draw" else (),
    )


def _splits(source: HuggingFaceSource, names: Sequence[str]) -> dict[str, str]:
    """Map the data set's splits to ours, None becoming an error."""
    there = f"{source.root} has {', '.join(names)}"
    if source.splits is not None:
        missing = [name for name in source.splits.values() if name not in names]
        if missing:
            raise DataError(f"benchmark.options.splits: {there}, not {', '.join(missing)}")
        return {name: split for split, name in source.splits.items()}
    if len(names) == 1:
        return {names[0]: split_named(names[0]) or "train"}
    unknown = [name for name in names if split_named(name) is None]
    if unknown:
        raise DataError(
            f"benchmark.options.splits: {there}, of which {', '.join(unknown)} says no split: name "
            f"those to take, such as {{train: {names[0]}, test: {names[-1]}}}"
        )
    return {name: split_named(name) or "" for name in names}


def _split_by(source: HuggingFaceSource, column: str | None, splits: Mapping[str, str]) -> SplitBy:
    if source.splits is None and column is not None:
        return "column"
    told = len(splits) > 1 and set(splits.values()) != {"train"}
    return "file" if source.splits is not None or told else "draw"


def huggingface_files(source: HuggingFaceSource) -> list[NeededFile] | None:
    """List the folder; what is on the Hub is in the library's own cache."""
    return None if source.root and "://" in source.root else [NeededFile("root", ".", images=True)]


DATASET = preparer(HuggingFaceSource, read_huggingface)
NEEDED = needs(HuggingFaceSource, huggingface_files)
