"""A RayJob manifest for the KubeRay operator, which makes a cluster for the command and ends it.

Fields: KubeRay's API reference, ray.io/v1. `authOptions` (KubeRay 1.5.1) lets the operator make the
token as a Kubernetes secret and hand it to all pods, the one that submits among them.
"""

import importlib.metadata
import json
import shlex
from dataclasses import dataclass
from typing import Any

from packaging.version import InvalidVersion, Version

from system.config.parse import parse_dataclass
from system.errors import ConfigError
from system.submission.command import check_room
from system.submission.job import Job, yaml_text

#: From this version on `ray job submit`, which the operator calls in a shell of its own, quotes the
#: words again for the job's shell; before, `$`, `;` and `*` in a word reach that shell unquoted.
QUOTING_RAY = Version("2.56")
HEAD_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001}


@dataclass(frozen=True)
class KubeRayOptions:
    """Settings of the manifest."""

    name: str
    namespace: str
    image: str
    secret: str
    claims: dict[str, str] | None  # volume claim -> folder
    ray_version: str | None
    keep_seconds: int

    def __post_init__(self) -> None:
        if self.keep_seconds < 0:
            raise ValueError(f"keep_seconds={self.keep_seconds} must be at least 0")
        if self.ray_version is not None:
            try:
                Version(self.ray_version)
            except InvalidVersion:
                raise ValueError(
                    f"ray_version={self.ray_version!r} must be a version such as 2.60.0"
                ) from None
        for claim, folder in (self.claims or {}).items():
            if not folder.startswith("/"):
                raise ValueError(f"claims.{claim}={folder!r} must be an absolute folder")


class KubeRay:
    """The target of `submit=kuberay`."""

    in_place = False
    takes = frozenset(["id", "python", "same_machine", "env", "entrypoint", "install", "nodes"])

    def render(self, job: Job) -> str:
        """The manifest."""
        options = parse_dataclass(KubeRayOptions, job.config.options, "submit.options")
        check_room(job.command.values, job.config)
        comment = []
        if job.config.env:
            literals = " ".join(
                f'--from-file={name}=<(printf %s "${name}")' for name in job.config.env
            )
            comment = [
                "The variables' values come from a secret, made once from this environment:",
                f"  kubectl --namespace={options.namespace} create secret generic {options.secret} "
                f"{literals}",
            ]
        return yaml_text(manifest(job, options), *comment)

    def send(self, job: Job) -> str:
        """Refused: Kubernetes takes the manifest by its own command."""
        raise ConfigError(
            "submit=kuberay describes a RayJob: add --render > job.yaml, then "
            "`kubectl apply -f job.yaml`"
        )


def manifest(job: Job, options: KubeRayOptions) -> dict[str, Any]:
    """The RayJob."""
    entrypoint = job.config.entrypoint
    if entrypoint.memory_gb:
        raise ConfigError("submit.entrypoint.memory_gb has no place in a RayJob; set it to 0")
    ray_version = options.ray_version or importlib.metadata.version("ray")
    _check_quoting(job, ray_version)
    spec: dict[str, Any] = {
        "entrypoint": job.command.line,
        "runtimeEnvYAML": yaml_text(job.runtime_env()),
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": options.keep_seconds,
    }
    if job.config.id is not None:
        spec["jobId"] = job.config.id
    if entrypoint.cpus:
        spec["entrypointNumCpus"] = entrypoint.cpus
    if entrypoint.gpus:
        spec["entrypointNumGpus"] = entrypoint.gpus
    if entrypoint.resources:
        spec["entrypointResources"] = json.dumps(entrypoint.resources)
    spec["rayClusterSpec"] = {
        "rayVersion": ray_version,
        "authOptions": {"mode": "token"},
        "headGroupSpec": {
            "rayStartParams": {},
            "template": _pod("ray-head", job, options, HEAD_PORTS),
        },
        "workerGroupSpecs": _workers(job, options),
    }
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": options.name, "namespace": options.namespace},
        "spec": spec,
    }


def _check_quoting(job: Job, ray_version: str) -> None:
    if Version(ray_version) >= QUOTING_RAY:
        return
    for word in shlex.split(job.command.line):
        if shlex.quote(word) != word:
            raise ConfigError(
                f"{word!r} would not reach the command as it is: `ray job submit` quotes words "
                f"since Ray {QUOTING_RAY}, and submit.options.ray_version={ray_version} is older; "
                "take a newer image, or a file on shared storage behind --config"
            )


def _workers(job: Job, options: KubeRayOptions) -> list[dict[str, Any]]:
    count = job.config.nodes.count - 1
    if count == 0:
        return []
    return [
        {
            "groupName": "workers",
            "replicas": count,
            "minReplicas": count,
            "maxReplicas": count,
            "rayStartParams": {},
            "template": _pod("ray-worker", job, options, {}),
        }
    ]


def _pod(name: str, job: Job, options: KubeRayOptions, ports: dict[str, int]) -> dict[str, Any]:
    nodes = job.config.nodes
    amounts: dict[str, Any] = {"cpu": str(nodes.cpus), "memory": f"{nodes.memory_gb}Gi"}
    if nodes.gpus:
        amounts["nvidia.com/gpu"] = str(nodes.gpus)
    container: dict[str, Any] = {
        "name": name,
        "image": options.image,
        "resources": {"requests": amounts, "limits": dict(amounts)},
    }
    if ports:
        container["ports"] = [{"name": key, "containerPort": ports[key]} for key in ports]
    if job.config.env:
        container["env"] = [
            {
                "name": variable,
                "valueFrom": {"secretKeyRef": {"name": options.secret, "key": variable}},
            }
            for variable in job.config.env
        ]
    spec: dict[str, Any] = {"containers": [container]}
    if options.claims:
        container["volumeMounts"] = [
            {"name": claim, "mountPath": folder} for claim, folder in options.claims.items()
        ]
        spec["volumes"] = [
            {"name": claim, "persistentVolumeClaim": {"claimName": claim}}
            for claim in options.claims
        ]
    return {"spec": spec}


TARGET = KubeRay()
