"""The rendered manifest is one that KubeRay takes, whatever the command holds."""

import shlex
import subprocess
from typing import Any

import jsonschema
import pytest
import yaml

from system import app
from tests.submission.rayjob_schema import RAYJOB
from tests.submission.rendered_file import NASTY, rendered

SHARED = ["storage_path=/mnt/runs", "data_path=/mnt/data", NASTY]

KUBERAY = ["submit=kuberay", "submit.options.image=registry/promptide:1"]


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["submit.nodes.count=1"],
        [
            "submit.nodes.gpus=1",
            "submit.env=[WANDB_API_KEY,HF_TOKEN]",
            "submit.options.claims={shared:/mnt}",
            "submit.entrypoint={cpus:1,gpus:1,memory_gb:0,resources:{far:1}}",
            "submit.install.extras=[lora]",
            "submit.id=mine",
        ],
    ],
)
def test_the_rayjob_has_the_fields_of_its_definition(
    capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    manifest = yaml.safe_load(rendered(capsys, *KUBERAY, *more))
    jsonschema.validate(manifest, RAYJOB)
    spec = manifest["spec"]
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert NASTY in shlex.split(spec["entrypoint"])
    runtime_env = yaml.safe_load(spec["runtimeEnvYAML"])
    assert runtime_env["env_vars"]["RAY_JOB_STOP_SIGNAL"] == "SIGINT"
    assert ("pip" in runtime_env) == bool("submit.install.extras=[lora]" in more)


WORDS = ["run_name='a-${seed};b `id` $(id) * ~ \\\\'", "method.rank=8"]


def test_the_rayjobs_words_pass_its_two_shells(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator's shell calls `ray job submit`, whose line the job's shell reads once more."""
    from click.testing import CliRunner
    from ray.dashboard.modules.job import cli

    lines: list[str] = []

    class Client:
        def submit_job(self, *, entrypoint: str, **_: Any) -> str:
            lines.append(entrypoint)
            return "job"

        def get_version(self) -> str:
            return "4"

    monkeypatch.setattr(cli, "_get_sdk_client", lambda *_, **__: Client())
    spec = yaml.safe_load(rendered(capsys, *KUBERAY, *WORDS))["spec"]
    submitted = _words_of_shell("bash", spec["entrypoint"] + " ;")
    runner = CliRunner().invoke(cli.submit, ["--address=x", "--no-wait", "--", *submitted])
    assert runner.exit_code == 0, runner.output
    (line,) = lines
    reached = _words_of_shell("sh", line)
    assert reached[:4] == ["python", "-m", "system.app", "run"]
    assert reached[4:-1] == [*SHARED, *WORDS]


def test_words_that_an_older_ray_would_expand_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before Ray quoted them, `a;b` ran `b` on the cluster."""
    older = [*KUBERAY, "submit.options.ray_version=2.52.0", "--render"]
    shared = [word for word in SHARED if word is not NASTY]
    assert app.main(["submit", "run", *shared, "method.rank=8", *older]) == 0
    capsys.readouterr()
    for word in WORDS[:1], ["stage.epochs=${seed}"]:
        assert app.main(["submit", "run", *shared, *word, *older]) == 2
        printed = capsys.readouterr().err
        assert "submit.options.ray_version=2.52.0" in printed
    wrong = ["submit.options.ray_version=nightly", "--render"]
    assert app.main(["submit", "run", *shared, *KUBERAY, *wrong]) == 2
    assert "ray_version" in capsys.readouterr().err


def _words_of_shell(shell: str, line: str) -> list[str]:
    asked = [shell, "-c", f"printf '%s\\0' {line}"]
    printed = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    return printed.split("\0")[:-1]


def test_the_definition_is_closed(capsys: pytest.CaptureFixture[str]) -> None:
    manifest = yaml.safe_load(rendered(capsys, *KUBERAY))
    manifest["spec"]["entryPoint"] = "x"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, RAYJOB)
