"""`promptide submit`: sends a command as a job or renders it as a file; lists and stops jobs."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import Console

from system.errors import ConfigError, PromptideError
from system.escapes import terminal_log
from system.redaction import redacted
from system.submission.command import JobCommand, shell_line
from system.submission.config import (
    check_taken,
    compose_submission,
    is_submission,
    required_address,
)
from system.submission.job import TARGETS, Job
from system.submission.job_server import JobServer

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

USAGE = (
    "promptide submit COMMAND [key=value ...] [submit.key=value ...] [--wait | --render], "
    "promptide submit status [JOB], logs JOB [-f], or stop JOB"
)
WAIT, RENDER = "--wait", "--render"
FOLLOW = ("-f", "--follow")
INTERRUPTED = 130  # what a shell says of Ctrl-C


class JobFailedError(PromptideError):
    """A job that was waited for did not succeed."""


def submit(
    arguments: Sequence[str], file: str | None, commands: Sequence[str], console: Console
) -> None:
    """Run `promptide submit ARGUMENTS`; `commands` are those that can be sent.

    `file` is the value of `--config`. Raises ConfigError for a mistake in the arguments,
    JobFailedError when a job that was waited for fails.
    """
    if not arguments:
        raise ConfigError(f"what is to be submitted? {USAGE}")
    first, *rest = arguments
    if first in JOB_COMMANDS:
        if file is not None:
            raise ConfigError(f"submit {first} takes no --config: {USAGE}")
        JOB_COMMANDS[first](rest, console)
    elif first in commands:
        send(first, rest, file, console)
    else:
        known = ", ".join((*commands, *JOB_COMMANDS))
        raise ConfigError(f"submit {first!r}: unknown; one of: {known}")


def send(name: str, rest: Sequence[str], file: str | None, console: Console) -> None:
    """Send a command as a job, or print its file."""
    flags, words = _flags(rest, (WAIT, RENDER))
    config = compose_submission([word for word in words if is_submission(word)])
    target = TARGETS.get(config.target)
    check_taken(config, target.takes)
    arguments = [word for word in words if not is_submission(word)]
    sends = "working_dir" in target.takes
    job = Job(JobCommand.checked(name, arguments, file, config, target.in_place, sends), config)
    if RENDER in flags:
        if WAIT in flags:
            raise ConfigError("--render sends nothing that --wait could wait for")
        console.file.write(target.render(job))
        return
    sent = target.send(job)
    _line(f"job: {sent}", console)
    submission = [word for word in words if is_submission(word)]
    follow = shell_line(["promptide", "submit", "logs", sent, "-f", *submission])
    if WAIT not in flags:
        _line(f"follow it: {follow}", console)
        return
    server = JobServer(required_address(config))
    try:
        server.follow(sent, _output_of_job(console))
        details = server.ended(sent)
    except KeyboardInterrupt:
        _line(f"the job goes on; follow it: {follow}", console)
        raise SystemExit(INTERRUPTED) from None
    if details.status.value != "SUCCEEDED":
        raise JobFailedError(f"job {sent} has ended as {details.status.value}: {details.message}")
    _line(f"job {sent}: {details.status.value}", console)


def show_status(rest: Sequence[str], console: Console) -> None:
    """Print one line for a job, or for each that was submitted."""
    _, words = _flags(rest, ())
    server, job = _server(words, "status", needs_job=False)
    found = server.all() if job is None else [server.details(job)]
    if not found:
        _line("no job was submitted to this cluster", console)
    for details in found:
        _line(_summary(details), console)


def show_logs(rest: Sequence[str], console: Console) -> None:
    """Print the output of a job; with -f until it ends."""
    flags, words = _flags(rest, FOLLOW)
    server, job = _server(words, "logs")
    assert job is not None
    if flags:
        server.follow(job, _output_of_job(console))
    else:
        _output_of_job(console)(server.logs(job))


def stop_job(rest: Sequence[str], console: Console) -> None:
    """End a job as by Ctrl-C, and wait until it has ended."""
    _, words = _flags(rest, ())
    server, job = _server(words, "stop")
    assert job is not None
    server.details(job)
    if not server.stop(job):
        _line(f"job {job} had ended before", console)
        return
    details = server.ended(job)
    _line(f"job {job}: {details.status.value}; the same command goes on from there", console)


JOB_COMMANDS: dict[str, Callable[[Sequence[str], Console], None]] = {
    "status": show_status,
    "logs": show_logs,
    "stop": stop_job,
}


def _flags(arguments: Sequence[str], known: Sequence[str]) -> tuple[set[str], list[str]]:
    flags = {text for text in arguments if text.startswith("-")}
    for flag in sorted(flags - set(known)):
        raise ConfigError(f"{flag} is unknown here: {USAGE}")
    return flags, [text for text in arguments if not text.startswith("-")]


def _server(
    words: Sequence[str], what: str, needs_job: bool = True
) -> tuple[JobServer, str | None]:
    """The server and the job that the words name. Raises ConfigError if they name not one."""
    config = compose_submission([word for word in words if is_submission(word)])
    jobs = [word for word in words if not is_submission(word)]
    if len(jobs) > 1 or (needs_job and not jobs):
        raise ConfigError(f"promptide submit {what} takes one job: {USAGE}")
    return JobServer(required_address(config)), jobs[0] if jobs else None


def _summary(details: "JobDetails") -> str:
    parts = [f"{details.submission_id}  {details.status.value}", _time(details.start_time)]
    if details.end_time:
        parts.append(f"to {_time(details.end_time)}")
    return f"{' '.join(parts)}  {details.entrypoint}"


def _time(milliseconds: int | None) -> str:
    if not milliseconds:
        return "not started"
    moment = datetime.fromtimestamp(milliseconds / 1000).astimezone()
    return moment.isoformat(sep=" ", timespec="seconds")


def _output_of_job(console: Console) -> Callable[[str], object]:
    """Writes what a job has printed, as it comes."""
    return lambda text: console.file.write(terminal_log(redacted(text)))


def _line(text: str, console: Console) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
