"""Client of Ray's job server: submit, list, follow and stop jobs, with the cluster's token."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from system.errors import ConfigError, PromptideError
from system.submission.config import GIGABYTE, Entrypoint
from system.submission.job_environment import ray_token

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

SECONDS_BETWEEN_LOOKS = 0.5
PATIENCE = 60.0  # seconds without an answer until a job that is followed counts as out of reach
#: Ray takes these over the address that it is given.
OVERRULING = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


class JobServer:
    """The jobs of one cluster.

    Raises ConfigError when nothing answers at the address, or not to this token.
    """

    def __init__(self, address: str) -> None:
        for name in OVERRULING:
            if os.environ.get(name) not in (None, "", address):
                raise ConfigError(
                    f"{name}={os.environ[name]} would overrule submit.address={address}; unset it"
                )
        if any(importlib.util.find_spec(name) is None for name in ("aiohttp", "pydantic")):
            raise ConfigError(
                "submitting needs Ray's job client, which is not installed: "
                "pip install 'promptide[submit]'"
            )
        from ray.job_submission import JobSubmissionClient

        logging.getLogger("ray.dashboard").setLevel(logging.WARNING)
        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
        self.address = address
        token = ray_token()
        with self._explained():
            self._client = JobSubmissionClient(
                address, headers={} if token is None else {"Authorization": f"Bearer {token}"}
            )

    def submit(
        self,
        line: str,
        runtime_env: dict[str, Any],
        entrypoint: Entrypoint,
        job: str | None,
    ) -> str:
        """Send a shell line with its runtime environment; the id of the job."""
        with self._explained(job):
            return str(
                self._client.submit_job(
                    entrypoint=line,
                    runtime_env=runtime_env,
                    submission_id=job,
                    entrypoint_num_cpus=entrypoint.cpus,
                    entrypoint_num_gpus=entrypoint.gpus,
                    entrypoint_memory=round(entrypoint.memory_gb * GIGABYTE),
                    entrypoint_resources=entrypoint.resources,
                )
            )

    def details(self, job: str) -> JobDetails:
        """The state of a job. Raises ConfigError if there is none of that id."""
        with self._explained(job):
            return self._client.get_job_info(job)

    def all(self) -> list[JobDetails]:
        """The jobs that were submitted, oldest first."""
        with self._explained():
            jobs = [job for job in self._client.list_jobs() if job.submission_id]
        return sorted(jobs, key=lambda job: job.start_time or 0)

    def stop(self, job: str) -> bool:
        """Stop a job; False if it had ended before."""
        with self._explained(job):
            return bool(self._client.stop_job(job))

    def logs(self, job: str) -> str:
        """The output of a job so far."""
        with self._explained(job):
            return str(self._client.get_job_logs(job))

    def follow(self, job: str, write: Callable[[str], object]) -> None:
        """Pass on what a job prints until it ends; a lost connection is made again."""
        from aiohttp import ClientError

        passed = 0  # characters so far: each connection sends all from the first one on

        async def tail() -> None:
            nonlocal passed
            known = passed
            async for text in self._client.tail_job_logs(job):
                new = text[known:]
                known -= len(text) - len(new)
                passed += len(new)
                write(new)

        self.details(job)  # the tail of an unknown job is empty
        ended = False
        while not ended:
            # Asked before, so that what a job prints at its end is passed on as well.
            ended = self._patiently(job).status.is_terminal()
            with suppress(RuntimeError, ConnectionError, ClientError):
                asyncio.run(tail())
            if not ended:
                time.sleep(SECONDS_BETWEEN_LOOKS)

    def ended(self, job: str) -> JobDetails:
        """Wait for the end of a job."""
        while not (details := self._patiently(job)).status.is_terminal():
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return details

    def _patiently(self, job: str) -> JobDetails:
        """`details`, asked again for a while where nothing answers."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return self.details(job)
            except ConfigError:
                if time.monotonic() > until:
                    raise
                time.sleep(SECONDS_BETWEEN_LOOKS)

    @contextmanager
    def _explained(self, job: str | None = None) -> Iterator[None]:
        """Ray's and the network's errors as one line each."""
        from aiohttp import ClientError
        from ray.exceptions import AuthenticationError
        from requests import RequestException

        try:
            yield
        except AuthenticationError as error:
            raise ConfigError(
                f"the Ray cluster at {self.address} does not know this token: put the cluster's "
                "into RAY_AUTH_TOKEN, a file named by RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token "
                "(`ray get-auth-token` on the cluster shows it)"
            ) from error
        except (ConnectionError, ClientError, RequestException) as error:
            raise ConfigError(
                f"no Ray dashboard answers at submit.address={self.address} ({error}); start one "
                "with `ray start --head --dashboard-port=PORT` (it needs ray[default]), or give "
                "another address"
            ) from error
        except RuntimeError as error:
            if isinstance(error, PromptideError):
                raise
            if "status code 404" in str(error):
                raise ConfigError(
                    f"the cluster at {self.address} has no job {job!r}; `promptide submit status` "
                    "lists all"
                ) from error
            raise ConfigError(f"Ray's job server at {self.address}: {_first(error)}") from error


def _first(error: Exception) -> str:
    """The last line of a remote traceback, which holds the error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" .")]
    return lines[-1] if len(lines) > 1 and "Traceback" in str(error) else " ".join(lines)
