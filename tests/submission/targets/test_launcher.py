"""The rendered file is one that Ray's launcher takes, whatever the command holds."""

import importlib.metadata
import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement

from system.submission.config import compose_submission, is_submission
from tests.submission.rendered_file import NASTY, rendered


def launcher_schema() -> Any:
    import ray.autoscaler

    return json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["submit.nodes.gpus=4", "submit.options.image=rayproject/ray:2.60.0-gpu"],
        ["submit.nodes.count=1", "submit.options.ssh_private_key='~/.ssh/key.pem'"],
        [
            "++submit.options.provider={type:local,head_ip:h,worker_ips:[a,b]}",
            "submit.options.node_types=null",
        ],
    ],
)
def test_the_launchers_file_passes_rays_schema(
    capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    text = rendered(capsys, "submit=launcher", *more)
    cluster = yaml.safe_load(text)
    jsonschema.validate(cluster, launcher_schema())
    assert cluster["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "RAY_AUTH_MODE=token" in cluster[commands][-1]
    (sent,) = [line for line in text.splitlines() if "promptide submit run" in line]
    assert NASTY in shlex.split(sent.removeprefix("#"))


def test_the_launchers_nodes_have_what_the_job_needs(capsys: pytest.CaptureFixture[str]) -> None:
    """Another Ray than that of the caller, or no torch, fails after the machines are paid for."""

    def installed(*more: str) -> tuple[list[str], list[str]]:
        commands = yaml.safe_load(rendered(capsys, "submit=launcher", *more))["setup_commands"]
        return commands[:-1], shlex.split(commands[-1])

    before, words = installed("submit.setup=[echo a]", "submit.python=/opt/bin/python")
    assert before == ["echo a"]
    assert words[:4] == ["/opt/bin/python", "-m", "pip", "install"]
    assert words[4] == f"ray[default,train,tune]=={importlib.metadata.version('ray')}"
    names = {Requirement(word).name for word in words[5:]}
    assert {"torch", "transformers", "cryptography"} <= names
    assert "peft" not in names
    _, words = installed("submit.install.extras=[lora]", "submit.options.ray_version=2.59.0")
    assert words[4] == "ray[default,train,tune]==2.59.0"
    assert "peft" in {Requirement(word).name for word in words[5:]}
    _, words = installed("submit.options.image=rayproject/ray:2.60.0")
    assert "ray" not in {Requirement(word).name for word in words[4:]}


def test_the_launchers_command_sends_the_job_as_it_was_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = [
        "submit.id=mine",
        'submit.python="/opt/bin/python"',
        "submit.env=[WANDB_API_KEY]",
        "submit.entrypoint.cpus=1.0",
        "submit.entrypoint.resources={far:1.0}",
    ]
    text = rendered(capsys, "submit=launcher", "submit.nodes.cpus=16", *asked)
    (line,) = [line for line in text.splitlines() if "promptide submit run" in line]
    words = [word for word in shlex.split(line.removeprefix("#")) if is_submission(word)]
    assert words[1:] == [
        *asked,
        "submit=ray_address",
        "submit.address=http://127.0.0.1:8265",
    ]
    assert compose_submission(words[1:]).entrypoint.resources == {"far": 1}


def test_the_schema_would_notice(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = yaml.safe_load(rendered(capsys, "submit=launcher"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**cluster, "nodes": 3}, launcher_schema())
