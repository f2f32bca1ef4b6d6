"""A job is followed to its end, whatever happens to the connection."""

import shlex
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from system import app
from system.errors import ConfigError
from system.submission import job_server as ray_api
from system.submission.job_server import JobServer
from system.submission.targets.ray_jobs import RayJobs

CHUNKS = ["one\ntwo\n", "three\n", "four\n"]


class Client:
    """A job server whose connections break after so many chunks, and which may be away."""

    def __init__(self, breaks: list[int], away: int = 0) -> None:
        self.breaks, self.away = breaks, away
        self.connections = 0

    def get_job_info(self, job: str) -> Any:
        if self.connections and self.away:
            self.away -= 1
            raise ConnectionError("refused")
        ended = self.connections > len(self.breaks)
        return SimpleNamespace(status=SimpleNamespace(is_terminal=lambda: ended))

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        self.connections += 1
        broken = self.connections <= len(self.breaks)
        for chunk in CHUNKS[: self.breaks[self.connections - 1]] if broken else ["".join(CHUNKS)]:
            yield chunk
        if broken:
            raise RuntimeError("the connection closed unexpectedly")


def server(client: Client, monkeypatch: pytest.MonkeyPatch) -> JobServer:
    monkeypatch.setattr(ray_api, "SECONDS_BETWEEN_LOOKS", 0.0)
    made = JobServer.__new__(JobServer)
    made.address = "http://head:8265"
    made._client = client  # type: ignore[assignment]
    return made


@pytest.mark.parametrize("breaks", [[], [0], [1, 0, 2], [2, 3]])
def test_every_line_is_passed_on_once_across_lost_connections(
    breaks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A follower that ends with its connection makes a job of days look failed."""
    lines: list[str] = []
    server(Client(breaks, away=2), monkeypatch).follow("job", lines.append)
    assert "".join(lines) == "".join(CHUNKS)


def test_a_cluster_that_stays_away_is_told_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_api, "PATIENCE", 0.0)
    with pytest.raises(ConfigError, match="no Ray dashboard answers"):
        server(Client([1], away=10**9), monkeypatch).follow("job", lambda _: None)


def test_the_line_that_follows_a_job_can_be_pasted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A setting with a blank would fall apart in the shell."""
    monkeypatch.setattr(RayJobs, "send", lambda *_: "job-1")
    setting = "submit.entrypoint.resources={far: 1}"
    assert app.main(["submit", "run", "submit=local", setting]) == 0
    (line,) = [text for text in capsys.readouterr().out.splitlines() if "follow it" in text]
    words = shlex.split(line.removeprefix("follow it: "))
    assert words == ["promptide", "submit", "logs", "job-1", "-f", "submit=local", setting]
