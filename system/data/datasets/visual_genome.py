"""Reader of Visual Genome's regions: a box and a phrase that describes what is in it.

Source: Krishna et al. (arXiv 1602.07332). `image_data.json` is a list of {image_id, url, width,
height, ...}, `region_descriptions.json` one of {id or image_id, regions: [{region_id, x, y, width,
height, phrase}]}; x, y, width and height are pixels. An image's file is called as in its url, whose
folder is VG_100K or VG_100K_2. There is no published division into splits.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from system.data.formats.coco_entries import Box, ImageEntry, four_numbers, sized_image
from system.data.formats.folder_splits import SPLITS, Draw, Shares
from system.data.prepare.annotations import Entry, read_items
from system.data.prepare.captions import checked_caption
from system.data.prepare.dataset import Progress, dataset_folder, dataset_root
from system.data.prepare.image_files import StoredImage, safe_image_path
from system.data.prepare.needed_files import NeededFile, needs
from system.data.prepare.pipeline import CheckedDataset, ReaderOptions, preparer
from system.data.prepare.split_index import SplitIndex, SplitIndexBuilder
from system.data.shards.faults import Faults
from system.data.shards.masks import mask_from_box
from system.data.shards.schema import Expression, ImageRecord, Instance
from system.errors import ConfigError, DataError

_ALL = "all"  # the split of what is broken in a file of all images


@dataclass(frozen=True)
class VisualGenomeSource(ReaderOptions):
    """Visual Genome on disk and how it becomes a benchmark of one task, called `task_name`.

    `regions`, `image_data` and `images` are relative to `root`; `images` holds the folders VG_100K
    and VG_100K_2. `shares` draws the splits. Regions reach beyond their image's edges: they are cut
    off there, and one of which no pixel is left is a broken row.
    """

    regions: str = "region_descriptions.json"
    image_data: str = "image_data.json"
    images: str = "."
    task_name: str = "visual_genome"
    shares: Shares = field(default_factory=Shares)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.task_name:
            raise ConfigError("benchmark.options.task_name must be a name")


def read_visual_genome(
    source: VisualGenomeSource, faults: Faults, progress: Progress | None
) -> CheckedDataset:
    """Read and check the regions.

    Raises: DataError naming file, entry and field, StorageError.
    """
    root = dataset_root(source.root)
    reader = _Reader(source, root, faults, progress)
    splits = reader.splits()
    return CheckedDataset(
        splits,
        (source.task_name,),
        {
            "format": "visual_genome",
            "root": str(root),
            "shares": asdict(source.shares),
            "caption_rule": source.caption_rule,
            "cut_off_regions": reader.cut_off,
        },
        drawn=tuple(splits),
    )


class _Reader:
    """Reads the regions, a second time if the draw left a split empty."""

    def __init__(
        self, source: VisualGenomeSource, root: Path, faults: Faults, progress: Progress | None
    ) -> None:
        self._source, self._root, self._faults, self._progress = source, root, faults, progress
        self._folder = dataset_folder(root, source.images, "images")
        self._draw = Draw(source.shares)
        self._images: dict[str, ImageEntry] = {}
        for where, content in self._items("image_data"):
            image: ImageEntry | None = None
            with faults.row(_ALL, where):
                image = _read_image(Entry(content, where))
            if image is not None and self._images.setdefault(image.id, image) is not image:
                raise DataError(f"{where}: field 'image_id' {image.id} is there twice")
        self.cut_off = 0

    def splits(self) -> dict[str, SplitIndex]:
        """Index all images. Raises: DataError, also for fewer images than splits."""
        found = len(self._faults.found)
        splits = self._place()
        counts = {split: index.counts for split, index in splits.items()}
        if any(map(len, splits.values())) and self._draw.mend(counts, (self._source.task_name,)):
            del self._faults.found[found:]  # they are found again
            splits = self._place()
        return {split: splits[split] for split in self._source.shares.splits}

    def _place(self) -> dict[str, SplitIndex]:
        task = self._source.task_name
        builders = {split: SplitIndexBuilder(split, (task,), self._faults) for split in SPLITS}
        self.cut_off = 0
        seen: set[str] = set()
        for where, content in self._items("regions"):
            image: ImageEntry | None = None
            with self._faults.row(_ALL, where):
                entry = Entry(content, where)
                image = self._image_of(entry)
            if image is None:
                continue
            if image.id in seen:
                raise DataError(f"{where}: image {image.id} is there twice")
            seen.add(image.id)
            split = self._draw.split_of(image.id)
            with self._faults.row(split, image.file_name):
                path = safe_image_path(
                    self._folder,
                    image.file_name,
                    image.where,
                    follow_links=self._source.follow_links,
                )
                record = self._record(image, entry, split)
                if record is None:
                    builders[split].skip("without_regions")
                    continue
                builders[split].add(StoredImage(path), record)
                self._draw.note(task, image.id)
        return {split: builder.build() for split, builder in builders.items()}

    def _image_of(self, entry: Entry) -> ImageEntry:
        identifier = entry.identifier("image_id" if entry.has("image_id") else "id")
        if identifier not in self._images:
            raise DataError(
                f"{entry.where}: image {identifier} is not in {self._source.image_data}",
                "unknown image",
            )
        return self._images[identifier]

    def _record(self, image: ImageEntry, entry: Entry, split: str) -> ImageRecord | None:
        """Build an image's row; None if it has no region that can be used."""
        objects: dict[Box, int] = {}
        expressions: list[Expression] = []
        for region in entry.entries("regions"):
            with self._faults.row(split, region.where):
                text = checked_caption(
                    region.get("phrase", str), self._source.caption_rule, region.where
                )
                box = self._box(region, image)
                index = objects.setdefault(box, len(objects))
                expressions.append(Expression(index, text))
        if not expressions:
            return None
        task = self._source.task_name
        return ImageRecord(
            image.id,
            image.file_name,
            b"",
            image.width,
            image.height,
            tuple(dict.fromkeys(expression.text for expression in expressions)),
            task,
            tuple(
                Instance(box, task, task, mask_from_box(box, image.height, image.width))
                for box in objects
            ),
            tuple(expressions),
        )

    def _box(self, region: Entry, image: ImageEntry) -> Box:
        sides = [region.raw(side) for side in ("x", "y", "width", "height")]
        x, y, width, height = four_numbers(sides, f"{region.where}: the box {sides}")
        left, top = max(x, 0.0), max(y, 0.0)
        right, bottom = min(x + width, image.width), min(y + height, image.height)
        if right <= left or bottom <= top:
            raise DataError(
                f"{region.where}: the box {sides} has no pixel in the image {image.file_name!r} of "
                f"{image.width} x {image.height} pixels",
                "box",
            )
        box = left, top, right - left, bottom - top
        self.cut_off += box != (x, y, width, height)
        return box

    def _items(self, option: str) -> Iterator[tuple[str, object]]:
        path = self._root / getattr(self._source, option)

        def report(done: int, size: int) -> None:
            if self._progress is not None:
                self._progress(f"MB of {path.name}", done, size)

        return read_items(path, f"benchmark.options.{option}", "", report)


def _read_image(entry: Entry) -> ImageEntry:
    identifier = entry.identifier("image_id" if entry.has("image_id") else "id")
    *_, folder, name = ("", "", *PurePosixPath(urlsplit(entry.get("url", str)).path).parts)
    if not folder.startswith("VG_") or not name:
        raise DataError(
            f"{entry.where}: field 'url' does not end with a folder VG_... and a file's name"
        )
    return sized_image(entry, identifier, f"{folder}/{name}")


def visual_genome_files(source: VisualGenomeSource) -> list[NeededFile]:
    """List the files that the options name."""
    return [
        NeededFile("regions", source.regions),
        NeededFile("image_data", source.image_data),
        NeededFile("images", source.images, images=True),
    ]


DATASET = preparer(VisualGenomeSource, read_visual_genome)
NEEDED = needs(VisualGenomeSource, visual_genome_files)
