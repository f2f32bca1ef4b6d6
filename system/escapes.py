"""Text of users (names, captions, paths) for where it goes: one function per target.

Each gives text that the target shows as it was written, and reads as nothing else. What no reader
could see or tell apart (control characters, turned directions, half characters) is spelt out as
Python's escapes, the same everywhere.
"""

import html
import re
import shlex

# C0, DEL and C1; line and paragraph separators; what turns the direction of what follows; halves
# of characters, which no encoding can write.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LATEX = {
    **{letter: f"\\{letter}" for letter in "_%&#${}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "–": "--",  # noqa: RUF001
    "−": "$-$",  # noqa: RUF001
    "±": r"$\pm$",
}
# `_` inside a word and `]` before no parenthesis are text already, and stay readable.
_MARKDOWN = re.compile(
    r"[\\`*~|<>&$!]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:])|:(?=//|\w+:)|@(?=[a-z])", re.IGNORECASE
)
# What Kubernetes' reader of YAML takes for text as well as Python's: no number in any notation.
_YAML_PLAIN = re.compile(
    r"(?!(?:y|n|yes|no|on|off|true|false|null)$)[a-z_/][\w./ -]*(?<! )", re.IGNORECASE | re.ASCII
)


def visible(text: str, keep: str = "") -> str:
    """One line of text in which every character shows; those in `keep` stay as they are."""
    return _UNSEEN.sub(lambda found: found[0] if found[0] in keep else _spelt(found[0]), text)


def terminal(text: str) -> str:
    """For a terminal: no sequence that moves its cursor, sets its title or fills its clipboard."""
    return visible(text, keep="\n\t")


def terminal_log(text: str) -> str:
    """Another process's output for a terminal: without its colours, with its progress bars."""
    return visible(_COLOURS.sub("", text), keep="\n\t\r")


def label(text: str) -> str:
    """For a label or a template of Plotly, which reads tags, links, entities and `%{names}`."""
    escaped = html.escape(visible(text), quote=False)  # it would show an escaped quote as it stands
    return escaped.replace("%{", "%&#123;")


def latex(text: str) -> str:
    """For a cell of a LaTeX table; our own signs (dash, minus, plus-minus) become its own."""
    escaped = "".join(_LATEX.get(letter, letter) for letter in visible(text))
    # Behind `\\` or a rule of the row before, these would be an argument.
    return "{}" + escaped if escaped.lstrip().startswith(("[", "*")) else escaped


def markdown(text: str) -> str:
    """For a cell or a line of Markdown, HTML in it included."""
    return _MARKDOWN.sub(lambda found: f"\\{found[0]}", visible(text))


def shell(word: str) -> str:
    """One word for a POSIX shell. Raises ValueError for what no command line can hold."""
    if "\0" in word or re.search("[\ud800-\udfff]", word):
        raise ValueError(f"{visible(word)!r} cannot be a word of a command")
    return shlex.quote(word)


def yaml_is_plain(text: str) -> bool:
    """Whether text needs no quotes for any reader of YAML, 1.1 or 1.2."""
    return _YAML_PLAIN.fullmatch(text) is not None


def _spelt(letter: str) -> str:
    return letter.encode("unicode_escape").decode()
