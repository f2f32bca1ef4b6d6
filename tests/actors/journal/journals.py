"""Small journals for the tests, and what is looked at in them."""

from pathlib import Path
from typing import Any

from actors.journal.journal import Journal
from system.storage.files import Folder


def open_journal(place: Path | str | Folder, **changes: Any) -> Journal:
    settings: dict[str, Any] = {"fingerprint": "abc", "tasks": ["animals", "food"]}
    folder = place if isinstance(place, Folder) else Folder.of(place)
    return Journal(folder, **(settings | changes))


def numbers(journal: Journal) -> list[int]:
    return [record.payload["number"] for record in journal.records]


def record_file(directory: Path, sequence: int) -> Path:
    return directory / f"{sequence:08d}.json"


def write_journal(directory: Path) -> Path:
    """A journal of a header and three entries."""
    journal = open_journal(directory)
    for number in range(3):
        journal.append("note", {"number": number, "value": 0.1})
    return directory
