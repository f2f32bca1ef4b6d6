"""JSON files read piece by piece by Python's own parser, in memory that does not grow with them.

What Python's `json` writes is read: NaN and Infinity, integers of any size; a byte-order mark too.
"""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from json import JSONDecodeError, JSONDecoder
from typing import IO, Any

_CHUNK_BYTES = 1 << 18
# A number, literal or escape that is cut off by the end of what was read is an error this far
# before it at most ("-Infinity", two escapes of a surrogate pair).
_CUT_CHARACTERS = 16
_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"[-+.0-9eE]*")
_STRUCTURE = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*("?)|[\[\]{}]', re.DOTALL)
_FOREIGN = (
    (b"", "it is empty", "fetch the file again"),
    (b"\x1f\x8b", "it is compressed by gzip", "unpack it"),
    (b"PK\x03\x04", "it is a zip archive", "unpack it"),
    (b"version https://git-lfs", "it is a Git LFS pointer, not the file", "run `git lfs pull`"),
    (b"<", "it is a web page or XML", "fetch the file again"),
)
_WIDE_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


class JsonError(ValueError):
    """A file that is not JSON: the message is what is wrong with it, `remedy` what to do."""

    def __init__(self, message: str, remedy: str = "fetch the file again") -> None:
        super().__init__(message)
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for a value that is JSON but cannot be taken, and says why; `content` is what was."""

    reason: str
    content: Any = None


class JsonText:
    """A place in a JSON file, which moves on as values are read.

    `chunk_bytes` is how much is read at once, at least: all of a file whose content is one value.
    Raises: JsonError from every method, OSError.
    """

    def __init__(self, stream: IO[bytes], chunk_bytes: int = _CHUNK_BYTES) -> None:
        self._stream, self._chunk_bytes = stream, chunk_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._values = JSONDecoder(object_pairs_hook=self._object)
        self._text, self._at = "", 0
        self._ended = False
        self._before = 0  # characters that were read and forgotten
        self._contradicted: list[str] = []
        self._refuse_foreign()

    @property
    def bytes_read(self) -> int:
        """How far the file was read; some of it is ahead of the place."""
        return self._stream.tell()

    def peek(self) -> str:
        """Return the next character that is no white space, "" at the end."""
        while True:
            self._pass(_SPACE)
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._read_on()

    def value(self) -> Any:
        """Read the value here: objects, lists, texts and numbers as Python has them.

        Returns: `Unreadable` for one that is nested too deeply, holds a number of too many digits
        or an object with two different values of one field.
        """
        self.peek()
        while True:
            self._contradicted.clear()
            try:
                value, end = self._values.raw_decode(self._text, self._at)
            except JSONDecodeError as error:
                if not self._may_be_cut(error):
                    raise self._wrong(error.msg, error.pos) from error
            except RecursionError:
                self._skip()
                return Unreadable("it is nested too deeply")
            except ValueError:  # of int(), the only one besides
                self._skip()
                return Unreadable("it holds a number of too many digits")
            else:
                # "1" may be the beginning of "1e-7".
                whole = self._ended or isinstance(value, (dict, list, str))
                if whole or end + _CUT_CHARACTERS < len(self._text):
                    self._at = end
                    if self._contradicted:
                        name = self._contradicted[0]
                        reason = f"field {name!r} is there twice, with different values"
                        return Unreadable(reason, value)
                    return value
            self._read_on()

    def items(self) -> Iterator[None]:
        """Go through the list here; the caller reads each item by `value` before the next."""
        return self._members("[", "]")

    def fields(self) -> Iterator[str]:
        """Go through the names in the object here; the caller reads each value before the next."""
        for _ in self._members("{", "}"):
            if self.peek() != '"':
                raise self._wrong("Expecting property name enclosed in double quotes", self._at)
            name = self.value()
            self._take(":")
            yield name

    def finish(self) -> None:
        """Check that nothing but white space follows. Raises: JsonError."""
        if self.peek():
            raise self._wrong("Extra data", self._at)

    def _members(self, opening: str, closing: str) -> Iterator[None]:
        self._take(opening)
        if self.peek() != closing:
            yield
            while self.peek() == ",":
                self._at += 1
                yield
        if self.peek() != closing:
            raise self._wrong("Expecting ',' delimiter", self._at)
        self._at += 1

    def _take(self, character: str) -> None:
        if self.peek() != character:
            raise self._wrong(f"Expecting {character!r}", self._at)
        self._at += 1

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            for name, value in pairs:
                if made[name] != value:
                    self._contradicted.append(name)
        return made

    def _pass(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._at)
        assert match is not None  # the patterns match nothing, too
        self._at = match.end()

    def _skip(self) -> None:
        """Go behind the number, list or object here, however long or deep."""
        if self._text[self._at] not in "[{":
            self._pass(_NUMBER)
            while self._at == len(self._text) and not self._ended:
                self._read_on()
                self._pass(_NUMBER)
            return
        depth = 0
        while True:
            match = _STRUCTURE.search(self._text, self._at)
            if match is not None and match[1] != "":
                self._at = match.end()
                if match[1] is None:
                    depth += 1 if match[0] in "[{" else -1
                    if depth == 0:
                        return
                continue
            if self._ended:
                raise JsonError("it ends early")
            # From a text that is cut off, else from what comes next.
            self._at = len(self._text) if match is None else match.start()
            self._read_on()

    def _may_be_cut(self, error: JSONDecodeError) -> bool:
        near_end = error.pos + _CUT_CHARACTERS >= len(self._text)
        return not self._ended and (near_end or error.msg.startswith("Unterminated"))

    def _wrong(self, message: str, position: int) -> JsonError:
        ended = self._ended and position >= len(self._text.rstrip())
        if ended or message.startswith("Unterminated"):
            return JsonError("it ends early")
        return JsonError(f"{message} at character {self._before + position}")

    def _read_on(self) -> None:
        """Read at least as much again as is still to be understood, so that work stays linear."""
        rest = self._text[self._at :]
        data = self._stream.read(max(self._chunk_bytes, len(rest)))
        try:
            text = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            place = self._stream.tell() - len(data) + error.start
            raise JsonError(
                f"byte {error.object[error.start]:#04x} near position {place} is not UTF-8",
                "save it as UTF-8",
            ) from error
        self._before += self._at
        self._text, self._at, self._ended = rest + text, 0, not data

    def _refuse_foreign(self) -> None:
        head = self._stream.read(64)
        self._stream.seek(0)
        for mark, encoding in _WIDE_MARKS.items():
            if head.startswith(mark):
                raise JsonError(f"it is {encoding} text", "save it as UTF-8")
        if b"\0" in head[:2]:  # JSON starts with ASCII characters, which are two bytes there
            raise JsonError("it is UTF-16 or binary", "save it as UTF-8")
        start = head.removeprefix(codecs.BOM_UTF8).lstrip()
        for mark, what, remedy in _FOREIGN:
            if start.startswith(mark) if mark else not head:
                raise JsonError(what, remedy)
