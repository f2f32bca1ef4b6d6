"""Errors that a user can mend: each names the file or field and says what to do."""

from typing import Literal

DEFAULT_KIND = "annotation"  # of a DataError that names none

#: At a broken row: the first one ends the work, or each is quarantined by name.
OnError = Literal["stop", "quarantine"]


class PromptideError(ValueError):
    """Base of every error that is shown as one line, without a traceback."""


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
