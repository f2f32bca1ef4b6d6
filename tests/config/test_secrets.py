"""A password in the config would stand in run directories, job lists and lists of processes."""

import pytest

from system.config.compose import composed_values
from system.errors import ConfigError
from system.submission.config import compose_submission


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("storage_path=s3://AKIA:pa55/w0rd@bucket/runs", "storage_path"),
        ("data_path=https://host/data?X-Amz-Signature=pa55", "data_path"),
        ("backbone.path=https://me:pa55@host/clip", "backbone.path"),
    ],
)
def test_a_uri_with_a_password_is_refused_without_it(override: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key}=.*AWS_ACCESS_KEY_ID") as raised:
        composed_values([override])
    assert "pa55" not in str(raised.value)
    assert "AKIA" not in str(raised.value)


def test_the_address_of_a_cluster_is_none_either() -> None:
    with pytest.raises(ConfigError, match=r"submit\.address=.*RAY_JOB_HEADERS") as raised:
        compose_submission(["submit=ray_address", "submit.address=http://me:pa55@head:8265"])
    assert "pa55" not in str(raised.value)


@pytest.mark.parametrize(
    "place",
    ["s3://bucket/runs?region=eu-west-1", "abfs://box@account.dfs.core.windows.net/runs"],
)
def test_places_that_open_nothing_are_taken(place: str) -> None:
    assert composed_values([f"storage_path={place}"])["storage_path"] == place
