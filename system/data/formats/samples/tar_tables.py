"""Tars as a table: a row per sample, with the image, the text and the fields of its JSON."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from system.data.formats.folder_splits import split_named
from system.data.formats.parquet_images import TableImage
from system.data.formats.samples.tar_samples import TarSample, tar_samples
from system.data.formats.tables.layout import Row
from system.data.shards.faults import Faults

IMAGE, TEXT, TAR_TASK = "image", "txt", "task of the tar"


@dataclass(frozen=True)
class TarTable:
    """One tar; `split` is that of its samples, None if it is not known yet."""

    path: Path
    split: str | None

    def rows(self, columns: Sequence[str], faults: Faults) -> Iterator[Row]:
        """Go through the samples; one that cannot be used is a broken row."""
        for sample in tar_samples(self.path, self.split or "unknown", faults):
            yield sample.where, {**_values(sample), TAR_TASK: tar_task(self.path)}


class TarTables:
    """Several tars; their columns are the members and fields of any sample."""

    images: Sequence[str] = (IMAGE,)
    advice = ""

    def __init__(self, path: Path, tars: Sequence[TarTable]) -> None:
        """Find the columns, for which the JSON of all samples is read; `path` is for messages."""
        self.path, self.tars = path, tars
        found: dict[str, None] = {}
        for tar in tars:
            # `rows` reports what is broken.
            for sample in tar_samples(tar.path, "unknown", Faults("quarantine")):
                found.update(dict.fromkeys(_values(sample)))
        self.columns: Sequence[str] = tuple(found)


def _values(sample: TarSample) -> Mapping[str, object]:
    image = sample.image
    # No two samples of a tar have a key in common, so the place tells images apart.
    place = f"{image.path}:{image.start}"
    values = {**sample.fields}
    if sample.text is not None:
        values[TEXT] = sample.text
    values[IMAGE] = TableImage(
        str(image.path), image.start, image.length or 0, place, sample.file_name
    )
    return values


def split_of_tar(path: Path, root: Path) -> str | None:
    """The split that a tar's directory or a word of its name says, None for none or several."""
    words = path.relative_to(root).parts[:-1] if path.is_relative_to(root) else ()
    found = {split_named(word) for word in (*words, *_words(path))} - {None}
    return found.pop() if len(found) == 1 else None


def tar_task(path: Path) -> str:
    """The task that a tar's name says: `food-train-0001.tar` and `food/train/0001.tar` are "food".

    Numbers and splits are left out; a name without more has its directory's.
    """
    for part in (path.stem, *(parent.name for parent in path.parents)):
        words = [word for word in re.split(r"[-_. ]", part) if word and split_named(word) is None]
        while words and words[-1].isdigit():
            words.pop()
        if words:
            return " ".join(words)
    return path.stem


def _words(path: Path) -> list[str]:
    return re.split(r"[-_. ]", path.stem)
