"""Passwords of URIs stay out of messages."""

import pytest

from system.loggers.logger import without_credentials


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:pa55@host:5000/x", "https://...@host:5000/x"),
        ("(https://pa55@host) is gone", "(https://...@host) is gone"),
        ("mysql+pymysql://me:pa55/pa55@host/db", "mysql+pymysql://...@host/db"),
        ("http://me:pa55@pa55@host", "http://...@host"),
        ("a https://me:pa55@h b http://i:pa55@k", "a https://...@h b http://...@k"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("https://host/models/x@champion", "https://host/models/x@champion"),
        ("https://host:5000/x", "https://host:5000/x"),
    ],
)
def test_only_who_opens_a_uri_is_left_out(text: str, expected: str) -> None:
    assert without_credentials(text) == expected
