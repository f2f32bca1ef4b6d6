"""Secrets out of text: credentials in URIs, and the values that a job was sent with.

Where text leaves the process (messages, the terminal, logs, tracebacks, pages) it goes through
`redacted`.
"""

import json
import logging
import re
import sys
import traceback
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

# A password may have / and @ in it, as database URIs are read; what starts with / has no user.
_USER = re.compile(r"(\w*)://([^\s/:]*)(:\S*)?@")
#: Where the part before @ opens nothing: an account's container, anonymous access, a login name.
_PLACES = ("abfs", "abfss", "wasb", "wasbs", "gs", "gcs", "hdfs", "viewfs", "ssh", "sftp")
_QUERY = re.compile(
    r"([?&][\w.%-]*(?:sig|signature|token|passwd|password|pwd|secret|credential|key)=)[^\s&#'\"<>]+",
    re.IGNORECASE,
)
_HIDDEN = "..."
_SHORTEST, _SHORTEST_WORD = 4, 9  # characters: `1`, `offline` are settings, and stand in any text

_values: dict[str, str] = {}  # text to hide -> what is shown for it
_pattern: re.Pattern[str] | None = None


def without_credentials(text: str) -> str:
    """A URI, or a message with some, with `...` for each `user:password` and signature.

    What looks like a password and is none (`host:80/path@2`) goes too.
    """
    if "://" not in text:
        return text
    return _QUERY.sub(rf"\1{_HIDDEN}", _USER.sub(_without_user, text))


def has_credentials(text: str) -> bool:
    """Whether a URI in it holds a password or a signed query."""
    return without_credentials(text) != text


def conceal(values: Mapping[str, str]) -> None:
    """From now on `redacted` shows these values by the names of their variables.

    Values that are as short as words of any text (`1`, `offline`) are left.
    """
    global _pattern
    for name, value in values.items():
        for form in _forms(value):
            _values[form] = f"<{name}>"
    longest_first = sorted(_values, key=len, reverse=True)
    _pattern = re.compile("|".join(map(re.escape, longest_first))) if _values else None


def redacted(text: str) -> str:
    """A text without concealed values and without the credentials of URIs."""
    if _pattern is not None:
        text = _pattern.sub(lambda found: _values[found[0]], text)
    return without_credentials(text)


def guard_outputs() -> None:
    """Redact what this process prints and logs, tracebacks included, whoever writes it."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _Redacting):
            setattr(sys, name, _Redacting(stream))
    factory = logging.getLogRecordFactory()
    if not getattr(factory, "redacts", False):
        logging.setLogRecordFactory(_redacting(factory))


def _redacting(factory: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    """Makes log records whose messages and tracebacks are redacted, for all handlers alike."""

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = factory(*args, **kwargs)
        with suppress(Exception):  # of a format that does not fit: the handler says so
            made.msg, made.args = redacted(made.getMessage()), None
        if made.exc_info and made.exc_info[0] is not None:
            made.exc_text = redacted("".join(traceback.format_exception(*made.exc_info)).rstrip())
            made.exc_info = None
        return made

    record.redacts = True  # type: ignore[attr-defined]
    return record


class _Redacting:
    """A text stream that redacts each write; all else is the stream's own."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redacted(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _without_user(found: re.Match[str]) -> str:
    scheme, _, password = found.groups()
    if password is None and scheme.lower() in _PLACES:
        return found[0]
    return f"{scheme}://{_HIDDEN}@"


def _forms(value: str) -> Iterator[str]:
    """A value as it may stand in a text: itself, its lines, quoted for JSON, Python or a URI."""
    for part in {value, *value.splitlines()}:
        text = part.strip()
        if len(text) < (_SHORTEST_WORD if text.isalpha() or text.isdigit() else _SHORTEST):
            continue
        yield from {
            text,
            json.dumps(text)[1:-1],
            repr(text)[1:-1],
            urllib.parse.quote(text, safe=""),
            urllib.parse.quote_plus(text),
        }
