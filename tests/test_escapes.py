"""Text of users is text wherever it goes: checked with the readers of each target."""

import html
import io
import re
import shlex
import subprocess
from html.parser import HTMLParser

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.table import Table
from rich.text import Text

from system.escapes import (
    label,
    latex,
    markdown,
    shell,
    terminal,
    terminal_log,
    visible,
    yaml_is_plain,
)
from system.report.pages.page_shell import model_page
from system.report.terminal.console import PlainConsole
from system.submission.job import yaml_text

#: All of Unicode, halves of characters among it, and what the targets read.
ANY = st.text(st.characters(codec=None)) | st.text(
    st.sampled_from("\\`*_{}[]()<>#+-.!|~$&^%\"'=@:/; ab1\n\r\t\x1b\x9b\x07\0\u202e\u2028\ud800")
)
ATTACKS = (
    "\x1b]0;title\x07\x1b[2J",
    "[red]a[/red] :smile: [link=file:///etc]x[/link]",
    "<script>alert(1)</script>",
    "<a href='javascript:x'>y</a> %{x} %{customdata[0]}",
    r"\input{/etc/passwd} \write18{id} $x^2$ 50% #1 {",
    "=cmd|'/c calc'!A0",
    "$(id) `id` ; rm -rf ~ && x\n#SBATCH --x",
    "a: [1, 2] # b\n- !!python/object:os.system",
    "![x](https://h/p.png) | `c` | **b** | _e_ | <https://h>",
)


def attacked(test):  # type: ignore[no-untyped-def]
    for attack in ATTACKS:
        test = example(attack)(test)
    return given(ANY)(test)


@attacked
def test_every_character_shows(text: str) -> None:
    """No control sequence, turned line or second line; and any encoding can write it."""
    shown = visible(text)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", shown)
    shown.encode()
    assert visible(shown) == shown
    assert all(letter in shown for letter in text if letter.isprintable())


def test_scripts_and_emoji_stay_as_they_are() -> None:
    """Joiners and wide spaces are part of how a language is written."""
    text = "می‌خواهم 👩‍🚀 日本　語 é שלום"
    assert visible(text) == terminal(text) == label(text) == markdown(text) == text


@attacked
def test_a_terminal_gets_no_sequence(text: str) -> None:
    """Neither by a line nor by a table's cell: a file's name would retitle it or hide a line."""
    for console_is_terminal in (True, False):
        out = io.StringIO()
        console = PlainConsole(file=out, force_terminal=console_is_terminal, width=10_000)
        table = Table()
        table.add_column(Text(text))
        table.add_row(text)
        console.print(text)
        console.print(table)
        own = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())  # Rich's own colours
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", own)


def test_a_table_shows_markup_as_it_was_written() -> None:
    out = io.StringIO()
    table = Table()
    table.add_row("[red]a[/red] :smile:")
    PlainConsole(file=out, width=80).print("[b]x[/b]", table)
    assert "[b]x[/b]" in out.getvalue()
    assert "[red]a[/red] :smile:" in out.getvalue()


def test_a_job_s_output_keeps_its_lines_and_bars() -> None:
    text = "\x1b[36m(pid=1)\x1b[0m 10%\r20%\n\x1b]52;c;ZXZpbA==\x07"
    assert terminal_log(text) == "(pid=1) 10%\r20%\n\\x1b]52;c;ZXZpbA==\\x07"


class _Read(HTMLParser):
    """What a browser makes of a page: its elements, and the text of the first heading."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.heading: list[str] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        self._inside = tag == "h1"

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.heading.append(data)


@settings(max_examples=40, deadline=None)
@attacked
def test_a_page_has_the_text_and_no_element_of_it(text: str) -> None:
    def page(name: str) -> _Read:
        made = model_page("masks.html", name, {name: name}, grid="", per_task={name: 0.5})
        made.encode()  # as it is written
        return _Read(made)

    read = page(text)
    assert "".join(read.heading) == visible(text, keep="\n\t")
    assert read.tags == page("plain").tags


@attacked
def test_a_chart_s_label_has_no_tag_and_no_template(text: str) -> None:
    made = label(text)
    assert not re.search(r"<|>|%\{", made)
    assert html.unescape(made) == visible(text)


@attacked
def test_latex_gets_no_command_of_a_text(text: str) -> None:
    """Every letter with a meaning is one of LaTeX's own names for that letter."""
    own = (
        r"\\textbackslash\{\}|\\textasciitilde\{\}|\\textasciicircum\{\}|\\textless\{\}"
        r"|\\textgreater\{\}|\\textbar\{\}|\\textquotedbl\{\}|\\textasciigrave\{\}"
        r"|\\[_%&#${}]|\$-\$|\$\\pm\$"
    )
    made = latex(text).removeprefix("{}")
    assert not re.search(r'[\\{}$%&#_^~"`<>|\n\r]', re.sub(own, "", made))
    assert not re.match(r"\s*[\[*]", latex(text))  # an argument of the `\\` before


@attacked
def test_markdown_shows_the_text(text: str) -> None:
    """As a cell of a table, with HTML and links switched on."""
    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    tokens = reader.parse(f"| head |\n|---|\n| {markdown(text)} |\n")
    cells = [token for token in tokens if token.type == "inline"]
    assert len(cells) == 2, "it has made a row or a column of its own"
    children = cells[1].children or []
    assert {child.type for child in children} <= {"text", "text_special"}
    assert "".join(child.content for child in children).strip() == visible(text).strip()


@settings(max_examples=25, deadline=None)
@attacked
def test_a_shell_takes_it_for_one_word(text: str) -> None:
    if "\0" in text or re.search("[\ud800-\udfff]", text):
        with pytest.raises(ValueError, match="cannot be a word"):
            shell(text)
        return
    assert shlex.split(shell(text)) == [text]
    done = subprocess.run(["sh", "-c", f"printf %s {shell(text)}"], capture_output=True)
    assert done.stdout.decode() == text


@attacked
@example("1e3")
@example("0o17")
@example("y")
@example("12:30:45")
@example(".inf")
@example("\x85\u2028")
def test_yaml_gives_the_text_back(text: str) -> None:
    if re.search("[\ud800-\udfff]", text):
        return  # no file can hold it
    made = yaml_text({"key": [text], "of": {text or "k": 1}}, f"comment {text}")
    made.encode()
    assert yaml.safe_load(made) == {"key": [text], "of": {text or "k": 1}}
    first = made.splitlines()[0]
    assert first.startswith("# comment")


@pytest.mark.parametrize(
    "text", ["1e3", "0x1F", "1_000", "on", "Y", "NULL", "~", ".5", "-", "=", ""]
)
def test_what_some_reader_of_yaml_takes_for_no_text_is_quoted(text: str) -> None:
    """Kubernetes refuses a number where a name belongs; PyYAML alone would not quote `1e3`."""
    assert not yaml_is_plain(text)
    assert yaml_text({"name": text}).splitlines() == [f"name: '{text}'"]
