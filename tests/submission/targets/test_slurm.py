"""The rendered script is sound shell that starts a cluster on its nodes and runs the command."""

import os
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tests.submission.rendered_file import NASTY, rendered

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
