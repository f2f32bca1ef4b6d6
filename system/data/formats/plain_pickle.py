"""Pickles that nobody vouches for, read as plain data or not at all."""

import struct
from pathlib import Path
from typing import Any

from system.data.formats.pickle_machine import PlainMachine
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
