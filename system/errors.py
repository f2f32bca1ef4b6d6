"""Errors that a user can mend: each names the file or field and says what to do."""


class PromptideError(ValueError):
    """Base of every error that is shown as one line, without a traceback."""


class ConfigError(PromptideError):
    """A config key or value that cannot be used."""


class DataError(PromptideError):
    """A dataset file, annotation or image that cannot be used."""


class StorageError(PromptideError):
    """A storage path that cannot be written or read back."""


class AdapterMismatchError(PromptideError):
    """A saved adapter or checkpoint that belongs to another backbone or method setting."""


class ReplayRefusedError(PromptideError):
    """The training split of a task that is not the current one was asked for."""
