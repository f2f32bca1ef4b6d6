"""Copies of a saved checkpoint with one thing changed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Edit = Callable[[Path], None]


def edited(directory: Path, tmp_path: Path, *edits: Edit) -> Path:
    copy = tmp_path / "edited"
    shutil.copytree(directory, copy)
    for edit in edits:
        edit(copy)
    return copy


def in_json(file: str, *path: str, **values: Any) -> Edit:
    def edit(directory: Path) -> None:
        content = json.loads((directory / file).read_text())
        section = content
        for key in path:
            section = section[key]
        section.update(values)
        (directory / file).write_text(json.dumps(content))

    return edit


def written(file: str, content: bytes) -> Edit:
    def edit(directory: Path) -> None:
        (directory / file).write_bytes(content)

    return edit


def removed(*files: str) -> Edit:
    def edit(directory: Path) -> None:
        for file in files:
            (directory / file).unlink()

    return edit
