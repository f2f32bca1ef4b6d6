"""An error is of several lines, or breaks the terminal that shows it, if these fail."""

import pickle

from system.errors import DataError


def test_a_message_is_one_line_that_any_terminal_shows() -> None:
    error = DataError("a.csv: cannot be read (thrift: \x0f\n  page header\r\n): mend it\n", "table")
    assert str(error) == "a.csv: cannot be read (thrift: \\x0f page header ): mend it"
    assert str(DataError("half \ud800, turned \u202e, plain ß\u00a0é")) == (
        "half \\ud800, turned \\u202e, plain ß\\xa0é"
    )
    long = str(DataError(f"a.csv, row 3: {'x' * 10**5} is no name: correct it"))
    assert len(long) < 2_000
    assert long.startswith("a.csv, row 3: xxx")
    assert long.endswith("xxx is no name: correct it")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
