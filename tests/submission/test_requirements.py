"""A job's own packages: what pip is asked for on every node."""

from pathlib import Path

import pytest
from packaging.requirements import Requirement

from system.errors import ConfigError
from system.submission.config import Install
from system.submission.job import job_requirements


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
