"""What `promptide submit` makes of a line: a job that finds its files, or one clear error."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from system import app
from system.errors import ConfigError
from system.submission.command import JobCommand
from system.submission.config import SubmitConfig, compose_submission
from system.submission.job import Job

SHARED = ["storage_path=/mnt/runs", "data_path=s3://bucket/data"]
ADDRESS = ["submit=ray_address", "submit.address=http://head:8265"]


def job(*arguments: str, submit: Sequence[str] = ADDRESS, name: str = "run") -> Job:
    config = compose_submission(submit)
    return Job(JobCommand.checked(name, arguments, None, config, False), config)


def words(sent: Job) -> list[str]:
    return shlex.split(sent.command.line)


def test_the_job_gets_the_command_as_it_was_typed() -> None:
    """Quotes, blanks and dollars come out of the job's shell as they went in."""
    given = ['run_name="it\'s $HOME; a b"', "method.rank=8", *SHARED]
    assert words(job(*given)) == [
        *("python", "-m", "system.app", "run"),
        *given,
        "cluster.address=auto",  # the job's own cluster, and not one inside of it
    ]


def test_an_address_of_the_users_own_stays() -> None:
    assert words(job(*SHARED, "cluster.address=null"))[-1] == "cluster.address=null"


def test_on_the_same_machine_relative_places_are_those_of_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job's working directory is a copy: what it wrote there would be lost."""
    monkeypatch.chdir(tmp_path)
    sent = words(job("storage_path=my runs", submit=["submit=local"]))
    assert sent[0] == sys.executable
    assert f'storage_path="{tmp_path / "my runs"}"' in sent
    assert f'data_path="{tmp_path / "data"}"' in sent
    made = job("backbone.path=my_clip", submit=["submit=local"], name="pretrain")
    assert f'backbone.path="{tmp_path / "my_clip"}"' in words(made)
    grounder = ["grounder=tiny_grounder", "grounder.path=my_grounder"]
    made = job(*grounder, "backbone=clip", submit=["submit=local"], name="pretrain")
    assert f'grounder.path="{tmp_path / "my_grounder"}"' in words(made)
    assert "openai" not in made.command.line  # a hub's id is no path


def test_inputs_are_found_where_the_caller_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job's copy has no data folder, and `root=data/coco` would be missing in it."""
    monkeypatch.chdir(tmp_path)
    given = {
        "benchmark.options.root": "data/coco",
        "backbone.path": "data/clip",
        "grounder.path": "data/glip",
        "benchmark.similarity": "near/similarity.csv",
    }
    for path in given.values():
        Path(path).mkdir(parents=True)
    typed = ["benchmark=coco", "backbone=clip", "grounder=glip_style"]
    typed += [f"{key}={path}" for key, path in given.items()]
    sent = words(job(*typed, submit=["submit=local"]))
    for key, path in given.items():
        assert f'{key}="{tmp_path / path}"' in sent
    hub = job("backbone=clip", "grounder=tiny_grounder", submit=["submit=local"]).command.line
    assert "backbone.path" not in hub
    assert "grounder.path" not in hub
    for key in ("benchmark.options.root", "backbone.path", "grounder.path"):
        groups = [word for word in typed if "." not in word]
        with pytest.raises(ConfigError, match=f"{key}.*not sent"):
            job(*SHARED, *groups, f"{key}={given[key]}")
    assert words(job(*SHARED, "benchmark.similarity=near/similarity.csv"))[-2:] == [
        "benchmark.similarity=near/similarity.csv",  # goes along
        "cluster.address=auto",
    ]


def test_parameters_are_counted_as_typed() -> None:
    """Any override narrows its table, which is of all methods otherwise."""
    assert words(job(name="parameters")) == ["python", "-m", "system.app", "parameters"]


@pytest.mark.parametrize(
    ("arguments", "name", "named"),
    [
        ([], "run", "storage_path"),
        ([SHARED[0]], "run", "data_path"),
        ([*SHARED, "adapters=runs/demo/adapters"], "evaluate", "adapters"),
        ([*SHARED, "backbone.path=my_clip"], "pretrain", "backbone.path"),
        (
            [*SHARED, "grounder=tiny_grounder", "grounder.path=my_grounder"],
            "pretrain",
            "grounder.path",
        ),
    ],
)
def test_elsewhere_relative_places_are_refused(arguments: list[str], name: str, named: str) -> None:
    with pytest.raises(ConfigError, match=f"{named}.*relative"):
        job(*arguments, name=name)


def test_a_config_file_is_sent_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = compose_submission(ADDRESS)
    for file in ("best.yaml", "runs/sweep/best.yaml"):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr("system.submission.command.composed_values", lambda *_: VALUES)
        Path(file).touch()
    sent = JobCommand.checked("run", [], "best.yaml", config, False)
    assert sent.words[-2:] == ("--config", "best.yaml")
    in_place = JobCommand.checked("run", [], "best.yaml", config, True)  # submit.working_dir's
    assert in_place.words[-1] == str(tmp_path / "best.yaml")
    with pytest.raises(ConfigError, match="not sent with the job"):
        JobCommand.checked("run", [], "runs/sweep/best.yaml", config, False)


VALUES = {"storage_path": "/mnt/runs", "data_path": "/mnt/data", "adapters": None}


def test_data_and_runs_stay_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gigabytes of images in the job's package would be refused by Ray, or worse, sent."""
    monkeypatch.chdir(tmp_path)
    sent = job("storage_path=out/runs", f"data_path={tmp_path / 'shards'}", submit=["submit=local"])
    assert {"/data/", "/runs/", "/.venv/", "/out/runs/", "/shards/"} <= set(sent.excludes)


def test_what_is_rendered_holds_names_and_no_values(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "hush-4711")
    for target in ("local", "slurm", "kuberay submit.options.image=i"):
        line = ["submit", "run", *SHARED, "submit.env=[WANDB_API_KEY]", "--render"]
        assert app.main([*line, *f"submit={target}".split()]) == 0
        shown = capsys.readouterr().out
        assert "WANDB_API_KEY" in shown
        assert "hush" not in shown


def test_a_request_can_be_looked_at_before_it_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    entry = ["submit.entrypoint.cpus=2", "submit.entrypoint.resources={far:1}"]
    assert app.main(["submit", "sweep", "tune=lpi", *SHARED, *ADDRESS, *entry, "--render"]) == 0
    request = yaml.safe_load(capsys.readouterr().out)
    assert request["address"] == "http://head:8265"
    assert request["entrypoint_num_cpus"] == 2
    assert request["entrypoint_resources"] == {"far": 1}
    assert request["runtime_env"]["env_vars"]["RAY_JOB_STOP_SIGNAL"] == "SIGINT"
    assert "submit" not in request["entrypoint"]


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
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert named in shown
    assert len(shown.strip().splitlines()) == 1


def test_an_address_that_ray_would_overrule(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the job goes to another cluster than the one on the line."""
    monkeypatch.setenv("RAY_ADDRESS", "http://other:8265")
    assert app.main(["submit", "status", *ADDRESS]) == 2
    assert "RAY_ADDRESS" in capsys.readouterr().err


def test_every_shipped_target_is_known() -> None:
    from system.config.compose import CONFIG_DIRECTORY
    from system.submission.job import TARGETS

    for file in (CONFIG_DIRECTORY / "submit").glob("*.yaml"):
        config: SubmitConfig = compose_submission([f"submit={file.stem}"])
        assert config.target in TARGETS
