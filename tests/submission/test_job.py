"""A job: what it leaves behind, the packages that it brings, the targets that it can go to."""

from pathlib import Path

import pytest
from packaging.requirements import Requirement

from system.config.compose import CONFIG_DIRECTORY
from system.errors import ConfigError
from system.submission.command import JobCommand
from system.submission.config import Install, SubmitConfig, compose_submission
from system.submission.job import TARGETS, Job, job_requirements


def test_data_and_runs_stay_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gigabytes of images in the job's package would be refused by Ray, or worse, sent."""
    monkeypatch.chdir(tmp_path)
    config = compose_submission(["submit=local"])
    places = ["storage_path=out/runs", f"data_path={tmp_path / 'shards'}"]
    sent = Job(JobCommand.checked("run", places, None, config, False), config)
    assert {"/data/", "/runs/", "/.venv/", "/out/runs/", "/shards/"} <= set(sent.excludes)


def test_every_shipped_target_is_known() -> None:
    for file in (CONFIG_DIRECTORY / "submit").glob("*.yaml"):
        config: SubmitConfig = compose_submission([f"submit={file.stem}"])
        assert config.target in TARGETS


def by_name(lines: list[str] | None) -> dict[str, Requirement]:
    assert lines is not None
    return {Requirement(line).name: Requirement(line) for line in lines}


def test_nothing_is_installed_unless_asked_for() -> None:
    assert job_requirements(Install(None, None)) is None


def test_extras_bring_their_packages_and_never_another_ray() -> None:
    plain = by_name(job_requirements(Install((), None)))
    assert "torch" in plain
    assert "peft" not in plain
    assert "pytest" not in plain
    with_lora = by_name(job_requirements(Install(("lora",), None)))
    assert set(with_lora) == {*plain, "peft"}
    assert not {"ray", "promptide"} & set(with_lora)
    assert all(item.marker is None for item in with_lora.values())  # `extra` is nothing there


def test_a_lock_decides_versions_and_all_of_it_is_installed(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(
        "# made by a tool\ntorch==2.13.0  # CPU\nray==2.60.0\n"
        'Extra_One==1.0 ; python_version > "3" \\\n    --hash=sha256:aa\n\n'
    )
    found = by_name(job_requirements(Install((), str(lock))))
    assert str(found["torch"].specifier) == "==2.13.0"
    assert str(found["Extra_One"].specifier) == "==1.0"
    assert "ray" not in found
    alone = by_name(job_requirements(Install(None, str(lock))))
    assert set(alone) == {"torch", "Extra_One"}


def test_a_line_that_is_no_requirement_is_named(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("torch==2.13.0\n-r other.txt\n")
    with pytest.raises(ConfigError, match="line 2"):
        job_requirements(Install(None, str(lock)))
