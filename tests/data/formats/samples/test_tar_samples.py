"""Samples of a tar are lost, mixed up or taken from elsewhere, if these fail."""

import gzip
import random
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from system.data.formats.samples.tar_samples import TarSample, find_tars, tar_samples
from system.data.prepare.image_files import FILES
from system.data.shards.faults import Faults
from system.errors import DataError, PromptideError
from tests.data.tar_files import write_tar

PAIR = [("000.jpg", b"an image"), ("000.txt", b"a text")]


def read(path: Path) -> tuple[list[TarSample], list[str]]:
    """The samples of a tar, and the reasons of what was put aside."""
    faults = Faults("quarantine")
    samples = list(tar_samples(path, "train", faults))
    return samples, [fault.reason for fault in faults.found]


def test_members_of_a_key_are_a_sample_and_the_image_stays_where_it_is(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "0.tar",
        [
            ("./a/0.jpg", b"first"),
            ("./a/0.txt", "\ufeffcafé".encode()),
            ("a/1.json", b'{"caption": "one", "n": 1}'),
            ("a/1.PNG", b"second, longer"),
            ("a/1.seg.png", b"a mask of it"),
        ],
    )
    (first, second), faults = read(path)
    assert faults == []
    assert (first.file_name, first.text, first.fields) == ("a/0.jpg", "café", {})
    assert (second.file_name, second.text) == ("a/1.PNG", None)
    assert second.fields == {"caption": "one", "n": 1}
    assert [FILES.read(sample.image) for sample in (first, second)] == [b"first", b"second, longer"]


def test_members_that_are_none_of_a_sample_are_passed_over(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "0.tar",
        [("README", b"x"), ("._000.jpg", b"x"), ("__meta__/a.jpg", b"x"), *PAIR],
    )
    assert [sample.file_name for sample in read(path)[0]] == ["000.jpg"]
    assert read(path)[1] == []


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("1.txt", b"x")], "1: has no image, only txt"),
        ([("1.jpg", b"x"), ("1.jpg", b"y")], "member '1.jpg' is there twice"),
        ([("000.jpg", b"x"), ("000.txt", b"y")], "the key is used twice"),
        ([("../1.jpg", b"x")], "member '../1.jpg' leaves the tar"),
        ([("/etc/1.jpg", b"x")], "member '/etc/1.jpg' leaves the tar"),
        ([("1.jpg", b"x"), ("1.txt", b"\xff")], "member '1.txt' is no UTF-8"),
        ([("1.jpg", b"x"), ("1.json", b"[1]")], "member '1.json' is list, no object"),
        ([("1.jpg", b"x"), ("1.json", b"{")], "member '1.json' is not JSON"),
        ([("1.jpg", b"x"), ("1.json", b"[" * 100_000)], "member '1.json' is not JSON"),
    ],
)
def test_a_broken_sample_is_one_row(
    tmp_path: Path, members: Sequence[tuple[str, bytes]], reason: str
) -> None:
    """Those before and behind it go in."""
    path = write_tar(
        tmp_path / "0.tar", [*PAIR, ("x.jpg", b"x"), *members, ("z.jpg", b"x"), ("z.txt", b"z")]
    )
    samples, faults = read(path)
    assert [sample.file_name for sample in samples] == ["000.jpg", "x.jpg", "z.jpg"]
    (fault,) = faults
    assert reason in fault
    with pytest.raises(DataError):
        list(tar_samples(path, "train", Faults("stop")))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_member_that_is_no_file_is_not_followed(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        member = tarfile.TarInfo("1.jpg")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    samples, (fault,) = read(tmp_path / "0.tar")
    assert samples == []
    assert "member '1.jpg' is" in fault


def test_a_tar_that_is_cut_off_gives_what_is_whole(tmp_path: Path) -> None:
    """tarfile takes the end of a file, and a header that is none, for the end of the tar."""
    members = [(f"{n}.{kind}", bytes(700)) for n in range(3) for kind in ("jpg", "txt")]
    whole = write_tar(tmp_path / "0.tar", members).read_bytes()
    end = 6 * (512 + 1024)
    for size in range(0, end + 1, 256):
        (tmp_path / "1.tar").write_bytes(whole[:size])
        samples, faults = read(tmp_path / "1.tar")
        assert len(samples) <= size // (2 * 1536)
        assert len(faults) >= 1
    damaged = bytearray(whole)
    damaged[2 * 1536 : 2 * 1536 + 100] = b"x" * 100
    (tmp_path / "2.tar").write_bytes(damaged)
    samples, (fault,) = read(tmp_path / "2.tar")
    assert samples == []  # of the first one, more may have followed
    assert "is damaged at byte 3072" in fault
    (tmp_path / "3.tar").write_bytes(whole + whole)
    samples, (fault,) = read(tmp_path / "3.tar")
    assert len(samples) == 3
    assert "behind its end mark" in fault


def test_what_is_no_tar_is_said(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "0.tar", PAIR).read_bytes()
    for content, reason in (
        (gzip.compress(whole), "is compressed"),
        (b"", "cannot be read as a tar"),
        (b"<html>" + bytes(2000), "cannot be read as a tar"),
    ):
        (tmp_path / "1.tar").write_bytes(content)
        samples, (fault,) = read(tmp_path / "1.tar")
        assert samples == []
        assert reason in fault


def test_damaged_bytes_never_end_in_a_traceback_or_a_loop(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "0.tar", [*PAIR, ("1.jpg", b"x"), ("1.json", b"{}")]).read_bytes()
    lot = random.Random(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(lot.choice((1, 3, 30))):
            damaged[lot.randrange(len(damaged))] = lot.randrange(256)
        (tmp_path / "1.tar").write_bytes(damaged)
        for sample in read(tmp_path / "1.tar")[0]:
            assert sample.image.start + (sample.image.length or 0) <= len(whole)


def test_a_size_below_zero_does_not_lead_back(tmp_path: Path) -> None:
    """Where the size is written in base 256, tarfile would read the same member for ever."""
    header = bytearray(write_tar(tmp_path / "0.tar", PAIR).read_bytes()[:512])
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"  # -512: back to this very header
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "1.tar").write_bytes(bytes(header) + bytes(1024))
    samples, (fault,) = read(tmp_path / "1.tar")
    assert samples == []
    assert "1.tar: " in fault


def test_tars_are_named_by_ranges_lists_and_patterns(tmp_path: Path) -> None:
    for name in ("00.tar", "01.tar", "02.tar", "b/x.tar"):
        write_tar(tmp_path / name, PAIR)
    named = {
        ("{00..02}.tar",): ["00.tar", "01.tar", "02.tar"],
        ("{02,00}.tar",): ["02.tar", "00.tar"],
        ("0*.tar", "b/x.tar"): ["00.tar", "01.tar", "02.tar", "b/x.tar"],
        ("00.tar::file:01.tar",): ["00.tar", "01.tar"],
        (f"file://{tmp_path}/00.tar",): ["00.tar"],
        ("**/*.tar",): ["00.tar", "01.tar", "02.tar", "b/x.tar"],
        (str(tmp_path / "b" / "*.tar"),): ["b/x.tar"],
    }
    for patterns, names in named.items():
        assert find_tars(tmp_path, patterns, "field") == [tmp_path / name for name in names]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{00..03}.tar", r"field: .*/03\.tar does not exist"),
        ("*.tgz", r"field: .*\*\.tgz does not exist"),
        ("{00..99999999999}.tar", "names 100000000000 tars"),
        ("{00.tar", "cannot be expanded"),
        ("${HOME}/00.tar", "does not exist|cannot be expanded"),
        ("{00,00}.tar", "is named twice"),
        ("https://host/00.tar", "is no path: fetch the tars first"),
        ("pipe:cat 00.tar", "is no path"),
    ],
)
def test_a_name_that_cannot_be_is_refused(tmp_path: Path, pattern: str, message: str) -> None:
    for name in ("00.tar", "01.tar", "02.tar"):
        write_tar(tmp_path / name, PAIR)
    with pytest.raises(PromptideError, match=message):
        find_tars(tmp_path, (pattern,), "field")
