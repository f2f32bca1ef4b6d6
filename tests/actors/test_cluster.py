"""Whether a cluster has what a run needs, and sees where it reads and writes."""

from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch

from actors.cluster import check_places, check_resources
from system.config.compose import compose
from system.config.schema import ExperimentConfig
from system.errors import ConfigError, StorageError
from system.storage.files import Folder


def nodes(monkeypatch: pytest.MonkeyPatch, *resources: dict[str, float]) -> None:
    found = [{"Alive": True, "Resources": each} for each in resources]
    monkeypatch.setattr(ray, "nodes", lambda: found)


def test_a_cluster_without_any_cpu_is_told_to_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer workers would not help where none fits."""
    cluster = compose(["cluster.workers=2"]).cluster
    nodes(monkeypatch, {"memory": 1e9})
    with pytest.raises(ConfigError, match=r"0 of them fit .* 0 CPUs; start another node"):
        check_resources(cluster)
    nodes(monkeypatch, {"CPU": 1.0})
    with pytest.raises(ConfigError, match=r"1 of them fit .*; lower cluster\.workers"):
        check_resources(cluster)


def test_a_head_without_cpus_or_gpus_takes_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = compose(["cluster.workers=2", "cluster.gpu=true"]).cluster
    nodes(monkeypatch, {"memory": 1e9}, {"CPU": 8.0, "GPU": 2.0})
    check_resources(cluster)
    nodes(monkeypatch, {"CPU": 8.0}, {"CPU": 8.0, "GPU": 1.0})
    with pytest.raises(ConfigError, match=r"1 of them fit .* 0\+1 GPUs"):
        check_resources(cluster)


def test_no_gpu_is_promised_to_a_driver_that_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU-only head, cluster.workers=0 would train on the CPU without a word."""
    cluster = compose(["cluster.workers=0", "cluster.gpu=true"]).cluster
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    nodes(monkeypatch, {"CPU": 8.0}, {"CPU": 8.0, "GPU": 1.0})
    with pytest.raises(ConfigError, match=r"cluster\.gpu=true.*set cluster\.workers=1"):
        check_resources(cluster)
    check_resources(replace(cluster, gpu=False))


def experiment(root: Path, *more: str) -> ExperimentConfig:
    words = [f"storage_path={root / 'runs'}", f"data_path={root / 'data'}", *more]
    return compose(["benchmark.name=one", *words])


@pytest.mark.ray
def test_prepared_data_are_only_read_where_cache_path_is_set(
    ray_local: None, tmp_path: Path
) -> None:
    (tmp_path / "data" / "one").mkdir(parents=True)
    (tmp_path / "data" / "one" / "manifest.json").write_text("{}")
    written: list[str] = []
    write = Folder.write

    def watched(self: Folder, name: str, data: bytes, *, new: bool = False) -> None:
        written.append(self.path)
        write(self, name, data, new=new)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Folder, "write", watched)
        check_places(experiment(tmp_path, f"cache_path={tmp_path / 'cache'}"))
        assert written == [f"{tmp_path}/runs", f"{tmp_path}/cache"]
        written.clear()
        check_places(experiment(tmp_path))
        assert written == [f"{tmp_path}/runs", f"{tmp_path}/data"]


@pytest.mark.ray
@pytest.mark.parametrize("setting", ["storage_path", "cache_path", "data_path"])
def test_a_node_that_does_not_see_a_place_is_named_with_its_key(
    ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    """As on two machines with a disk each: here files are there for this process alone."""
    there = {"manifest.json": b"{}"}
    read, write = Folder.read, Folder.write

    def own_read(self: Folder, name: str) -> bytes:
        return there[name] if self.setting == setting else read(self, name)

    def own_write(self: Folder, name: str, data: bytes, *, new: bool = False) -> None:
        if self.setting != setting:
            write(self, name, data, new=new)

    (tmp_path / "data" / "one").mkdir(parents=True)
    if setting != "data_path":
        (tmp_path / "data" / "one" / "manifest.json").write_text("{}")
    monkeypatch.setattr(Folder, "read", own_read)
    monkeypatch.setattr(Folder, "write", own_write)
    with pytest.raises(StorageError, match=rf"^node \S+ does not see {setting} .*all nodes share"):
        check_places(experiment(tmp_path, f"cache_path={tmp_path / 'cache'}"))
