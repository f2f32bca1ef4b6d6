"""Inputs of the cases, on copies, and the command line that they go through."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from system.app import main
from system.data.shards.manifest import Manifest

INPUTS = Path(__file__).parent / "inputs"


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    code: int
    output: str
    error: str

    def refused(self) -> str:
        """The one line of a refusal."""
        assert self.code == 2, self.output + self.error
        (line,) = self.error.strip().splitlines()
        return line.removeprefix("error: ")

    def passed(self) -> str:
        """The output of a command that did what it was asked to."""
        assert self.code == 0, self.error
        return self.output


@dataclass(frozen=True)
class Prepared:
    """What `promptide prepare` did with a benchmark called "case"."""

    ended: Ended
    folder: Path

    def manifest(self) -> Manifest:
        """The manifest of what went in."""
        self.ended.passed()
        return Manifest.load(str(self.folder))

    def refused(self) -> str:
        """The one line of a refusal."""
        return self.ended.refused()


@pytest.fixture
def case(tmp_path: Path) -> Callable[[str], Path]:
    """Copy a case's input, links as links, and return the copy's folder."""

    def copied(name: str) -> Path:
        return Path(shutil.copytree(INPUTS / name, tmp_path / name, symlinks=True))

    return copied


@pytest.fixture
def promptide(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run a command in this process."""

    def run(*words: str) -> Ended:
        capsys.readouterr()
        code = main(words)
        printed = capsys.readouterr()
        return Ended(code, printed.out, printed.err)

    return run


@pytest.fixture
def prepare(promptide: Callable[..., Ended], tmp_path: Path) -> Callable[..., Prepared]:
    """Prepare a data set of a format, its root and other options given."""

    def prepared(dataset: str, root: Path, *options: str) -> Prepared:
        words = [f"benchmark={dataset}", "benchmark.name=case", f"data_path={tmp_path / 'data'}"]
        root_word = f"benchmark.options.root={root}"
        ended = promptide("prepare", *words, root_word, "--replace", *options)
        return Prepared(ended, tmp_path / "data" / "case")

    return prepared
