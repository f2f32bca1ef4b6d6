"""The request to Ray's job server."""

import pytest
import yaml

from system import app

SHARED = ["storage_path=/mnt/runs", "data_path=s3://bucket/data"]

ADDRESS = ["submit=ray_address", "submit.address=http://head:8265"]


def test_a_request_can_be_looked_at_before_it_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    entry = ["submit.entrypoint.cpus=2", "submit.entrypoint.resources={far:1}"]
    assert app.main(["submit", "sweep", "tune=lpi", *SHARED, *ADDRESS, *entry, "--render"]) == 0
    request = yaml.safe_load(capsys.readouterr().out)
    assert request["address"] == "http://head:8265"
    assert request["entrypoint_num_cpus"] == 2
    assert request["entrypoint_resources"] == {"far": 1}
    assert request["runtime_env"]["env_vars"]["RAY_JOB_STOP_SIGNAL"] == "SIGINT"
    assert "submit" not in request["entrypoint"]
