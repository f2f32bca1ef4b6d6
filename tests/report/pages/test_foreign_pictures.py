"""A picture in a run that somebody sent runs nothing, and is not decoded beyond the limit."""

import io
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image, features

from system.data.shards.images import MAX_PIXELS, decode_image, web_picture
from system.errors import DataError
from system.report.pages.example_pictures import data_uri

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n"
READ = {"JPEG", "PNG", "WEBP", "BMP", "GIF"}


def saved(kind: str) -> bytes | None:
    """A picture in a format; None where Pillow does not write it here."""
    content = io.BytesIO()
    try:
        Image.new("RGB", (8, 8), "red").save(content, kind)
    except (OSError, KeyError, ValueError):
        return None
    return content.getvalue()


def test_postscript_starts_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would hand it to Ghostscript, which is a programming language's interpreter."""
    started: list[Any] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: started.append("gs"))
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **_: started.append(words))
    with Image.open(io.BytesIO(EPS)) as image:  # it is one
        assert image.format == "EPS"
    assert data_uri(EPS) is None
    for read in (decode_image, web_picture):
        with pytest.raises(DataError, match="a: the image does not decode"):
            read(EPS, "a")
    assert not started


def test_no_other_format_is_read_anywhere() -> None:
    Image.init()
    written = {kind: saved(kind) for kind in Image.SAVE if kind not in READ | {"MPO"}}
    others = {kind: data for kind, data in written.items() if data is not None}
    assert {"TIFF", "PPM", "ICO"} <= set(others)
    for data in others.values():
        assert data_uri(data) is None
    for kind in READ - (set() if features.check("webp") else {"WEBP"}):
        assert data_uri(saved(kind) or b"") is not None


def test_a_small_file_of_many_pixels_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """13,300 x 13,300 are 530 MB as RGB, from 170 KB: less than where Pillow itself refuses."""
    content = io.BytesIO()
    Image.new("1", (13_300, 13_300)).save(content, "PNG")
    assert MAX_PIXELS < 13_300**2
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("it was decoded"))
    assert data_uri(content.getvalue()) is None


@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(sorted(READ)), st.integers(0, 400), st.binary(min_size=1, max_size=8))
def test_damage_gives_a_picture_or_none(kind: str, place: int, damage: bytes) -> None:
    data = bytearray(saved(kind) or b"")
    place = min(place, len(data))
    data[place : place + len(damage)] = damage
    uri = data_uri(bytes(data))
    assert uri is None or uri.startswith("data:image/")


def test_one_place_decodes_all_pictures() -> None:
    """Its formats and its limit hold nowhere else: who opens a picture asks it."""
    root = Path(__file__).resolve().parents[3]
    opened = [
        str(file.relative_to(root))
        for room in ("system", "actors", "tuning")
        for file in sorted((root / room).rglob("*.py"))
        if "Image.open(" in file.read_text()
    ]
    # The second draws pictograms from the package's own SVGs.
    assert opened == ["system/data/embedded/pictograms.py", "system/data/shards/images.py"]
