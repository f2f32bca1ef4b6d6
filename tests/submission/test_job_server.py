"""A job is followed to its end, whatever happens to the connection."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from system import app
from system.errors import ConfigError
from system.submission import job_server
from system.submission.job_server import JobServer

ADDRESS = ["submit=ray_address", "submit.address=http://head:8265"]


def test_an_address_that_ray_would_overrule(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the job goes to another cluster than the one on the line."""
    monkeypatch.setenv("RAY_ADDRESS", "http://other:8265")
    assert app.main(["submit", "status", *ADDRESS]) == 2
    assert "RAY_ADDRESS" in capsys.readouterr().err


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
    monkeypatch.setattr(job_server, "SECONDS_BETWEEN_LOOKS", 0.0)
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
    monkeypatch.setattr(job_server, "PATIENCE", 0.0)
    with pytest.raises(ConfigError, match="no Ray dashboard answers"):
        server(Client([1], away=10**9), monkeypatch).follow("job", lambda _: None)
