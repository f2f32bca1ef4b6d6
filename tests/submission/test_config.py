"""The section `submit`: overrides that give it back, and keys that a target does not read."""

import pytest

from system.errors import ConfigError
from system.submission.config import check_taken, compose_submission, differing, is_submission

KEYS = ("id", "python", "env", "excludes", "entrypoint", "install")


def test_differing_keys_are_overrides_that_give_the_section_back() -> None:
    """The launcher prints them for the command that sends the job: a lost one changes the job."""
    changed = [
        "submit.id=mine",
        'submit.env=["A","B"]',
        "submit.entrypoint={cpus:2,gpus:0,memory_gb:1,resources:{far:1}}",
        "submit.install.extras=[lora]",
    ]
    config = compose_submission(["submit=launcher", *changed])
    again = compose_submission(["submit=ray_address", *differing(config, KEYS)])
    assert [getattr(again, key) for key in KEYS] == [getattr(config, key) for key in KEYS]
    assert list(differing(compose_submission(["submit=slurm"]), KEYS)) == []


def test_a_key_that_a_target_does_not_read_is_refused() -> None:
    """It would vanish, and the job would run without it."""
    config = compose_submission(["submit=slurm", "submit.id=mine"])
    check_taken(config, {"id", "nodes"})
    with pytest.raises(ConfigError, match=r"submit\.id=mine has no effect.*takes target, options"):
        check_taken(config, {"nodes"})


@pytest.mark.parametrize(
    ("argument", "expected"),
    [("submit=slurm", True), ("+submit.a=1", True), ("~submit.env", True), ("submitted=1", False)],
)
def test_overrides_of_the_section_are_told_from_the_commands_own(
    argument: str, expected: bool
) -> None:
    assert is_submission(argument) == expected
