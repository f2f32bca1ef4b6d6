"""Which column of a table holds what: as the user says, or by names that mean the same."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from system.data.formats.tables.layout import CSV_EXAMPLE
from system.data.prepare.annotations import shortened
from system.errors import DataError

AUTO = "auto"

_KNOWN: dict[str, tuple[str, ...]] = {
    "file_name": ("file_name", "filename", "filepath", "image", "image_name", "image_path"),
    "caption": (
        *("caption", "captions", "comment", "raw"),
        *("sentence", "sentences", "text", "title"),
    ),
    "task": ("task",),
    "split": ("split",),
    # Not "id", which numbers captions as often as images.
    "image_id": ("image_id", "img_id"),
}
_NEEDED = ("file_name", "caption")


class ColumnsOfTable(Protocol):
    """What a table tells of its columns, before any row is read."""

    @property
    def path(self) -> Path:
        """Where the table lies, for messages."""

    @property
    def columns(self) -> Sequence[str]:
        """Names of the columns."""

    @property
    def images(self) -> Sequence[str]:
        """Names of those that hold encoded images."""

    @property
    def advice(self) -> str:
        """What to do if the columns are not those that were expected, or nothing."""


@dataclass(frozen=True)
class FoundColumns:
    """The columns of a table that are read; None: there is none, or it is ignored."""

    file_name: str
    caption: str
    task: str | None
    split: str | None
    image_id: str | None

    @property
    def names(self) -> list[str]:
        """Names of the columns that are read."""
        return list(dict.fromkeys(name for name in asdict(self).values() if name is not None))


@dataclass(frozen=True)
class Columns:
    """Columns by what they hold: a name, or a number from 1 on in a table without header.

    "auto" takes a column of a known name, such as `image` or `filepath` for `file_name`; another
    name must be there. None ignores what is optional.
    """

    file_name: str | int = AUTO
    caption: str | int = AUTO
    task: str | int | None = AUTO
    split: str | int | None = AUTO
    image_id: str | int | None = AUTO

    def found_in(self, file: ColumnsOfTable) -> FoundColumns:
        """Find the columns in a table.

        Raises: DataError naming a column that must be there, or several that could be meant, and
        the columns there are.
        """
        found = {
            role: None if named is None else _find(file, role, str(named))
            for role, named in asdict(self).items()
        }
        return FoundColumns(**found)  # type: ignore[arg-type]  # needed ones are not None


def _find(file: ColumnsOfTable, role: str, named: str) -> str | None:
    option = f"benchmark.options.columns.{role}"
    if named != AUTO:
        if named in file.columns:
            return named
        raise DataError(f"{file.path}: has no column {named!r}; {_there_are(file)}: set {option}")
    found = [name for name in file.columns if name.casefold() in _KNOWN[role]]
    if role == "file_name" and file.images:
        # Encoded images are the images, whatever else a table says about them.
        found = [name for name in found if name in file.images] or list(file.images)
    if len(found) > 1:
        raise DataError(
            f"{file.path}: its columns {_listed(found)} could all be the {role}: set {option} to "
            "the one that is meant"
        )
    if found or role not in _NEEDED:
        return found[0] if found else None
    if tuple(file.columns) == ("1", "2"):  # without header
        return file.columns[_NEEDED.index(role)]
    raise DataError(
        f"{file.path}: has no column of a name known for {role} "
        f"({', '.join(_KNOWN[role])}); {_there_are(file)}: set {option}"
        f"{', or ' + file.advice if file.advice else ''}. {CSV_EXAMPLE}"
    )


def _there_are(file: ColumnsOfTable) -> str:
    return f"it has {_listed(file.columns)}"


def _listed(names: Sequence[str]) -> str:
    shown = [name if len(name) <= 40 and name.isprintable() else shortened(name) for name in names]
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(shown[:20]) + more
