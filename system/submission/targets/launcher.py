"""A cluster YAML for Ray's cluster launcher (`ray up`); the command then goes there as a job."""

import importlib.metadata
from dataclasses import dataclass
from typing import Any

from system.config.parse import parse_dataclass
from system.errors import ConfigError
from system.submission.command import check_room, shell_line
from system.submission.config import differing
from system.submission.job import Job, job_requirements, yaml_text
from system.submission.job_environment import DEFAULT_FILE

#: Keys that go into the `promptide submit` command to run once the cluster is there.
OF_THE_JOB = ["id", "python", "same_machine", "working_dir", "excludes", "env", "entrypoint"]
HEAD, WORKER = "head", "worker"
PORT = 6379
#: Every process of the cluster and every login asks for the token that file_mounts copies.
WITH_TOKEN = "export RAY_AUTH_MODE=token"  # noqa: S105  # nosec B105  # the token is none of it


@dataclass(frozen=True)
class LauncherOptions:
    """Settings of the cloud, or of the machines at hand."""

    cluster_name: str
    provider: dict[str, Any]
    ssh_user: str
    ssh_private_key: str | None
    image: str | None
    token_file: str
    node_types: dict[str, Any] | None
    ray_version: str | None

    def __post_init__(self) -> None:
        if "type" not in self.provider:
            raise ValueError("provider.type is missing, such as aws, gcp, azure or local")
        if self.node_types is not None and set(self.node_types) != {HEAD, WORKER}:
            raise ValueError("node_types holds head and worker, or is null for provider.type=local")


class Launcher:
    """The target of `submit=launcher`."""

    in_place = False
    takes = frozenset((*OF_THE_JOB, "setup", "install", "nodes"))

    def render(self, job: Job) -> str:
        """The cluster YAML, as Ray's schema has it."""
        options = parse_dataclass(LauncherOptions, job.config.options, "submit.options")
        check_room(job.command.values, job.config)
        command = shell_line((*job.command.words, *differing(job.config, OF_THE_JOB)))
        return yaml_text(
            cluster(job, options),
            "Token authentication: `ray get-auth-token --generate` makes the token once; it is",
            f"copied from {options.token_file} to every node.",
            "  ray up cluster.yaml && ray dashboard cluster.yaml   # forwards port 8265 to here",
            f"  promptide submit {command} submit=ray_address submit.address=http://127.0.0.1:8265",
            "  ray down cluster.yaml",
        )

    def send(self, job: Job) -> str:
        """Refused: machines are started by Ray's own command."""
        raise ConfigError(
            "submit=launcher describes a cluster: add --render > cluster.yaml, then `ray up "
            "cluster.yaml`, and send the command with submit=ray_address"
        )


def cluster(job: Job, options: LauncherOptions) -> dict[str, Any]:
    """The cluster's description."""
    nodes = job.config.nodes
    found: dict[str, Any] = {
        "cluster_name": options.cluster_name,
        "max_workers": nodes.count - 1,
        "provider": options.provider,
        "auth": {"ssh_user": options.ssh_user},
        "file_mounts": {DEFAULT_FILE: options.token_file},
        "setup_commands": [*job.config.setup, *_install(job, options)],
        "head_start_ray_commands": [
            "ray stop",
            f"{WITH_TOKEN}; ulimit -n 65536; ray start --head --port={PORT} "
            "--dashboard-host=127.0.0.1 --autoscaling-config=~/ray_bootstrap_config.yaml",
        ],
        "worker_start_ray_commands": [
            "ray stop",
            f"{WITH_TOKEN}; ulimit -n 65536; ray start --address=$RAY_HEAD_IP:{PORT}",
        ],
    }
    if options.ssh_private_key is not None:
        found["auth"]["ssh_private_key"] = options.ssh_private_key
    if options.image is not None:
        found["docker"] = {"image": options.image, "container_name": "promptide"}
    if options.node_types is not None:
        resources = {"CPU": nodes.cpus, **({"GPU": nodes.gpus} if nodes.gpus else {})}
        found["head_node_type"] = HEAD
        found["available_node_types"] = {
            HEAD: {"node_config": options.node_types[HEAD], "resources": resources},
            WORKER: {
                "node_config": options.node_types[WORKER],
                "resources": dict(resources),
                "min_workers": nodes.count - 1,
                "max_workers": nodes.count - 1,
            },
        }
    return found


def _install(job: Job, options: LauncherOptions) -> list[str]:
    """The line that gives a node Ray, as it is here, and the job's packages."""
    packages = job_requirements(job.config.install) or []
    if options.image is None:  # an image has its own
        version = options.ray_version or importlib.metadata.version("ray")
        packages = [f"ray[default,train,tune]=={version}", *packages]
    python = job.command.python
    return [shell_line((python, "-m", "pip", "install", *packages))] if packages else []


TARGET = Launcher()
