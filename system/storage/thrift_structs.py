"""Structs of Thrift's compact protocol, as the headers inside Parquet files are written.

Pyarrow reads them too, but ends the process at some that are damaged.

Source: https://github.com/apache/thrift, `doc/specs/thrift-compact-protocol.md`.
"""

from typing import Any

_STOP, _TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET = range(11)
_STRUCT = 12
_LONG_LIST = 15  # its length follows
_DEEPEST = 16  # structs in structs; those of Parquet have six


class CutShortError(ValueError):
    """The bytes end before the struct does."""


class StructReader:
    """Reads one struct from the beginning of some bytes; `place` is then where it ended.

    Raises CutShortError where the bytes end before it does, ValueError for what is no struct.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.place = 0

    def fields(self, depth: int = 0) -> dict[int, Any]:
        """Values by the number of their field: int, bytes, list, or the fields of a struct."""
        if depth > _DEEPEST:
            raise ValueError("its structs lie too deep in one another")
        found: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) & 0xF != _STOP:
            step = head >> 4
            number = number + step if step else self._integer()
            kind = head & 0xF
            found[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_TRUE, _FALSE, _BYTE):  # a boolean of a list has a byte of its own
            return self._byte()
        if kind in (_I16, _I32, _I64):
            return self._integer()
        if kind == _DOUBLE:
            return self._bytes(8)
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind in (_LIST, _SET):
            head = self._byte()
            count = head >> 4
            count = self._varint() if count == _LONG_LIST else count
            # Each has a byte at least, so that the bytes end before a count that is made up does.
            return [self._value(head & 0xF, depth) for _ in range(count)]
        if kind == _STRUCT:
            return self.fields(depth + 1)
        raise ValueError(f"its values of kind {kind} are none of Parquet's")

    def _byte(self) -> int:
        return self._bytes(1)[0]

    def _bytes(self, count: int) -> bytes:
        start, self.place = self.place, self.place + count
        if self.place > len(self.data):
            raise CutShortError("it is cut short")
        return self.data[start : self.place]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 64, 7):
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError("its numbers have more than 64 bits")

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)  # zigzag
