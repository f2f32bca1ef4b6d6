"""A stream is the same one wherever it is opened, and goes on only to a later end."""

from dataclasses import replace
from pathlib import Path

import pytest

from actors.settings import StreamSettings
from system.errors import DataError
from tests.actors.streams import TASKS, make_manifest


def test_another_process_opens_the_same_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The actor's process has another working directory."""
    make_manifest(tmp_path / "data").save(str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    settings = StreamSettings("journal", "data").anywhere()
    monkeypatch.chdir("/")
    assert settings.tasks == TASKS
    assert settings.open().register("run") == 1
    assert (tmp_path / "journal").is_dir()
    with pytest.raises(DataError, match="elsewhere"):
        StreamSettings("journal", str(tmp_path / "elsewhere")).anywhere()


@pytest.mark.parametrize(
    ("earlier", "later", "goes_on"),
    [(1, 2, True), (1, None, True), (2, 1, False), (None, 1, False)],
)
def test_a_stream_goes_on_to_a_later_task_only(
    earlier: int | None, later: int | None, goes_on: bool
) -> None:
    """Else two trials could write one journal in turn."""
    settings = StreamSettings("/journal", "/data", TASKS, until=earlier)
    assert replace(settings, until=later).goes_on_from(settings) == goes_on
    other = replace(settings, until=later, journal_uri="/another")
    assert not other.goes_on_from(settings)
