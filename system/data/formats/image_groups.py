"""Rows of a table brought together by image, in a temporary database."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from system.data.prepare.temporary_files import temporary_database

_TABLE = "CREATE TABLE rows (number INTEGER PRIMARY KEY, image TEXT, place TEXT, content TEXT)"
_IDS = "CREATE TABLE ids (split TEXT, id TEXT, owner TEXT, PRIMARY KEY (split, id)) WITHOUT ROWID"
# Images come in the order of their first rows.
_GROUPED = """
SELECT MIN(number) OVER (PARTITION BY image) AS first, image, place, content FROM rows
ORDER BY first, number
"""


@dataclass(frozen=True, slots=True)
class ImageGroup:
    """One image's rows in their order, each with its place; images are numbered from 0."""

    number: int
    key: str
    rows: tuple[tuple[str, dict[str, Any]], ...]


class ImageGroups:
    """Groups rows by image, in the order of each image's first row, in a temporary database.

    Values must be what JSON can hold. For use in a `with` block.
    """

    def __init__(self) -> None:
        self._open = ExitStack()

    def __enter__(self) -> "ImageGroups":
        self._database = self._open.enter_context(temporary_database())
        self._database.execute(_TABLE)
        self._database.execute(_IDS)
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def add(self, key: str, where: str, values: dict[str, Any]) -> None:
        """Add one row of the image of that key."""
        self._database.execute(
            "INSERT INTO rows (image, place, content) VALUES (?, ?, ?)",
            (key, where, json.dumps(values)),
        )

    def claim_id(self, split: str, image_id: str, owner: str) -> bool:
        """Note whose an id is in a split. Returns: whether it is nobody else's."""
        self._database.execute(
            "INSERT OR IGNORE INTO ids VALUES (?, ?, ?)", (split, image_id, owner)
        )
        found = self._database.execute(
            "SELECT owner FROM ids WHERE split = ? AND id = ?", (split, image_id)
        )
        return bool(found.fetchone() == (owner,))

    def forget_ids(self) -> None:
        """Forget whose all ids are, before images are placed once more."""
        self._database.execute("DELETE FROM ids")

    def __iter__(self) -> Iterator[ImageGroup]:
        found = self._database.execute(_GROUPED)
        for number, (_, rows) in enumerate(groupby(found, key=lambda row: row[0])):
            own = list(rows)
            yield ImageGroup(
                number,
                own[0][1],
                tuple((place, json.loads(content)) for _, _, place, content in own),
            )
