"""A job's command finds its files on the cluster, or is refused with one clear error."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from system.errors import ConfigError
from system.submission.command import JobCommand
from system.submission.config import compose_submission
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
    typed = ["benchmark=coco", "backbone=clip", "grounder=glip_t_a"]
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
        ([*SHARED, "cache_path=cache"], "run", "cache_path"),
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
