"""Where the images of a data set lie, and how their encoded bytes are read."""

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from system.errors import DataError


@dataclass(frozen=True, slots=True)
class StoredImage:
    """Place of one image's encoded bytes: a file, or `length` bytes of one from `start` on.

    A reader of tables takes `start` as the number of the image's row.
    """

    path: Path
    start: int = 0
    length: int | None = None


class ImageReader(Protocol):
    """Reads images by their place; several threads may call it."""

    def stamp(self, image: StoredImage) -> tuple[int, int]:
        """Return the image's size in bytes and when its file was changed. Raises: OSError."""
        ...

    def read(self, image: StoredImage) -> bytes:
        """Return the encoded bytes. Raises: OSError."""
        ...


class _Files:
    """Images that are files, or stretches of files."""

    def stamp(self, image: StoredImage) -> tuple[int, int]:
        status = image.path.stat()
        size = status.st_size if image.length is None else image.length
        return size, status.st_mtime_ns

    def read(self, image: StoredImage) -> bytes:
        if image.length is None and not image.start:
            return image.path.read_bytes()
        with image.path.open("rb") as stream:
            stream.seek(image.start)
            data = stream.read(-1 if image.length is None else image.length)
        if image.length is not None and len(data) != image.length:
            raise OSError(f"ends before byte {image.start + image.length}")
        return data


#: Of data sets whose images lie on disk.
FILES: ImageReader = _Files()


def safe_image_path(folder: Path, file_name: str, where: str) -> Path:
    """Return the path of an annotated image inside its folder.

    Raises: DataError naming the annotation if the name is absolute, climbs out of the folder
    (`..`, a symbolic link) or no file of that name exists.
    """
    parts = PurePosixPath(file_name).parts
    if not parts or PurePosixPath(file_name).is_absolute() or ".." in parts or "\0" in file_name:
        raise DataError(
            f"{where}: field 'file_name' {file_name!r} leaves the image folder {folder}",
            "path",
        )
    path = folder.joinpath(*parts)
    if not os.path.isfile(path):  # Path.is_file would raise for a name that is too long
        raise DataError(
            f"{where}: the image {path} does not exist: fetch the dataset's images or correct the "
            "image folder",
            "missing image",
        )
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(
            f"{where}: field 'file_name' {file_name!r} is a link that leaves the image folder "
            f"{folder}",
            "path",
        )
    return path
