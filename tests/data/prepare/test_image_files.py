"""Images outside of the data set, or other bytes than the image's, are read if these fail."""

import unicodedata
from pathlib import Path
from typing import Literal

import pytest

from system.data.prepare.image_files import FILES, StoredImage, safe_image_path
from system.errors import DataError

Form = Literal["NFC", "NFD"]


@pytest.mark.parametrize("name", ["../secret.png", "a/../../secret.png", "/etc/hostname", "..", ""])
def test_image_name_that_leaves_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "secret.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"^images\[0\]: .*'file_name'.*leaves the image folder"):
        safe_image_path(tmp_path / "images", name, "images[0]")


def test_link_out_of_the_folder_and_missing_image_are_refused(tmp_path: Path) -> None:
    folder, outside = tmp_path / "images", tmp_path / "outside.png"
    (folder / "a").mkdir(parents=True)
    (folder / "a/b.png").write_bytes(b"")
    outside.write_bytes(b"")
    assert safe_image_path(folder, "a/b.png", "x") == folder / "a/b.png"
    for name in ("c.png", "c" * 5000):
        with pytest.raises(DataError, match=r"x: the image .* does not exist"):
            safe_image_path(folder, name, "x")
    (folder / "c.png").symlink_to(outside)
    with pytest.raises(DataError, match=r"is a link that leaves .*options\.follow_links=true"):
        safe_image_path(folder, "c.png", "x")
    assert safe_image_path(folder, "c.png", "x", follow_links=True) == folder / "c.png"
    with pytest.raises(DataError, match="leaves the image folder"):
        safe_image_path(folder, "../outside.png", "x", follow_links=True)
    outside.unlink()
    with pytest.raises(DataError, match=r"'c\.png' is a link to .*, which is not there"):
        safe_image_path(folder, "c.png", "x", follow_links=True)


def test_link_in_a_directory_above_the_image_is_seen(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/a.png").write_bytes(b"")
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "cats").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match=r"is a link that leaves the image folder"):
        safe_image_path(folder, "cats/a.png", "x")
    (tmp_path / "other").symlink_to(folder)  # the image folder may itself be one
    (folder / "b.png").write_bytes(b"")
    assert safe_image_path(tmp_path / "other", "b.png", "x") == tmp_path / "other/b.png"


@pytest.mark.parametrize(("disk", "table"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_may_differ_in_unicode_form(tmp_path: Path, disk: Form, table: Form) -> None:
    """macOS writes decomposed names; a name that looks the same is the same."""
    place, name = (unicodedata.normalize(form, "café/ñandú é.png") for form in (disk, table))
    (tmp_path / place).parent.mkdir()
    (tmp_path / place).write_bytes(b"")
    assert safe_image_path(tmp_path, name, "x") == tmp_path / place
    same = tmp_path / name  # an exact name comes first
    same.parent.mkdir(exist_ok=True)
    same.write_bytes(b"")
    assert safe_image_path(tmp_path, name, "x") == same


def test_image_folder_one_level_too_high_is_told(tmp_path: Path) -> None:
    """As with captions.txt beside Images/: bare names, in a folder that nobody named."""
    (tmp_path / "Images").mkdir()
    (tmp_path / "Images/1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"does not exist: it is in folder 'Images' of that one"):
        safe_image_path(tmp_path, "1.png", "x")


def test_name_in_other_case_or_without_its_suffix_is_named(tmp_path: Path) -> None:
    (tmp_path / "Cats").mkdir()
    (tmp_path / "Cats/001.PNG").write_bytes(b"")
    with pytest.raises(DataError, match=r"does not exist: it is there as 'Cats/001\.PNG'"):
        safe_image_path(tmp_path, "cats/001.png", "x")
    with pytest.raises(DataError, match=r"does not exist: it is there as 'Cats/001\.PNG'"):
        safe_image_path(tmp_path, "Cats/001", "x")


def test_an_image_may_be_a_stretch_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "many.tar"
    path.write_bytes(b"0123456789")
    whole, part = StoredImage(path), StoredImage(path, 3, 4)
    assert (FILES.read(whole), FILES.read(part)) == (b"0123456789", b"3456")
    assert (FILES.stamp(whole)[0], FILES.stamp(part)[0]) == (10, 4)
    with pytest.raises(OSError, match="ends before byte 12"):
        FILES.read(StoredImage(path, 8, 4))
