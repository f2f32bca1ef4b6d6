"""Reader of untrusted pickles that hold plain data: nothing in here can call anything.

Python's own unpickler is not used, not even with its look-up of globals shut: it hands out objects
that the process has cached for extension codes without asking, reserves memory for any memo index
that a file claims, and hashes tuples of any depth on the C stack. The opcodes of plain data are
few, so they are carried out here and everything else is refused by name (the standard library's
`pickletools` documents them all).
"""

import codecs
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from system.errors import DataError

# The published files are some tens of MB and some ten million opcodes. Each opcode makes at most
# one object, so memory stays within a few GB for the worst file that passes.
MAX_BYTES = 256 << 20
MAX_OPCODES = 50_000_000


def load_plain_pickle(path: Path, field: str) -> Any:
    """Read a pickle of lists, tuples, dictionaries, numbers and text; `field` is its config field.

    Protocols 0 to 5. The byte strings of Python 2 come out as text (UTF-8, else Latin-1).
    Raises: DataError if the file is missing, larger than `MAX_BYTES`, damaged, or holds anything
    else; the message names the global that it asked for. Nothing that a file names is imported.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(
                f"{path}: has {size:,} bytes, more than the {MAX_BYTES:,} that are read: the "
                "published files are smaller, fetch the file again"
            )
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(
            f"{field}: the file {path} does not exist: fetch the dataset's annotations or correct "
            "this field"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    machine = PlainMachine(data, str(path))
    try:
        return machine.run(MAX_OPCODES)
    except (IndexError, KeyError, OverflowError, ValueError, struct.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path}: is not a whole pickle (byte {machine.position}: "
            f"{error or type(error).__name__}): fetch the file again"
        ) from error


# Opcodes that make or name something else, or that no pickle of plain data needs.
_REFUSED = {
    **{"R": "REDUCE", "b": "BUILD", "o": "OBJ", "\x81": "NEWOBJ", "\x92": "NEWOBJ_EX"},
    **{"P": "PERSID", "Q": "BINPERSID", "0": "POP", "1": "POP_MARK", "2": "DUP"},
    **{"\x8f": "EMPTY_SET", "\x90": "ADDITEMS", "\x91": "FROZENSET", "\x96": "BYTEARRAY8"},
    **{"\x97": "NEXT_BUFFER", "\x98": "READONLY_BUFFER"},
}
_EXTENSIONS = {"\x82": "<B", "\x83": "<H", "\x84": "<i"}
_EXCERPT_CHARACTERS = 100
_KEYS = (str, int, float, type(None))


class PlainMachine:
    """Pickle's stack machine, reduced to plain values; `name` is the file's, for messages."""

    def __init__(self, data: bytes, name: str) -> None:
        self.position = 0
        self._data, self._name = data, name
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, limit: int) -> Any:
        """Carry out at most `limit` opcodes and return the value on top at the end.

        Raises: DataError naming what a file asks for besides plain values; IndexError, KeyError,
        OverflowError, ValueError or struct.error for a file that is damaged at `position`.
        """
        data, handlers = self._data, _HANDLERS
        for _ in range(limit):
            opcode = data[self.position]
            self.position += 1
            if opcode == 0x2E:  # STOP
                return self._pop()
            handler = handlers.get(opcode)
            if handler is None:
                raise self._refusal(chr(opcode))
            handler(self)
        raise DataError(
            f"{self._name}: holds more than {limit:,} values: the published files are "
            "smaller, fetch the file again"
        )

    def _pop(self) -> Any:
        if self._marks and len(self._stack) <= self._marks[-1]:
            raise ValueError("a value is missing")
        return self._stack.pop()

    def _top(self, kind: type) -> Any:
        top = self._stack[-1]
        if type(top) is not kind:
            raise ValueError(f"items are added to {type(top).__name__}, not {kind.__name__}")
        return top

    def _number(self, layout: str) -> Any:
        size = struct.calcsize(layout)
        (value,) = struct.unpack_from(layout, self._data, self.position)
        self.position += size
        return value

    def _bytes(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self._data):
            raise ValueError(f"{size} bytes are announced, the file ends before")
        value = self._data[self.position : end]
        self.position = end
        return value

    def _line(self) -> bytes:
        end = self._data.index(b"\n", self.position)
        line = self._data[self.position : end]
        self.position = end + 1
        return line

    def _since_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _push_number(self, layout: str) -> None:
        self._stack.append(self._number(layout))

    def _push_text(self, layout: str) -> None:
        self._stack.append(_text(self._bytes(self._number(layout))))

    def _push_quoted(self) -> None:
        line = self._line().strip()
        if len(line) < 2 or line[0] != line[-1] or line[:1] not in (b"'", b'"'):
            raise ValueError("a text without quotes")
        self._stack.append(_text(codecs.escape_decode(line[1:-1])[0]))

    def _push_escaped(self) -> None:
        self._stack.append(self._line().decode("raw-unicode-escape"))

    def _push_line_integer(self) -> None:
        line = self._line()
        # Python 2 writes True and False as 01 and 00.
        self._stack.append(line == b"01" if line in (b"00", b"01") else int(line))

    def _push_line_long(self) -> None:
        self._stack.append(int(self._line().rstrip(b"L")))

    def _push_line_float(self) -> None:
        self._stack.append(float(self._line()))

    def _push_long(self, layout: str) -> None:
        self._stack.append(int.from_bytes(self._bytes(self._number(layout)), "little", signed=True))

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _new_list(self) -> None:
        self._stack.append([])

    def _new_dict(self) -> None:
        self._stack.append({})

    def _mark(self) -> None:
        self._marks.append(len(self._stack))

    def _push_list(self) -> None:
        self._stack.append(self._since_mark())

    def _push_tuple(self) -> None:
        self._stack.append(tuple(self._since_mark()))

    def _push_short_tuple(self, size: int) -> None:
        items = [self._pop() for _ in range(size)]
        self._stack.append(tuple(reversed(items)))

    def _push_dict(self) -> None:
        items = self._since_mark()
        self._stack.append({})
        self._set(items)

    def _append(self) -> None:
        item = self._pop()
        self._top(list).append(item)

    def _appends(self) -> None:
        items = self._since_mark()
        self._top(list).extend(items)

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set([key, value])

    def _set_items(self) -> None:
        self._set(self._since_mark())

    def _set(self, items: list[Any]) -> None:
        target = self._top(dict)
        if len(items) % 2:
            raise ValueError("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, _KEYS):
                raise ValueError(f"a dictionary's key is {type(key).__name__}")
            target[key] = value

    def _remember(self, layout: str | None) -> None:
        index = int(self._line()) if layout is None else self._number(layout)
        self._memo[index] = self._stack[-1]

    def _remember_next(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _recall(self, layout: str | None) -> None:
        index = int(self._line()) if layout is None else self._number(layout)
        self._stack.append(self._memo[index])

    def _skip(self, size: int) -> None:
        self._bytes(size)

    def _refusal(self, opcode: str) -> DataError:
        place = self.position - 1
        if opcode in ("c", "i"):  # GLOBAL, INST
            wanted = _excerpt([_text(self._line()), _text(self._line())])
        elif opcode == "\x93":  # STACK_GLOBAL
            wanted = _excerpt(self._stack[-2:])
        elif opcode in _EXTENSIONS:
            wanted = f"the registered extension {self._number(_EXTENSIONS[opcode])}"
        elif opcode in _REFUSED:
            wanted = f"{_REFUSED[opcode]}, which no plain value needs"
        else:
            raise ValueError(f"{opcode!r} is no opcode")
        return DataError(
            f"{self._name}: asks for {wanted} (byte {place}); a pickle that may do so can run any "
            "code, so it was refused and nothing of it was run. Only lists, tuples, dictionaries, "
            "numbers and text are read: fetch the release's own file again, or save yours with "
            "plain values",
            "pickle",
        )


def _excerpt(parts: list[Any]) -> str:
    """Format a global's module and name, cut to a bounded length."""
    names = [part if isinstance(part, str) else type(part).__name__ for part in parts]
    return repr(".".join(names)[:_EXCERPT_CHARACTERS])


def _text(value: bytes) -> str:
    """Decode a text: UTF-8, which Python 3 writes, else Latin-1, as Python 2's often are."""
    try:
        return value.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return value.decode("latin-1")


_Handler = Callable[[PlainMachine], None]


def _with(method: Callable[[PlainMachine, Any], None], argument: Any) -> _Handler:
    return lambda reader: method(reader, argument)


def _handlers() -> dict[int, _Handler]:
    machine = PlainMachine
    handlers: dict[str, _Handler] = {
        **{"(": machine._mark, "]": machine._new_list, "}": machine._new_dict},
        **{"l": machine._push_list, "t": machine._push_tuple, "d": machine._push_dict},
        **{"a": machine._append, "e": machine._appends},
        **{"s": machine._set_item, "u": machine._set_items, "\x94": machine._remember_next},
        **{"S": machine._push_quoted, "V": machine._push_escaped},
        **{"I": machine._push_line_integer, "L": machine._push_line_long},
        **{"F": machine._push_line_float},
    }
    with_argument: dict[Callable[[PlainMachine, Any], None], dict[str, Any]] = {
        machine._push: {"N": None, "\x88": True, "\x89": False},
        machine._push_number: {"J": "<i", "K": "<B", "M": "<H", "G": ">d"},
        machine._push_long: {"\x8a": "<B", "\x8b": "<I"},
        # the layout is that of the length that stands before the text
        machine._push_text: {
            **{"T": "<I", "U": "<B", "X": "<I", "\x8c": "<B", "\x8d": "<Q"},
            **{"B": "<I", "C": "<B", "\x8e": "<Q"},
        },
        machine._push_short_tuple: {")": 0, "\x85": 1, "\x86": 2, "\x87": 3},
        machine._remember: {"p": None, "q": "<B", "r": "<I"},
        machine._recall: {"g": None, "h": "<B", "j": "<I"},
        machine._skip: {"\x80": 1, "\x95": 8},  # the protocol's number, a frame's length
    }
    for method, arguments in with_argument.items():
        for opcode, argument in arguments.items():
            handlers[opcode] = _with(method, argument)
    return {ord(opcode): handler for opcode, handler in handlers.items()}


_HANDLERS = _handlers()
