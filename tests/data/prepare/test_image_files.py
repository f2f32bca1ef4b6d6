"""Images outside of the data set, or other bytes than the image's, are read if these fail."""

from pathlib import Path

import pytest

from system.data.prepare.image_files import FILES, StoredImage, safe_image_path
from system.errors import DataError


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
    with pytest.raises(DataError, match=r"is a link that leaves the image folder"):
        safe_image_path(folder, "c.png", "x")


def test_an_image_may_be_a_stretch_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "many.tar"
    path.write_bytes(b"0123456789")
    whole, part = StoredImage(path), StoredImage(path, 3, 4)
    assert (FILES.read(whole), FILES.read(part)) == (b"0123456789", b"3456")
    assert (FILES.stamp(whole)[0], FILES.stamp(part)[0]) == (10, 4)
    with pytest.raises(OSError, match="ends before byte 12"):
        FILES.read(StoredImage(path, 8, 4))
