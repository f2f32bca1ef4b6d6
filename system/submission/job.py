"""A job: a command, where it goes, and the runtime environment that Ray makes for it."""

from dataclasses import dataclass
from typing import Any

from system.submission.command import JobCommand
from system.submission.config import SubmitConfig
from system.submission.requirements import job_requirements
from system.submission.sealed_environment import HOOK, VARIABLE
from system.submission.stopping import STOPPING


@dataclass(frozen=True)
class Job:
    """What is sent, or rendered into a file."""

    command: JobCommand
    config: SubmitConfig

    def runtime_env(self, sealed: str | None = None) -> dict[str, Any]:
        """Ray's runtime environment, without a working directory.

        `sealed`: the variables of `submit.env`, see `sealed_environment`.
        """
        variables = dict(STOPPING)
        env: dict[str, Any] = {"env_vars": variables}
        packages = job_requirements(self.config.install)
        if packages is not None:
            env["pip"] = {"packages": packages, "pip_check": False}
        if sealed is not None:
            variables[VARIABLE] = sealed
            env["worker_process_setup_hook"] = HOOK
        return env

    def working_dir(self) -> dict[str, Any]:
        """The part of the runtime environment that sends the code along."""
        return {"working_dir": str(self.config.folder), "excludes": self.excludes}

    @property
    def excludes(self) -> list[str]:
        """Patterns as in .gitignore: what is configured, and where data and runs are."""
        folder, found = self.config.folder, list(self.config.excludes)
        for key in ("data_path", "storage_path"):
            value = self.command.values[key]
            place = folder / value  # an absolute one stands for itself
            if ":" not in value and place.is_relative_to(folder) and place != folder:
                found.append(f"/{place.relative_to(folder)}/")
        return list(dict.fromkeys(found))
