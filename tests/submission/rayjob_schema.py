"""Which fields of a RayJob promptide may write, as JSON Schema.

Names, types and required fields are those of KubeRay's custom resource definition of ray.io/v1
(`rayjobs.ray.io`, and Kubernetes' pod template within), cut to what is written here. Closed: a
field that is not in it is an error, as for `kubectl apply` with strict validation.
"""

from typing import Any

TEXT: dict[str, Any] = {"type": "string"}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
TEXTS: dict[str, Any] = {"type": "object", "additionalProperties": TEXT}
LABEL: dict[str, Any] = {  # RFC 1123, which Kubernetes asks of names
    "type": "string",
    "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
    "maxLength": 63,
}
#: Kubernetes' quantities, as 500m, 8 or 32Gi.
QUANTITY: dict[str, Any] = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[KMGTPE]i?)?$"}
QUANTITIES: dict[str, Any] = {"type": "object", "additionalProperties": QUANTITY}


def closed(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """An object with these fields and no other."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def listed(item: dict[str, Any]) -> dict[str, Any]:
    """A list of such."""
    return {"type": "array", "items": item}


SECRET_KEY = closed({"key": TEXT}, {"name": TEXT, "optional": {"type": "boolean"}})
VARIABLE = closed(
    {"name": TEXT}, {"value": TEXT, "valueFrom": closed({"secretKeyRef": SECRET_KEY})}
)
CONTAINER = closed(
    {"name": LABEL, "image": {**TEXT, "minLength": 1}},
    {
        "env": listed(VARIABLE),
        "ports": listed(
            closed({"containerPort": {"type": "integer", "minimum": 1}}, {"name": LABEL})
        ),
        "resources": closed({}, {"limits": QUANTITIES, "requests": QUANTITIES}),
        "volumeMounts": listed(closed({"mountPath": TEXT, "name": LABEL})),
    },
)
VOLUME = closed({"name": LABEL}, {"persistentVolumeClaim": closed({"claimName": TEXT})})
POD = closed({"spec": closed({"containers": listed(CONTAINER)}, {"volumes": listed(VOLUME)})})
CLUSTER = closed(
    {"headGroupSpec": closed({"template": POD, "rayStartParams": TEXTS})},
    {
        "rayVersion": TEXT,
        "authOptions": closed({}, {"mode": {"enum": ["disabled", "token"]}}),
        "workerGroupSpecs": listed(
            closed(
                {"groupName": TEXT, "minReplicas": COUNT, "maxReplicas": COUNT, "template": POD},
                {"replicas": COUNT, "rayStartParams": TEXTS},
            )
        ),
    },
)
RAYJOB = closed(
    {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": closed({"name": LABEL}, {"namespace": LABEL}),
        "spec": closed(
            {},
            {
                "entrypoint": TEXT,
                "entrypointNumCpus": {"type": "number"},
                "entrypointNumGpus": {"type": "number"},
                "entrypointResources": TEXT,
                "jobId": TEXT,
                "rayClusterSpec": CLUSTER,
                "runtimeEnvYAML": TEXT,
                "shutdownAfterJobFinishes": {"type": "boolean"},
                "ttlSecondsAfterFinished": COUNT,
            },
        ),
    }
)
