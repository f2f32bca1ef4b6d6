"""Reaching Ray, or saying in one line why not."""

import pytest
import ray

from actors.cluster import ray_cluster
from system.config.compose import compose
from system.errors import ClusterError


def test_a_machine_too_busy_for_ray_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises a bare Exception, which would be a traceback of its own files."""

    def late(**_: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because ...")

    def broken(**_: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    cluster = compose([]).cluster
    monkeypatch.setattr(ray, "init", late)
    with pytest.raises(ClusterError, match="too busy"), ray_cluster(cluster):
        raise AssertionError("nothing was reached")
    monkeypatch.setattr(ray, "init", broken)
    with pytest.raises(RuntimeError, match="something else"), ray_cluster(cluster):
        raise AssertionError("nothing was reached")
