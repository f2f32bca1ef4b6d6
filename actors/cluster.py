"""The Ray cluster a command runs on: reaching it, and checking it before anything starts."""

import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from system.config.schema import ClusterConfig
from system.errors import ClusterError, ConfigError, PromptideError, StorageError
from system.storage.files import Folder

RAY_WAS_LATE = (
    "Ray's own processes did not start within the half minute that it gives them: this machine is "
    "too busy; run the same command again, or use a running cluster by cluster.address"
)


@contextmanager
def ray_cluster(config: ClusterConfig) -> Iterator[None]:
    """Connect to the cluster, or start one on this machine; leave it as it was found.

    Raises ConfigError naming `cluster.address` when nothing answers there, ClusterError when Ray
    does not start here.
    """
    started = not ray.is_initialized()
    if started:
        # Ray warns about CUDA_VISIBLE_DEVICES of zero-GPU workers; the new way is asked for here.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            ray.init(
                # "local" never joins a cluster that happens to run on this machine.
                address=config.address or "local",
                include_dashboard=False if config.address in (None, "local") else None,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        except (ConnectionError, ValueError) as error:
            raise ConfigError(
                f"cluster.address={config.address!r} cannot be reached ({error}); start Ray there "
                "(`ray start --head`), or set cluster.address=null for one on this machine"
            ) from error
        except Exception as error:
            if "timed out during startup" not in str(error):  # Ray has no type of its own for it
                raise
            raise ClusterError(RAY_WAS_LATE) from error
    try:
        yield
    finally:
        if started:
            ray.shutdown()


def check_resources(config: ClusterConfig) -> None:
    """Compare what the workers need with what the cluster has.

    Raises ConfigError with the arithmetic, instead of letting a run wait forever.
    """
    fit, nodes = workers_that_fit(config)
    if config.workers > fit:
        each = f"{config.cpus_per_worker:g} CPUs" + (" and a GPU" if config.gpu else "")
        raise ConfigError(
            f"cluster.workers={config.workers} need {each} each, and {fit} of them fit on the "
            f"cluster's nodes, which have {nodes}; lower cluster.workers or "
            "cluster.cpus_per_worker" + (", or set cluster.gpu=false" if config.gpu else "")
        )


def workers_that_fit(config: ClusterConfig, gpus: float = 1.0) -> tuple[int, str]:
    """How many workers the nodes of the connected cluster carry, and what the nodes have.

    A worker runs on one node: what is left over on two of them carries none. `gpus` is what each
    takes of a GPU where it uses one.
    """
    need = {"CPU": config.cpus_per_worker} | ({"GPU": gpus} if config.gpu else {})
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    fit = sum(
        min(int(node.get(name, 0.0) / amount + 1e-9) for name, amount in need.items())
        for node in alive
    )
    have = ("+".join(f"{node.get(name, 0.0):g}" for node in alive) + f" {name}s" for name in need)
    return fit, " and ".join(have)


@ray.remote(num_cpus=0)
def _read_probe(uri: str, name: str) -> bytes | str:
    try:
        return Folder.of(uri).read(name)
    except PromptideError as error:
        return str(error)


def check_storage(uri: str, setting: str = "storage_path") -> None:
    """Write a file on this node and read it on every other; `setting` is the place's config key.

    Raises StorageError naming the node that does not see it.
    """
    folder, name = Folder.of(uri, setting), f".probe-{uuid.uuid4().hex}"
    data = os.urandom(32)
    folder.write(name, data)
    try:
        for node in ray.nodes():  # type: ignore[no-untyped-call]
            if not node["Alive"]:
                continue
            strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            seen = ray.get(_read_probe.options(scheduling_strategy=strategy).remote(uri, name))
            if seen != data:
                raise StorageError(
                    f"node {node['NodeManagerAddress']} does not see {setting} {uri}: {seen!r}; "
                    "use a path that all nodes share, or a URI such as s3://"
                )
    finally:
        folder.delete(name)
