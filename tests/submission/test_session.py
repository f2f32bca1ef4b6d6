"""`promptide submit`: one clear line for each mistake, and no secret in its output."""

import shlex

import pytest

from system import app
from system.submission.targets.ray_jobs import RayJobs

SHARED = ["storage_path=/mnt/runs", "data_path=s3://bucket/data"]


def test_what_is_rendered_holds_names_and_no_values(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "hush-4711")
    for target in ("local", "slurm", "kuberay submit.options.image=i"):
        line = ["submit", "run", *SHARED, "submit.env=[WANDB_API_KEY]", "--render"]
        assert app.main([*line, *f"submit={target}".split()]) == 0
        printed = capsys.readouterr().out
        assert "WANDB_API_KEY" in printed
        assert "hush" not in printed


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("", "COMMAND"),
        ("rnu", "rnu"),
        ("run method.rnak=3", "rnak"),
        ("run submit=slrm", "slrm"),
        ("run submit.adress=http://h:1", "submit.address"),
        ("run submit.address=null", "submit.address"),
        ("run submit.address=auto", "submit.address"),
        ("run submit.options.port=3", "port"),
        ("run submit.working_dir=/nowhere", "working_dir"),
        ("run submit.env=[A=3]", "A=3"),
        ("run submit.env=[NOT_SET_HERE]", "NOT_SET_HERE"),
        ("run submit.entrypoint.cpus=-1", "cpus"),
        ("run submit.install.extras=[gold]", "gold"),
        ("run submit.install.lock=missing.txt", "missing.txt"),
        ("run --now", "--now"),
        ("run --wait --render", "--wait"),
        ("run submit=slurm", "--render"),
        ("run submit=launcher", "--render"),
        ("run submit=kuberay submit.options.image=i", "--render"),
        ("run submit=kuberay --render", "submit.options.image"),
        ("run submit=slurm submit.options.time=soon --render", "time"),
        ("run submit=slurm submit.nodes.cpus=1 cluster.workers=8 --render", "submit.nodes.cpus"),
        # six CPUs in all, and no node for a worker of four
        (
            "run submit=slurm submit.nodes.count=3 submit.nodes.cpus=2 cluster.workers=1"
            " cluster.cpus_per_worker=4 --render",
            "0 of them fit",
        ),
        ("run submit=slurm cluster.gpu=true --render", "submit.nodes.gpus"),
        ("run submit=slurm submit.entrypoint.cpus=1 --render", "submit.entrypoint"),
        ("run submit=slurm submit.install.extras=[] --render", "submit.install"),
        ("run submit=slurm submit.address=http://h:1 --render", "submit.address"),
        ("run submit=slurm submit.id=mine --render", "submit.id=mine"),
        ("run submit=kuberay submit.setup=[a] --render", "submit.setup"),
        ("run submit=kuberay submit.excludes=[/x/] --render", "submit.excludes"),
        ("run submit=kuberay submit.options.image=i --config x.yaml --render", "x.yaml"),
        ("run submit.nodes.count=3 --render", "submit.nodes.count=3"),
        ("run submit.setup=[a]", "submit.setup"),
        ("run submit=launcher submit.address=http://h:1 --render", "submit.address"),
        ("run submit=launcher submit.options.provider=null --render", "provider"),
        ("run submit.address=http://127.0.0.1:1", "submit.address"),
        ("logs", "logs"),
        ("stop a b", "stop"),
        ("status -f", "-f"),
    ],
)
def test_a_mistake_is_one_line(
    line: str, named: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "NOT_SET_HERE"):
        monkeypatch.delenv(name, raising=False)
    assert app.main(["submit", *line.split(), *(SHARED if line.startswith("run") else [])]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert named in printed
    assert len(printed.strip().splitlines()) == 1


def test_the_line_that_follows_a_job_can_be_pasted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A setting with a blank would fall apart in the shell."""
    monkeypatch.setattr(RayJobs, "send", lambda *_: "job-1")
    setting = "submit.entrypoint.resources={far: 1}"
    assert app.main(["submit", "run", "submit=local", setting]) == 0
    (line,) = [text for text in capsys.readouterr().out.splitlines() if "follow it" in text]
    words = shlex.split(line.removeprefix("follow it: "))
    assert words == ["promptide", "submit", "logs", "job-1", "-f", "submit=local", setting]
