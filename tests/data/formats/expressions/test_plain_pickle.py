"""Code in a downloaded file runs on the user's machine, or good files are refused, if these fail.

Every malicious pickle here is first handed to Python's own unpickler, which does run it: so it is
known that the harm is real, and that what did not happen here was prevented.
"""

import copyreg
import os
import pickle
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from system.data.formats.expressions import plain_pickle
from system.data.formats.expressions.plain_pickle import load_plain_pickle
from system.errors import DataError
from tests.data.python2_pickle import python2_pickle

REFS = [
    {
        "sent_ids": [0, 1],
        "file_name": "COCO_train2014_000000581857_16.jpg",
        "ann_id": 1719310,
        "split": "train",
        "area": 0.25,
        "sentences": [{"tokens": ["the", "café"], "raw": 'The "café"\'s\n', "sent_id": -70000}],
    },
    {"nothing": None, "long": 2**70, "truth": [True, False], "pairs": ((), (1,), (1, 2, 3, 4))},
]


def write(folder: Path, content: bytes) -> Path:
    path = folder / "refs(unc).p"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_come_out_as_they_went_in(tmp_path: Path, protocol: int) -> None:
    """A user's own refs file, written by any Python, is read."""
    path = write(tmp_path, pickle.dumps(REFS, protocol))
    assert load_plain_pickle(path, "options.x") == REFS


def test_a_pickle_of_python_2_is_read_with_its_byte_strings_as_text(tmp_path: Path) -> None:
    """The published files are such: every key and word in them is a byte string."""
    content = python2_pickle([{"raw": "it's\n", "n": 3, "s": ["a", "a"]}, {"raw": "caf\xe9"}])
    expected = [{"raw": "it's\n", "n": 3, "s": ["a", "a"]}, {"raw": "café"}]
    assert pickle.loads(content, encoding="latin1") == expected  # so it is a real pickle
    assert load_plain_pickle(write(tmp_path, content), "options.x") == expected


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
    ),
    max_leaves=20,
)


@given(value=PLAIN, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_any_plain_value_is_read_as_pickle_reads_it(
    tmp_path_factory: pytest.TempPathFactory, value: Any, protocol: int
) -> None:
    """Else a file would silently mean something else here than for everybody else."""
    path = write(tmp_path_factory.getbasetemp(), pickle.dumps(value, protocol))
    assert load_plain_pickle(path, "options.x") == value


class Reduced:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


class Harm:
    """Runs a command whenever it is made or given a state, in each way that pickle knows."""

    def __new__(cls, command: str = "true") -> "Harm":
        os.system(command)
        return object.__new__(cls)

    def __setstate__(self, command: str) -> None:
        os.system(command)


EXTENSION = 0x7FFF0001


@contextmanager
def extension() -> Iterator[None]:
    """`os.system` under an extension code, as another library may have registered it."""
    copyreg.add_extension(os.system.__module__, "system", EXTENSION)
    yield
    copyreg.remove_extension(os.system.__module__, "system", EXTENSION)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


POSIX = os.system.__module__.encode()
HARM = f"c{__name__}\nHarm\n".encode()
MALICIOUS: dict[str, tuple[Callable[[str], bytes], str]] = {
    "global": (lambda c: pickle.dumps(Reduced(c), 0), r"'posix\.system'"),
    "stack-global": (lambda c: pickle.dumps(Reduced(c), 4), r"'posix\.system'"),
    "inst": (lambda c: b"(S'" + c.encode() + b"'\ni" + POSIX + b"\nsystem\n.", r"'posix\.system'"),
    "obj": (lambda c: b"(c" + POSIX + b"\nsystem\n" + text(c) + b"o.", r"'posix\.system'"),
    "newobj": (lambda c: b"\x80\x02" + HARM + text(c) + b"\x85\x81.", r"'.*\.Harm'"),
    "newobj-ex": (lambda c: b"\x80\x04" + HARM + text(c) + b"\x85}\x92.", r"'.*\.Harm'"),
    "build": (lambda c: b"\x80\x02" + HARM + b")\x81" + text(c) + b"b.", r"'.*\.Harm'"),
    "ext4": (
        lambda c: b"\x80\x02\x84" + struct.pack("<i", EXTENSION) + text(c) + b"\x85R.",
        rf"the registered extension {EXTENSION}",
    ),
    "inside": (lambda c: pickle.dumps([{"refs": [1, Reduced(c)]}], 2), r"'posix\.system'"),
}


@pytest.mark.parametrize("way", MALICIOUS)
def test_a_pickle_that_would_run_code_is_refused_unrun(tmp_path: Path, way: str) -> None:
    """The reason why this reader exists."""
    make, wanted = MALICIOUS[way]
    harm = tmp_path / "harm"
    with extension() if way == "ext4" else nullcontext():
        content = make(f"touch {harm}")
        pickle.loads(content)
        assert harm.exists(), "this pickle is not malicious"
        harm.unlink()
        path = write(tmp_path, content)
        with pytest.raises(DataError, match=rf"refs\(unc\)\.p: asks for {wanted}.*nothing of it"):
            load_plain_pickle(path, "options.x")
    assert not harm.exists()


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (np.int64(3), r"numpy.*\.scalar'"),
        (np.dtype("f4"), r"numpy.*dtype"),
        (OrderedDict(a=1), r"collections\.OrderedDict'"),
        (date(2024, 1, 1), r"datetime\.date'"),
        ({1, 2}, r"EMPTY_SET"),
        (bytearray(b"x"), r"builtins\.bytearray'"),
    ],
)
def test_what_is_no_plain_value_is_refused_by_name(tmp_path: Path, value: Any, wanted: str) -> None:
    """A user who saved arrays learns which class it was, and what to do."""
    path = write(tmp_path, pickle.dumps(value, 4))
    with pytest.raises(DataError, match=rf"asks for .*{wanted}.*save yours with plain values"):
        load_plain_pickle(path, "options.x")


NESTED_KEY = b"\x80\x02})" + b"\x85" * 300_000 + b"K\x01s."

DAMAGED = {
    "empty": b"",
    "text": b"<html>404</html>",
    "cut": pickle.dumps(REFS, 2)[:-40],
    "persistent id": b"Psome id\n.",
    "binary persistent id": b"K\x01Q.",
    "8 EB of text": b"\x8d" + struct.pack("<Q", 1 << 62) + b"x.",
    "2 GB of text": b"T" + struct.pack("<i", -1) + b"x.",
    "2 GB of integer": b"\x8b" + struct.pack("<i", 1 << 30) + b"x.",
    "8 EB of bytearray": b"\x96" + struct.pack("<Q", 1 << 62) + b"x.",
    "unknown memo": b"h\x05.",
    "no mark": b"K\x01t.",
    "value below a mark": b"K\x01(\x85.",
    "list as key": b"}]K\x01s.",
    "key without value": b"}(K\x01u.",
    "items of a number": b"K\x01K\x02a.",
    "too many digits": b"I" + b"9" * 5000 + b"\n.",
    "a tuple that would be hashed 300,000 deep": NESTED_KEY,
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_and_absurd_files_are_refused_at_once(tmp_path: Path, content: bytes) -> None:
    """Else they take the memory or the process, or end in a traceback."""
    path = write(tmp_path, content)
    started = time.perf_counter()
    with pytest.raises(DataError, match=r"refs\(unc\)\.p: (is not a whole pickle|asks for )"):
        load_plain_pickle(path, "options.x")
    assert time.perf_counter() - started < 20


def test_a_far_memo_index_takes_no_memory(tmp_path: Path) -> None:
    """Python's own unpickler reserves 16 bytes for each index below the one that is claimed."""
    path = write(tmp_path, b"K\x07r\xff\xff\xff\xff.")
    assert load_plain_pickle(path, "options.x") == 7


def test_missing_and_oversized_files_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message must lead to the field or the file."""
    with pytest.raises(DataError, match=r"options\.x: the file .*no\.p does not exist: fetch"):
        load_plain_pickle(tmp_path / "no.p", "options.x")
    path = write(tmp_path, pickle.dumps(list(range(50)), 2))
    monkeypatch.setattr(plain_pickle, "MAX_OPCODES", 20)
    with pytest.raises(DataError, match=r"holds more than 20 values"):
        load_plain_pickle(path, "options.x")
    monkeypatch.setattr(plain_pickle, "MAX_BYTES", 100)
    with pytest.raises(DataError, match=r"bytes, more than the 100 that are read"):
        load_plain_pickle(path, "options.x")
