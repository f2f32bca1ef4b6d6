"""What a kind of cluster has to know: one file in `targets` each."""

from typing import Protocol

from system.registry import Registry
from system.submission.job import Job


class Target(Protocol):
    """Where a command can go."""

    #: Whether the command runs in the working directory itself, and not in a copy of it.
    in_place: bool
    #: The keys of `submit` that it reads, beside `target` and `options`; others are refused.
    takes: frozenset[str]

    def render(self, job: Job) -> str:
        """The file that `--render` shows; it holds no value of an environment variable."""
        ...

    def send(self, job: Job) -> str:
        """Send the job and return its id. Raises ConfigError where a file has to be used."""
        ...


TARGETS: Registry[Target] = Registry("submit.target", "system.submission.targets", "TARGET")
