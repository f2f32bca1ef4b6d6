"""A Ray cluster that runs already: the command goes to its job server."""

from dataclasses import dataclass
from typing import Any

from system.config.parse import parse_dataclass
from system.errors import ConfigError
from system.submission.config import required_address
from system.submission.job import Job, yaml_text
from system.submission.job_environment import ray_token, seal, values_of
from system.submission.job_server import JobServer


@dataclass(frozen=True)
class RayJobsOptions:
    """No options beside those of all targets."""


class RayJobs:
    """The target of `submit=local` and `submit=ray_address`."""

    in_place = False
    takes = frozenset(
        [
            "address",
            "id",
            "python",
            "same_machine",
            "working_dir",
            "excludes",
            "env",
            "entrypoint",
            "install",
        ]
    )

    def render(self, job: Job) -> str:
        """The request as YAML, to be read before it is sent."""
        parse_dataclass(RayJobsOptions, job.config.options, "submit.options")
        entrypoint = job.config.entrypoint
        request: dict[str, Any] = {
            "address": required_address(job.config),
            "submission_id": job.config.id,
            "entrypoint": job.command.line,
            "entrypoint_num_cpus": entrypoint.cpus,
            "entrypoint_num_gpus": entrypoint.gpus,
            "entrypoint_memory_gb": entrypoint.memory_gb,
            "entrypoint_resources": entrypoint.resources,
            "runtime_env": {**job.working_dir(), **job.runtime_env()},
            "sealed_environment": list(job.config.env),
        }
        return yaml_text(request)

    def send(self, job: Job) -> str:
        """Send the job with its working directory; the id of the job."""
        parse_dataclass(RayJobsOptions, job.config.options, "submit.options")
        address = required_address(job.config)
        sealed = None
        if job.config.env:
            values, token = values_of(job.config.env), ray_token()
            if token is None:
                raise ConfigError(
                    "submit.env needs Ray's token, with which the values are sealed on their way: "
                    "start the cluster with RAY_AUTH_MODE=token and have its token here "
                    "(RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token)"
                )
            sealed = seal(values, token)
        runtime_env = {**job.working_dir(), **job.runtime_env(sealed)}
        server = JobServer(address)
        return server.submit(job.command.line, runtime_env, job.config.entrypoint, job.config.id)


TARGET = RayJobs()
