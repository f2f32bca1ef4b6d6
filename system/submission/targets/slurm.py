"""A Slurm batch script that starts a Ray cluster on its nodes and runs the command there."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from jinja2 import Environment, PackageLoader, StrictUndefined

from system.config.parse import parse_dataclass
from system.errors import ConfigError
from system.submission.command import check_room, shell_line
from system.submission.job import Job

TIME = re.compile(
    r"(\d+-)?\d+(:\d{1,2}){0,2}"
)  # sbatch(1): minutes, hours:minutes:seconds, days-...


@dataclass(frozen=True)
class SlurmOptions:
    """Settings of the batch script."""

    job_name: str
    time: str
    partition: str | None
    account: str | None
    directives: tuple[str, ...]
    port: int
    start_seconds: int

    def __post_init__(self) -> None:
        if not TIME.fullmatch(self.time):
            raise ValueError(f"time={self.time!r} must be like 08:00:00 or 2-00:00:00")
        if not 1024 <= self.port <= 65535:
            raise ValueError(f"port={self.port} must be from 1024 to 65535")
        if self.start_seconds < 1:
            raise ValueError(f"start_seconds={self.start_seconds} must be at least 1")
        words = {"job_name": self.job_name, "partition": self.partition, "account": self.account}
        for key, word in words.items():
            if word is not None and not re.fullmatch(r"[\w.,@%+-]+", word):
                raise ValueError(f"{key}={word!r} must be one word")
        for line in self.directives:
            if not line.startswith("--") or "\n" in line:
                raise ValueError(f"directives holds {line!r}, which is no option of sbatch")


class Slurm:
    """The target of `submit=slurm`."""

    in_place = True
    takes = frozenset(["python", "working_dir", "env", "setup", "nodes"])

    def render(self, job: Job) -> str:
        """The script."""
        options = parse_dataclass(SlurmOptions, job.config.options, "submit.options")
        config = job.config
        check_room(job.command.values, config)
        environment = Environment(  # nosec B701
            loader=PackageLoader("system.submission"),
            undefined=StrictUndefined,
            # A shell script: what is not the template's own goes through `shell`.
            autoescape=False,  # noqa: S701
            keep_trailing_newline=True,
            comment_start_string="{//",  # bash has its own meaning for {#
            comment_end_string="//}",
        )
        environment.filters["shell"] = lambda word: shell_line([word])
        return environment.get_template("slurm.sh").render(
            directives=_directives(job, options),
            env=config.env,
            folder=str(config.folder),
            setup=config.setup,
            python=job.command.python,
            ray=_ray(job.command.python),
            room=f"--num-cpus={config.nodes.cpus} --num-gpus={config.nodes.gpus}",
            cpus=config.nodes.cpus,
            port=options.port,
            start_seconds=options.start_seconds,
            command=job.command.line,
        )

    def send(self, job: Job) -> str:
        """Refused: Slurm takes the script by its own command."""
        raise ConfigError("submit=slurm is a script: add --render > job.sh, then `sbatch job.sh`")


def _directives(job: Job, options: SlurmOptions) -> list[str]:
    nodes = job.config.nodes
    found = [
        f"--job-name={options.job_name}",
        f"--nodes={nodes.count}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={nodes.cpus}",
        f"--mem={nodes.memory_gb}G",
        f"--time={options.time}",
    ]
    if nodes.gpus:
        found.append(f"--gpus-per-node={nodes.gpus}")
    if options.partition is not None:
        found.append(f"--partition={options.partition}")
    if options.account is not None:
        found.append(f"--account={options.account}")
    return [*found, *options.directives]


def _ray(python: str) -> str:
    """The `ray` that belongs to a Python: beside it, or on the PATH as it is."""
    path = PurePosixPath(python)
    return str(path.parent / "ray") if path.parent.name else "ray"


TARGET = Slurm()
