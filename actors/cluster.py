"""The Ray cluster a command runs on: reaching it, and checking it before anything starts."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.starting import start_ray
from system.config.schema import BaseExperiment, ClusterConfig
from system.data.shards.manifest import MANIFEST_NAME
from system.errors import ConfigError, PromptideError, StorageError
from system.storage.data_directory import DataDirectory
from system.storage.files import Folder


@contextmanager
def ray_cluster(config: ClusterConfig) -> Iterator[None]:
    """Connect to the cluster, or start one on this machine; leave it as it was found.

    Raises what `start_ray` raises.
    """
    started = not ray.is_initialized()
    if started:
        start_ray(config.address)
    try:
        yield
    finally:
        if started:
            ray.shutdown()


def check_resources(config: ClusterConfig) -> None:
    """Compare what the workers need with what the cluster has.

    Raises ConfigError with the arithmetic, instead of letting a run wait forever.
    """
    if config.workers == 0:
        from system.engine.cards import own_device  # needs torch, which the actors do not

        own_device(
            config.gpu,
            "cluster.workers=0 trains in this process; set cluster.workers=1, and Ray finds a node "
            "that has one",
        )
    fit, nodes = workers_that_fit(config)
    if config.workers > fit:
        each = f"{config.cpus_per_worker:g} CPUs" + (" and a GPU" if config.gpu else "")
        remedy = "lower cluster.workers or cluster.cpus_per_worker"
        if not fit:  # fewer workers would change nothing
            remedy = (
                "start another node that has them (`ray start --address=...`), lower "
                "cluster.cpus_per_worker, or use cluster.address=null for this machine alone"
            )
        raise ConfigError(
            f"cluster.workers={config.workers} need {each} each, and {fit} of them fit on the "
            f"cluster's nodes, which have {nodes}; {remedy}"
            + (", or set cluster.gpu=false" if config.gpu else "")
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


def check_places(experiment: BaseExperiment) -> None:
    """Whether every node sees the places that a run writes to, and the data that it reads.

    Prepared data are only read: they may lie where nobody can write. Raises StorageError naming
    the node and the key of the config.
    """
    data = DataDirectory.of(experiment)
    _check_written(Folder.of(experiment.storage_path))
    _check_written(data.computed)
    if data.computed != data.folder:
        benchmark = data.benchmark(experiment.benchmark.name)
        _check_seen(benchmark, MANIFEST_NAME, benchmark.read(MANIFEST_NAME))


def _check_written(folder: Folder) -> None:
    """Write a file on this node and read it on every other."""
    name, data = f".probe-{uuid.uuid4().hex}", os.urandom(32)
    folder.write(name, data)
    try:
        _check_seen(folder, name, data)
    finally:
        folder.delete(name)


def _check_seen(folder: Folder, name: str, data: bytes) -> None:
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if not node["Alive"]:
            continue
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        read = _read_probe.options(scheduling_strategy=strategy)
        seen = ray.get(read.remote(folder.uri, name))
        if seen != data:
            found = "other bytes" if isinstance(seen, bytes) else seen
            raise StorageError(
                f"node {node['NodeManagerAddress']} does not see {folder.setting} {folder.uri}: "
                f"{found}; use a path that all nodes share, or a URI such as s3://"
            )
