"""A job is stopped by a signal that its cluster may have taught it to ignore."""

import signal
from collections.abc import Iterator

import pytest

from system.submission.job_environment import STOPPING, hear_stop


@pytest.fixture(params=[signal.SIG_IGN, signal.SIG_DFL], ids=["ignored", "default"])
def before(request: pytest.FixtureRequest) -> Iterator[signal.Handlers]:
    kept = signal.signal(signal.SIGINT, request.param)
    yield request.param
    signal.signal(signal.SIGINT, kept)


def test_a_job_hears_what_stops_it(
    before: signal.Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would train on for a minute and be killed then; any other handler is left alone."""
    for name, value in STOPPING.items():
        monkeypatch.setenv(name, value)
    hear_stop()
    heard = signal.getsignal(signal.SIGINT)
    assert heard is (signal.default_int_handler if before is signal.SIG_IGN else before)


def test_elsewhere_an_ignored_ctrl_c_stays_ignored(
    before: signal.Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command in a script's background must not end with the terminal's Ctrl-C."""
    monkeypatch.delenv("RAY_JOB_STOP_SIGNAL", raising=False)
    hear_stop()
    assert signal.getsignal(signal.SIGINT) is before
