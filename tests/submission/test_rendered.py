"""Rendered files are what Ray's launcher, KubeRay and Slurm take, whatever the command holds."""

import importlib.metadata
import json
import os
import shlex
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement

from system import app
from system.submission.config import compose_submission, is_submission
from tests.submission.rayjob_schema import RAYJOB

NASTY = 'run_name="it\'s $HOME `id`: # {{x}} %s"'
SHARED = ["storage_path=/mnt/runs", "data_path=/mnt/data", NASTY]
KUBERAY = ["submit=kuberay", "submit.options.image=registry/promptide:1"]


def rendered(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert app.main(["submit", "run", *SHARED, *arguments, "--render"]) == 0
    return capsys.readouterr().out


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
        'submit.env=["WANDB_API_KEY"]',
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
        shown = capsys.readouterr().err
        assert "submit.options.ray_version=2.52.0" in shown
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


SLURM = [
    "submit=slurm",
    "submit.env=[WANDB_API_KEY]",
    "submit.nodes.gpus=1",
    "submit.setup=['echo set up \"$CONDA_PREFIX_1\"']",  # not set, as when conda activates
    "submit.options={partition:gpu,account:lab,directives:['--constraint=a100']}",
]


def test_the_slurm_script_is_sound_shell(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    script = tmp_path / "job.sh"
    script.write_text(rendered(capsys, *SLURM))
    subprocess.run(["bash", "-n", str(script)], check=True)
    checker = shutil.which("shellcheck", path=_path_with_own_scripts())
    if checker is None:
        pytest.skip("shellcheck is not installed: pip install 'promptide[dev]'")
    checked = subprocess.run([checker, str(script)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    assert "#SBATCH --partition=gpu" in script.read_text()


def test_the_slurm_script_starts_a_node_each_and_the_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Run by bash, with stand-ins for Slurm's and Ray's programs that note what they are asked."""
    notes = tmp_path / "notes"
    all_there = f'until [ "$(grep -c ^ray {notes})" = "$2" ]; do sleep 0.1; done'
    environment = _stand_ins(tmp_path, notes, all_there)
    script = tmp_path / "job.sh"
    script.write_text(rendered(capsys, *SLURM, "submit.nodes.count=3"))
    done = subprocess.run(
        ["bash", str(script)], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 7, done.stderr  # the command's own
    assert "waiting for 3 nodes at 10.0.0.1:6379" in done.stdout
    rays = [line.split() for line in notes.read_text().splitlines() if line.startswith("ray")]
    assert {line[1] for line in rays} == {"the-token"}
    assert sorted("--head" in line for line in rays) == [False, False, True]
    (command,) = [line for line in notes.read_text().splitlines() if line.startswith("python")]
    assert NASTY in shlex.split(command)
    assert shlex.split(command)[-1] == "10.0.0.1:6379"
    assert "hush" not in done.stdout + done.stderr + script.read_text()
    without = subprocess.run(
        ["bash", str(script)],
        env={**environment, "WANDB_API_KEY": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert without.returncode != 0
    assert "WANDB_API_KEY" in without.stderr


def test_nodes_that_do_not_come_are_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    environment = _stand_ins(tmp_path, tmp_path / "notes", "exec sleep 60")
    script = tmp_path / "job.sh"
    script.write_text(rendered(capsys, *SLURM, "submit.options.start_seconds=1"))
    done = subprocess.run(
        ["bash", str(script)], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 124
    assert "error: 1 seconds (submit.options.start_seconds)" in done.stderr
    assert "system.app" not in (tmp_path / "notes").read_text()


def _stand_ins(folder: Path, notes: Path, waits: str) -> dict[str, str]:
    """An environment with programs for Slurm's and Ray's; `waits`: until all nodes are there."""
    programs = folder / "bin"
    programs.mkdir()
    notes.touch()
    words = '"$(basename "$0")" "${RAY_AUTH_TOKEN:-none}" "$@" "${RAY_ADDRESS:-}"'
    asks = f'printf "%s\\n" "$(printf "%q " {words})" >> {notes}'
    _program(programs / "scontrol", "printf 'n1\\nn2\\nn3\\n'")
    _program(programs / "srun", 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"')
    _program(programs / "hostname", "echo fe80::1 10.0.0.1 10.0.0.2")
    _program(programs / "ray", f"{asks}; exec sleep 60")
    _program(
        programs / "python",
        'if [ "$1" = -c ]; then echo the-token; elif [ "$1" = - ]; then cat > /dev/null; '
        f"{waits}; else {asks}; exit 7; fi",
    )
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "n[1-3]",
        "WANDB_API_KEY": "hush-4711",
    }


def _program(file: Path, body: str) -> None:
    file.write_text(f"#!/bin/bash\n{body}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


def _path_with_own_scripts() -> str:
    """The search path, and where this environment's packages put their programs."""
    import sysconfig

    return f"{sysconfig.get_path('scripts')}:{os.environ.get('PATH', '')}"
