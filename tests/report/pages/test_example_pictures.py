"""Pictures of the example queries."""

import base64
import io

from PIL import Image

from system.report.pages.example_pictures import THUMBNAIL_SIDE, data_uri


def encoded(side: int, kind: str, mode: str = "RGB") -> bytes:
    content = io.BytesIO()
    Image.new(mode, (side, side // 2)).save(content, kind)
    return content.getvalue()


def test_small_picture_is_kept_as_it_is() -> None:
    """Else the report shows other pixels than the model saw."""
    content = encoded(64, "PNG")
    uri = data_uri(content)
    assert uri == f"data:image/png;base64,{base64.b64encode(content).decode()}"


def test_large_picture_is_made_small() -> None:
    """Else a page of photographs has a hundred megabytes."""
    uri = data_uri(encoded(2000, "PNG", "RGBA"))
    assert uri is not None
    head, _, content = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        assert picture.size == (THUMBNAIL_SIDE, THUMBNAIL_SIDE // 2)


def test_format_that_browsers_do_not_know_is_converted() -> None:
    """Else such images stay empty in the page."""
    uri = data_uri(encoded(64, "BMP"))
    assert uri is not None
    assert uri.startswith("data:image/png;")


def test_broken_picture_gives_none() -> None:
    """Else one broken image prevents the whole report."""
    assert data_uri(b"no picture") is None
    assert data_uri(encoded(64, "PNG")[:60]) is None
