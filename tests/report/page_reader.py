"""Reads report.html as a browser would: what runs, what it refers to, tables, embedded data."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

LIBRARY = "plotly.js"
REFERENCES = ("src", "href", "srcset", "poster", "action", "formaction", "data", "background")


class PageReader(HTMLParser):
    """The parts of a page that tests look at."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.handlers: list[str] = []  # attributes that would run a script
        self.scripts: list[str] = []  # texts of the scripts that run
        self.data: dict[str, Any] = {}  # JSON by the id of its block
        self.tables: dict[str, list[list[str]]] = {}
        self.policy = ""
        self.tags: list[str] = []
        self.targets = 0
        self.text = ""
        self.titles: list[str] = []
        self._inside: list[str] = []
        self._block: str | None = None
        self._table: list[list[str]] | None = None
        # The library is five megabytes of script: parsing it takes long and tells nothing.
        library = get_plotlyjs()
        assert page.count(library) == 1, "plotly.js must be inlined once"
        self.feed(page.replace(library, LIBRARY))
        self.close()
        self.scripts = [library if text == LIBRARY else text for text in self.scripts]

    @classmethod
    def of(cls, path: Path) -> "PageReader":
        """The page of a file."""
        return cls(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.references += [values[name] for name in REFERENCES if name in values]
        self.handlers += [name for name in values if name.startswith("on")]
        self.titles += [values["title"]] if "title" in values else []
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"]
        self.targets += values.get("class") == "target"
        if tag in ("script", "style"):
            self._inside.append(tag)
            if tag == "script" and "type" not in values:
                self.scripts.append("")
            self._block = values.get("id")
        if tag == "table" and "id" in values:
            self._table = self.tables.setdefault(values["id"], [])
        if tag == "tr" and self._table is not None:
            self._table.append([])
        if tag in ("td", "th") and self._table is not None:
            self._table[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._inside.pop()
            self._block = None
        if tag == "table":
            self._table = None

    def handle_data(self, data: str) -> None:
        if self._inside and self._block is not None:
            self.data[self._block] = json.loads(data)
        elif self._inside:
            if self._inside[-1] == "script":
                self.scripts[-1] += data
        else:
            self.text += data
            if self._table and self._table[-1]:
                self._table[-1][-1] += data.strip()

    def row(self, table: str, name: str) -> list[str]:
        """Cells of the row of a table whose first cell is `name`, without it."""
        (found,) = (row[1:] for row in self.tables[table] if row and row[0] == name)
        return found
