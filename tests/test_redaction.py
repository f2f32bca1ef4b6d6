"""Passwords of URIs and values that a job was sent with stay out of all text that leaves it."""

import io
import logging
import sys
import traceback
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from system import redaction
from system.errors import ConfigError, StorageError, run_redacted
from system.redaction import conceal, guard_outputs, redacted, without_credentials

SECRET = 'hunter2/+"quoted"'


@pytest.fixture
def concealed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that was sent with SECRET, and one that was not after it."""
    monkeypatch.setattr(redaction, "_values", {})
    monkeypatch.setattr(redaction, "_pattern", None)
    factory = logging.getLogRecordFactory()
    conceal({"MY_TOKEN": SECRET})
    yield
    logging.setLogRecordFactory(factory)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:pa55@host:5000/x", "https://...@host:5000/x"),
        ("(https://pa55@host) is gone", "(https://...@host) is gone"),
        ("mysql+pymysql://me:pa55/pa55@host/db", "mysql+pymysql://...@host/db"),
        ("http://me:pa55@pa55@host", "http://...@host"),
        ("a https://me:pa55@h b http://i:pa55@k", "a https://...@h b http://...@k"),
        ("s3://key:pa55@bucket/runs?region=eu", "s3://...@bucket/runs?region=eu"),
        ("https://h/x?a=1&X-Amz-Signature=pa55", "https://h/x?a=1&X-Amz-Signature=..."),
        ("https://h/x?sig=pa55&b=2 is gone", "https://h/x?sig=...&b=2 is gone"),
        ("'https://h/x?access_token=pa55'", "'https://h/x?access_token=...'"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("https://host/models/x@champion", "https://host/models/x@champion"),
        ("https://host:5000/x", "https://host:5000/x"),
        ("abfs://container@account.dfs.core.windows.net/x",) * 2,
        ("gs://anonymous@bucket/x?retry_limit_seconds=9",) * 2,
    ],
)
def test_only_what_opens_a_uri_is_left_out(text: str, expected: str) -> None:
    assert without_credentials(text) == expected


@pytest.mark.usefixtures("concealed")
@given(st.text(), st.text())
@example("a", "b")
def test_a_concealed_value_is_in_no_text(before: str, after: str) -> None:
    """In whatever it stands: a sentence, a Python literal, a URI's query."""
    assert SECRET not in redacted(before + SECRET + after)
    assert "hunter2" not in redacted(repr(SECRET))
    assert "hunter2" not in redacted("https://h/x?a=hunter2%2F%2B%22quoted%22")
    assert "<MY_TOKEN>" in redacted(SECRET)


def test_a_value_that_is_a_word_of_any_text_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """`WANDB_MODE=offline` in submit.env must not make logs unreadable."""
    monkeypatch.setattr(redaction, "_values", {})
    monkeypatch.setattr(redaction, "_pattern", None)
    conceal({"A": "1", "B": "offline", "KEY": "-----BEGIN-----\nMIIEvQ1234\n"})
    assert redacted("epoch 1, offline") == "epoch 1, offline"
    assert redacted("read MIIEvQ1234") == "read <KEY>"


@pytest.mark.usefixtures("concealed")
def test_what_any_code_prints_or_logs_is_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method's own print, a library's log line and its traceback."""
    out, err, log = io.StringIO(), io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    guard_outputs()
    guard_outputs()  # workers may be set up twice
    print("printed", SECRET, "end")  # noqa: T201
    logger = logging.getLogger("test_redaction")
    logger.addHandler(handler := logging.StreamHandler(log))
    try:
        try:
            raise ValueError(f"bad token {SECRET}")
        except ValueError:
            traceback.print_exc()
            logger.exception("failed with %s", SECRET)
    finally:
        logger.removeHandler(handler)
    assert out.getvalue() == "printed <MY_TOKEN> end\n"
    assert "bad token <MY_TOKEN>" in err.getvalue()
    assert "failed with <MY_TOKEN>" in log.getvalue()
    assert "ValueError: bad token <MY_TOKEN>" in log.getvalue()
    assert "hunter2" not in out.getvalue() + err.getvalue() + log.getvalue()


@pytest.mark.usefixtures("concealed")
def test_a_worker_s_error_goes_on_without_the_secret() -> None:
    """Ray stores the traceback with all causes; the driver decides by the error's type."""

    def loop(config: str) -> None:
        try:
            raise KeyError(SECRET)
        except KeyError as error:
            if config == "ours":
                raise StorageError(f"bucket/a with {SECRET} cannot be read") from error
            raise RuntimeError("inner") from error

    for config, kind in (("ours", StorageError), ("theirs", RuntimeError)):
        with pytest.raises(kind) as raised:
            run_redacted(loop, config)
        text = "".join(traceback.format_exception(raised.value))
        assert "hunter2" not in text
        assert "<MY_TOKEN>" in text


def test_an_error_without_a_secret_goes_on_as_it_is() -> None:
    error = KeyError("a")

    def loop(_: object) -> None:
        raise error

    with pytest.raises(KeyError) as raised:
        run_redacted(loop, None)
    assert raised.value is error


def test_a_message_of_ours_names_no_password() -> None:
    assert str(ConfigError("https://me:pa55@host is gone")) == "https://...@host is gone"
