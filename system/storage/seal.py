"""Seals: a CRC-32 of a whole file inside it, by which damage is known.

A seal is the text `crc32:` with eight digits, at the place that its file's format has for it; the
checksum is over all bytes of the file, with zeros for the digits. It finds damage, not forgery.
Files of earlier versions have none and are taken as they are. Each seal has two words, so that no
single flipped byte makes a file pass for one of those.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported where they are used: files are also read where these are missing
    import pyarrow as pa
    from torch import Tensor

KEY = "seal"
_OPEN = "crc32:00000000"  # what a writer puts where the digits come
_DIGITS = 8
_VALUE = rb"crc32:([0-9a-f]{8})"
_SEALED = re.compile(_VALUE.decode())


class DamagedError(Exception):
    """The bytes are not those that were written; whoever reads them knows the file's name."""


@dataclass(frozen=True)
class Seal:
    """How files of one format are sealed."""

    pattern: re.Pattern[bytes]  # its one group are the digits
    words: tuple[bytes, bytes]
    #: From where to where in a file it must lie.
    region: Callable[[bytes], tuple[int, int]]

    def fill(self, data: bytes) -> bytes:
        """The file with its checksum, from one with zeros there."""
        at = self._digits(data)
        assert at is not None, "the writer left no room for the seal"
        return b"".join((data[:at], b"%08x" % _checksum(data, at), data[at + _DIGITS :]))

    def check(self, data: bytes) -> bool:
        """Whether a file is sealed. Raises DamagedError unless it is as it was written then."""
        at = self._digits(data)
        if at is not None:
            if data[at : at + _DIGITS] != b"%08x" % _checksum(data, at):
                raise DamagedError("its checksum differs")
            return True
        start, end = self.region(data)
        if any(data.find(word, start, end) >= 0 for word in self.words):
            raise DamagedError("its checksum is unreadable")
        return False

    def foreign(self, data: bytes) -> bool:
        """Whether there is no seal where files of this format have it."""
        return self._digits(data) is None

    def _digits(self, data: bytes) -> int | None:
        found = [match.start(1) for match in self.pattern.finditer(data, *self.region(data))]
        return found[-1] if found else None  # what a user named may look like one, before it


def _checksum(data: bytes, at: int) -> int:
    view = memoryview(data)
    before = zlib.crc32(b"0" * _DIGITS, zlib.crc32(view[:at]))
    return zlib.crc32(view[at + _DIGITS :], before)


def _end(data: bytes) -> tuple[int, int]:
    return max(0, len(data) - 40), len(data)


def _start(data: bytes) -> tuple[int, int]:
    return 0, min(len("# seal \n") + len(_OPEN), len(data))


def _tensor_header(data: bytes) -> tuple[int, int]:
    """Of safetensors: 8 bytes with the header's length, then the header."""
    return 8, min(len(data), 8 + int.from_bytes(data[:8], "little"))


def _footer(data: bytes) -> tuple[int, int]:
    """Of Parquet: the footer, its length in 4 bytes, and 4 bytes of magic."""
    return max(0, len(data) - 8 - int.from_bytes(data[-8:-4], "little")), max(0, len(data) - 8)


#: The last key of an object, as `json_file` writes it.
_JSON = Seal(re.compile(rb'"seal": "' + _VALUE + rb'"\n\}\n\Z'), (b'"seal"', b'"crc32:'), _end)
#: A comment in the first line, which a cut file still has.
_YAML = Seal(re.compile(rb"\A# seal " + _VALUE + rb"\n"), (b"# seal", b"crc32:"), _start)
#: An entry of the metadata. In another one's text the quotes would be escaped.
_TENSORS = Seal(
    re.compile(rb'"seal":"' + _VALUE + rb'"'), (b'"seal":"', b'"crc32:'), _tensor_header
)
#: An entry of the footer's metadata: each text with its type and length before it.
_PARQUET = Seal(
    re.compile(rb"\x04seal\x18\x0e" + _VALUE), (b"\x04seal\x18", b"\x0ecrc32:"), _footer
)


def json_file(value: Any) -> bytes:
    """JSON as promptide writes it: an object is sealed. Raises ValueError for NaN."""
    sealed = isinstance(value, Mapping)
    content = {**value, KEY: _OPEN} if sealed else value
    data = (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()
    return _JSON.fill(data) if sealed else data


def check_json(data: bytes, value: Any) -> Any:
    """The value that `json_file` wrote, from its bytes and what they parse to.

    What another program wrote anew, with our seal in a layout of its own, is taken as it stands.
    Raises DamagedError.
    """
    ours = isinstance(value, dict)
    if not (ours and _SEALED.fullmatch(str(value.get(KEY))) and _JSON.foreign(data)):
        _JSON.check(data)
    return {key: inner for key, inner in value.items() if key != KEY} if ours else value


def yaml_file(text: str) -> bytes:
    """A YAML text, sealed in its first line."""
    return _YAML.fill(f"# seal {_OPEN}\n{text}".encode())


def check_yaml(data: bytes) -> None:
    """Raises DamagedError for a sealed YAML file that is not as it was written."""
    _YAML.check(data)


def tensor_file(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Tensors as sealed safetensors; they are on the CPU, contiguous, and share no memory."""
    from safetensors.torch import save

    return _TENSORS.fill(save(dict(tensors), metadata={**(metadata or {}), KEY: _OPEN}))


def read_tensors(data: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file, sealed or not. Raises DamagedError."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    _TENSORS.check(data)
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise DamagedError(str(error)) from error


def table_file(schema: pa.Schema, tables: Iterable[pa.Table]) -> bytes:
    """Arrow tables of one schema as sealed Parquet, one after the other."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema) as writer:
        for table in tables:
            writer.write_table(table)
        writer.add_key_value_metadata({KEY: _OPEN})
    return _PARQUET.fill(sink.getvalue().to_pybytes())


def check_table(data: bytes) -> bool:
    """Whether Parquet is sealed. Raises DamagedError if it is not as it was written then."""
    return _PARQUET.check(data)
