"""The token is found where Ray finds it and alone opens what it sealed; a job can be stopped."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from system.errors import ConfigError
from system.submission import job_environment
from system.submission.job_environment import (
    STOPPING,
    VARIABLE,
    hear_stop,
    ray_token,
    seal,
    unseal,
    values_of,
)

VALUES = {"SUBMITTED_ONE": "hush $4711", "SUBMITTED_TWO": "zwei\nZeilen ü"}
guards: list[object] = []  # what `unseal` had kept out of this process's output


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a token, an environment without Ray's variables."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", VARIABLE, *VALUES):
        monkeypatch.setenv(name, "")  # put back afterwards, whatever the test does to it
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    guards.clear()
    monkeypatch.setattr(job_environment, "conceal", guards.append)
    monkeypatch.setattr(job_environment, "guard_outputs", lambda: guards.append("outputs"))
    return tmp_path


def test_the_token_is_looked_for_in_rays_order(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ray_token() is None
    (alone / ".ray").mkdir()
    (alone / ".ray" / "auth_token").write_text("of-home\n")
    assert ray_token() == "of-home"
    (alone / "file").write_text("of-file")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(alone / "file"))
    assert ray_token() == "of-file"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-variable")
    assert ray_token() == "of-variable"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert ray_token() is None


def test_a_named_token_file_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nowhere/token")
    with pytest.raises(ConfigError, match="RAY_AUTH_TOKEN_PATH"):
        ray_token()


def test_sealed_values_open_with_the_same_token(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cryptography")
    sealed = seal(VALUES, "token-a")
    assert "hush" not in sealed
    assert sealed != seal(VALUES, "token-a")  # equal values do not look equal
    monkeypatch.setenv(VARIABLE, sealed)
    with pytest.raises(ConfigError, match="no Ray token"):
        unseal()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "token-b")
    with pytest.raises(ConfigError, match="another Ray token"):
        unseal()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "token-a")
    unseal()
    assert {name: os.environ[name] for name in VALUES} == VALUES
    assert guards == [VALUES, "outputs"]


def test_nothing_sealed_is_no_error() -> None:
    unseal()


def test_a_variable_that_is_not_set_is_named() -> None:
    with pytest.raises(ConfigError, match="SUBMITTED_ONE, SUBMITTED_TWO"):
        values_of(list(VALUES))


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
