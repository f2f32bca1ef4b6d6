"""Data sets of the library `datasets`: written by it, files that it reads, or from the Hub.

An image's bytes are taken as they are, without decoding: `StoredImage(split, start=row)`.
"""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from system.data.formats.folder_splits import split_named
from system.data.formats.parquet_images import TableImage
from system.data.formats.tables.layout import UNKNOWN_SPLIT, Row
from system.data.prepare.captions import class_captions
from system.data.prepare.image_files import FILES, StoredImage
from system.data.shards.faults import Faults
from system.errors import ConfigError, DataError
from system.storage.foreign_json import parse_json

_ROWS = 16  # read at once: a few MB of photographs
_CAPTIONS_OF = "captions of {}"  # name of a column that is made of one of classes
HUB = "hf://datasets/"  # what addresses on the Hub begin with

_HUB_ID = re.compile(HUB + r"([\w.-]+(?:/[\w.-]+)?)")


def _library() -> Any:
    """The library, which takes a second to import; its bars and complaints are not ours."""
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            f"benchmark.dataset=huggingface needs the package datasets ({error}): "
            "pip install 'promptide[hub]'"
        ) from error
    datasets.disable_progress_bars()
    for logger in ("datasets", "huggingface_hub"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)  # what they raise is said once
    return datasets


def open_splits(root: str, configuration: str | None, revision: str | None) -> dict[str, Any]:
    """Open a data set: {split as it calls it: Dataset}; one without splits has "train" alone.

    `root` is a directory, or hf://datasets/OWNER/NAME on the Hub; no code of it is run.
    Raises: ConfigError if the library is missing, DataError if there is no such data set.
    """
    library = _library()
    folder = Path(root).expanduser()
    local, hub = folder.is_dir(), _HUB_ID.fullmatch(root)
    if not local and hub is None:
        example = root if re.fullmatch(r"[\w.-]+/[\w.-]+", root) else "owner/name"
        raise DataError(
            f"benchmark.options.root: the folder {folder} does not exist: give one, or the address "
            f"of a data set on the Hugging Face Hub, such as {HUB}{example}"
        )
    name = str(folder) if hub is None or local else hub[1]
    saved = local and any((folder / name).exists() for name in _SAVED)
    try:
        if saved:
            _check_saved(folder)
            opened = library.load_from_disk(str(folder))
        else:
            if local:
                _check_card(folder)
            opened = library.load_dataset(name, configuration, revision=revision)
    except DataError:
        raise
    # The library raises nearly anything, over several lines and through several others.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        advice = "" if local else (
            ": it is no folder, and to be had from the Hub with a network or from its cache "
            f"(`hf download --repo-type dataset {name}` fills it)"
        )  # fmt: skip
        raise DataError(
            f"benchmark.options.root: {root} cannot be opened by datasets ({reason}){advice}"
        ) from error
    if isinstance(opened, library.Dataset):
        opened = {"train": opened}
    return dict(opened)


def _check_card(folder: Path) -> None:
    """Refuse a folder whose card sends the library to files outside of it."""
    import yaml
    from huggingface_hub import DatasetCard

    cards: list[object] = []
    if (folder / "README.md").is_file():
        cards.append(DatasetCard.load(folder / "README.md").data.to_dict())
    if (folder / ".huggingface.yaml").is_file():
        cards.append(yaml.safe_load((folder / ".huggingface.yaml").read_text(encoding="utf-8")))
    for card in cards:
        for text in _texts(card.get("configs") if isinstance(card, dict) else None):
            if "://" in text or text[:1] in ("/", "~") or ".." in re.split(r"[/\\]", text):
                raise DataError(
                    f"{folder}: its card names data files in {text!r}, which is not inside of it"
                )


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def hub_cache() -> Path:
    """The folder of files that come from the Hub."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


_SAVED = ("dataset_dict.json", "state.json")


def _check_saved(folder: Path) -> None:
    """Refuse a directory of `save_to_disk` that names files outside of itself."""
    names: list[object] = []
    places = [folder]
    if (folder / "dataset_dict.json").exists():
        splits = _saved_json(folder / "dataset_dict.json").get("splits")
        names += splits if isinstance(splits, list) else [splits]
        places = [folder / str(name) for name in names]
    for place in places:
        files = _saved_json(place / "state.json").get("_data_files")
        for entry in files if isinstance(files, list) else [files]:
            names.append(entry.get("filename") if isinstance(entry, dict) else entry)
    for name in names:
        if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\\" in name:
            raise DataError(f"{folder}: names {name!r}, which is no file or folder inside of it")


def _saved_json(path: Path) -> Mapping[str, Any]:
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}): save it again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: is no object: save it again")
    return content


class HubTable:
    """One split's rows; the values of an image column are `TableImage`s, None without an image."""

    advice = ""

    def __init__(
        self,
        path: Path,
        dataset: Any,
        folder: Path | None,
        templates: Sequence[str],
        *,
        follow_links: bool = False,
    ) -> None:
        """`path` names the split in messages; `folder` holds files that rows name, if they may.

        `templates` make captions of classes.
        """
        library = _library()
        self.path, self._folder, self._templates = path, folder, templates
        self._follow_links = follow_links
        self.columns: Sequence[str] = tuple(dataset.features)
        self.images: Sequence[str] = tuple(
            name
            for name, feature in dataset.features.items()
            if isinstance(feature, library.Image) or feature == library.Value("binary")
        )
        self.classes: Mapping[str, Sequence[str]] = {
            name: feature.names
            for name, feature in dataset.features.items()
            if isinstance(feature, library.ClassLabel)
        }
        for name in self.images:
            dataset = dataset.cast_column(name, library.Image(decode=False))
        self._dataset = dataset.with_format("arrow")

    def rows(self, columns: Sequence[str], faults: Faults) -> Iterator[Row]:
        """Go through the rows; one that cannot be read is a broken row.

        Numbers of classes become their names.
        """
        made = {_CAPTIONS_OF.format(name): name for name in self.classes}
        made = {column: name for column, name in made.items() if column in columns}
        columns = list(dict.fromkeys(made.get(column, column) for column in columns))
        wanted = self._dataset.select_columns(columns)
        for first in range(0, len(wanted), _ROWS):
            last = min(first + _ROWS, len(wanted))
            try:
                batch = list(self._batch(wanted, columns, first, last))
            except DataError:  # one by one, to tell which row it is
                batch = []
                for row in range(first, last):
                    with faults.row(split_named(self.path.name) or UNKNOWN_SPLIT, self._where(row)):
                        batch += self._batch(wanted, columns, row, row + 1)
            for row, values in batch:
                captions = {column: self._captions(values[name]) for column, name in made.items()}
                yield self._where(row), {**values, **captions}

    def _batch(
        self, wanted: Any, columns: Sequence[str], first: int, last: int
    ) -> Iterator[tuple[int, dict[str, object]]]:
        image = next((name for name in columns if name in self.images), None)
        try:
            table: pa.Table = wanted[first:last]
            table.validate(full=True)  # a damaged file could lead out of its memory
            found = None if image is None else self._images(table.column(image), first)
            rows = table.select([name for name in columns if name != image]).to_pylist()
        except (OSError, ValueError, OverflowError, pa.ArrowException) as error:
            reason = str(error).strip().partition("\n")[0]
            raise DataError(f"{self._where(first)}: cannot be read ({reason})") from error
        for number in range(last - first):
            values = {name: self._named(name, value) for name, value in rows[number].items()}
            if image is not None and found is not None:
                values[image] = found[number]
            yield first + number, values

    def _where(self, row: int) -> str:
        return f"{self.path}, row {row + 1}"

    def images_of(self, column: str) -> Callable[[int], bytes]:
        """Return what reads an image of the column by its row. It raises pyarrow's exceptions."""
        images = self._dataset.select_columns([column])

        def read(row: int) -> bytes:
            table: pa.Table = images[row : row + 1]
            table.validate(full=True)
            (value,) = table.column(column).to_pylist()
            return (value or {}).get("bytes") or b""

        return read

    @property
    def changed(self) -> int:
        """When the files that hold the split were changed last, in nanoseconds."""
        files = [entry["filename"] for entry in self._dataset.cache_files]
        return max((os.stat(name).st_mtime_ns for name in files), default=0)

    def _named(self, column: str, value: object) -> object:
        names = self.classes.get(column)
        if names is None or not isinstance(value, int):
            return value
        return names[value] if 0 <= value < len(names) else None  # -1 where there is no label

    def _captions(self, name: object) -> list[str] | None:
        if not isinstance(name, str):
            return None
        return class_captions(self._templates, name.replace("_", " "))

    def _images(self, column: pa.ChunkedArray, first: int) -> list[TableImage | None]:
        images = column.combine_chunks()
        names = images.field("path").to_pylist()
        contents = images.field("bytes")
        found: list[TableImage | None] = []
        for number, name in enumerate(names):
            data = contents[number].as_buffer() if contents[number].is_valid else None
            if images[number].is_valid and data is not None and data.size:
                digest = hashlib.sha256(data).hexdigest()
                own = None if name is None else self._own_name(name)
                found.append(TableImage(str(self.path), first + number, data.size, digest, own))
            else:
                found.append(None if name is None else self._file(name))
        return found

    def _own_name(self, name: str) -> str:
        """An image's name inside the data set's folder, if the library made it absolute."""
        path = PurePosixPath(name)
        if self._folder is not None and path.is_relative_to(self._folder):
            path = path.relative_to(self._folder)
            if "snapshots" in path.parts:  # of the Hub's cache: snapshots/REVISION/NAME
                path = PurePosixPath(*path.parts[path.parts.index("snapshots") + 2 :])
        return path.as_posix()

    def _file(self, name: str) -> TableImage | None:
        """An image that is a file of its own; None if that is not there or not the data set's."""
        if self._folder is None:
            return None
        path = Path(os.path.normpath(os.path.join(self._folder, name)))
        inside = path if self._follow_links else path.resolve()
        folder = self._folder if self._follow_links else self._folder.resolve()
        if not path.is_file() or not inside.is_relative_to(folder):
            return None
        return TableImage(str(path), 0, path.stat().st_size, str(path), self._own_name(name))


class HubTables:
    """A data set's splits as one table; `parts` are those splits."""

    advice = ""

    def __init__(self, path: Path, parts: Sequence[HubTable]) -> None:
        self.path, self.parts = path, parts
        self.columns: Sequence[str] = list(dict.fromkeys(c for part in parts for c in part.columns))
        self.images: Sequence[str] = parts[0].images

    def captions_of(self, column: str) -> str:
        """The column of captions: of classes it is one that is made of them."""
        classes = any(column in part.classes for part in self.parts)
        return _CAPTIONS_OF.format(column) if classes else column


class HubImages:
    """Reads images of some splits, or files that they name; an `ImageReader`."""

    def __init__(self, tables: Sequence[HubTable], column: str) -> None:
        self._read = {table.path: table.images_of(column) for table in tables}
        self._changed = {table.path: table.changed for table in tables}

    def stamp(self, image: StoredImage) -> tuple[int, int]:
        """Return the image's size in bytes and when its split was changed. Raises: OSError."""
        if image.path not in self._read:
            return FILES.stamp(image)
        assert image.length is not None
        return image.length, self._changed[image.path]

    def read(self, image: StoredImage) -> bytes:
        """Return the encoded bytes. Raises: OSError."""
        if image.path not in self._read:
            return FILES.read(image)
        try:
            data = self._read[image.path](image.start)
        except (ValueError, pa.ArrowException) as error:
            raise OSError(str(error)) from error
        if len(data) != image.length:
            raise OSError(f"row {image.start + 1} has changed since it was read first")
        return data
