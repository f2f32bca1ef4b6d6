"""Pickles as Python 2's cPickle wrote them: protocol 0, texts as byte strings, in Latin-1 here."""

from typing import Any


def python2_pickle(value: Any) -> bytes:
    """Pickle lists, dictionaries with text keys, texts (up to U+00FF) and integers."""
    memo: dict[str, int] = {}
    parts: list[bytes] = []
    count = 0

    def put() -> bytes:
        nonlocal count
        count += 1
        return b"p%d\n" % count

    def save(item: Any) -> None:
        if isinstance(item, int):
            parts.append(b"I%d\n" % item)
        elif isinstance(item, str) and item in memo:
            parts.append(b"g%d\n" % memo[item])
        elif isinstance(item, str):
            parts.append(b"S" + repr(item.encode("latin-1"))[1:].encode() + b"\n" + put())
            memo[item] = count
        elif isinstance(item, list):
            parts.append(b"(l" + put())
            for element in item:
                save(element)
                parts.append(b"a")
        else:
            parts.append(b"(d" + put())
            for key, element in item.items():
                save(key)
                save(element)
                parts.append(b"s")

    save(value)
    return b"".join([*parts, b"."])
