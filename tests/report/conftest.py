"""A generated run, what is read of it, and its page, made once for all tests."""

from pathlib import Path

import pytest

from system.report.pages.run_page import write_report
from system.report.run_data import RunData, read_run
from tests.report.generated_run import write_run
from tests.report.page_reader import PageReader


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("report") / "demo")


@pytest.fixture(scope="session")
def data(run: Path) -> RunData:
    return read_run(run)


@pytest.fixture(scope="session")
def page(run: Path) -> PageReader:
    return PageReader.of(write_report(run))
