"""Directories whose names are classes, below splits or data sets or neither."""

import os
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from system.errors import DataError

#: What is taken for an image; other files (notes, archives) are left out.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class ClassDirectory:
    """One class's images: `place` relative to the images' folder, with the split if it names one.

    `dataset` is the first directory where data sets lie side by side, else "". `name` is the
    directory's own name in Unicode's composed form, whatever the file system keeps.
    """

    place: str
    dataset: str
    split: str | None
    name: str

    @property
    def key(self) -> tuple[str, str]:
        """What makes it the same class as that of another split."""
        return self.dataset, self.name


def find_classes(
    folder: Path, split_of: Callable[[str], str | None], *, named: bool, datasets: bool
) -> list[ClassDirectory]:
    """Find the classes below a folder, sorted: by data set, split and name.

    `split_of` says which split a directory's name means; if the user `named` them, each class lies
    below one of them and other directories are left out. Else a folder whose directories mean
    splits is divided into them, and any other is not. `datasets`: the first directories are
    data sets, each with or without splits.
    Raises: DataError if there is no class, or a directory of images beside those of splits.
    """
    found: list[ClassDirectory] = []
    for dataset in _directories(folder) if datasets else [""]:
        place = folder / dataset
        directories = _directories(place)
        divided = named or _divided(place, directories, split_of)
        for directory in directories if divided else [""]:
            if divided and split_of(directory) is None:
                continue
            prefix = "/".join(part for part in (dataset, directory) if part)
            found += [
                ClassDirectory(
                    f"{prefix}/{name}" if prefix else name,
                    dataset,
                    split_of(directory) if divided else None,
                    unicodedata.normalize("NFC", name),
                )
                for name in _directories(place / directory)
            ]
    if not found:
        below = " below those of splits or data sets" if datasets or named else ""
        raise DataError(
            f"benchmark.options.images: the folder {folder} has no directories of classes{below}: "
            "each class is a directory of images, such as train/dog/001.jpg"
        )
    return found


def class_files(folder: Path, place: str) -> Iterator[tuple[str, str | None]]:
    """Go through the files of a class, sorted: each one's name and why it is left out, if it is.

    Names are relative to `folder`. Directories inside the class are searched too.
    """
    for path, directories, files in os.walk(folder / place):
        directories.sort()
        prefix = Path(path).relative_to(folder).as_posix()
        for name in sorted(files):
            reason = None
            if name.startswith("."):
                reason = "hidden_file"
            elif not name.lower().endswith(IMAGE_SUFFIXES):
                reason = "other_file"
            yield f"{prefix}/{name}", reason
        for name in directories:
            if os.path.islink(os.path.join(path, name)):
                yield f"{prefix}/{name}", "linked_directory"  # os.walk goes past it


def _directories(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error})") from error


def _divided(folder: Path, directories: list[str], split_of: Callable[[str], str | None]) -> bool:
    """Whether a folder's directories are splits: one for training is there, or all are splits."""
    known = {name: split for name in directories if (split := split_of(name)) is not None}
    if "train" not in known.values() and len(known) < len(directories):
        return False
    for name in directories:
        if name not in known and _has_image(folder, name):
            raise DataError(
                f"{folder}: the directory {name!r} holds images beside those of the splits "
                f"({', '.join(known)}): is it a split or a class? Say which directories are splits "
                "(benchmark.options.splits), or put it elsewhere"
            )
    return bool(known)


def _has_image(folder: Path, name: str) -> bool:
    return any(reason is None for _, reason in class_files(folder, name))
