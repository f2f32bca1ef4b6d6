"""Errors that a user can mend: each names the file or field and says what to do."""

import re
import traceback
from collections.abc import Callable
from typing import Any, Literal

from system.redaction import redacted

DEFAULT_KIND = "annotation"  # of a DataError that names none

#: At a broken row: the first one ends the work, or each is quarantined by name.
OnError = Literal["stop", "quarantine"]


# Characters of a message's beginning, which says where and what, and of its end, with the remedy.
_BEGINNING, _END = 1_000, 500


class PromptideError(ValueError):
    """Base of every error that is shown as one line, without a traceback.

    Libraries' messages have several lines, and names of files may hold anything: what a terminal
    would not show as text of one line is escaped, a long message loses its middle, and secrets are
    left out.
    """

    def __init__(self, message: str) -> None:
        text = re.sub(r"\s*[\r\n]\s*", " ", redacted(message.strip()))
        text = "".join(map(_shown, text))
        if len(text) > _BEGINNING + _END:
            text = f"{text[:_BEGINNING]} ... {text[-_END:]}"
        super().__init__(text)


def _shown(letter: str) -> str:
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode()


class ConfigError(PromptideError):
    """A config key or value that cannot be used."""


class DataError(PromptideError):
    """A dataset file, annotation or image that cannot be used.

    `kind` is a short name, the same for all errors of a sort, by which a summary counts them.
    """

    def __init__(self, message: str, kind: str = DEFAULT_KIND) -> None:
        super().__init__(message)
        self.kind = kind


class QuarantinedError(PromptideError):
    """Rows were quarantined: what read them starts again without them."""


class StorageError(PromptideError):
    """A storage path that cannot be written or read back."""


class BrokenStorageError(StorageError):
    """A file is damaged, or of something else: reading it again changes nothing."""


class ClusterError(PromptideError):
    """A Ray that does not come up."""


class AdapterMismatchError(PromptideError):
    """A saved adapter or checkpoint that belongs to another backbone or method setting."""


class ReplayRefusedError(PromptideError):
    """The training split of a task that is not the current one was asked for."""


class TrialsFailedError(PromptideError):
    """A sweep that went to its end, with trials that did not."""


def run_redacted(call: Callable[[Any], None], argument: Any) -> None:
    """Call; an error with a secret in its text or its causes goes on without it.

    Ray keeps tracebacks of workers where every user of the cluster reads them. What goes on is the
    PromptideError among the causes, or else a RuntimeError with the traceback as text.
    """
    try:
        call(argument)
        return
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        if redacted(text) == text:
            raise
        safe = _own(error) or RuntimeError(redacted(text))
    # Outside of the block, or the error that has the secret would be the context.
    safe.__cause__ = safe.__context__ = None
    raise safe


def _own(error: BaseException | None) -> PromptideError | None:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, PromptideError):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None
