"""TensorBoard's event files hold each point once, however often a run starts."""

from pathlib import Path

from tests.loggers.event_files import scalars
from tests.loggers.logged_stream import CURVE, RECALL, experiment, logged


def test_tensorboard_is_always_there_and_holds_no_point_twice(tmp_path: Path) -> None:
    logged(experiment(tmp_path))
    found = scalars(tmp_path / "logged" / "tensorboard")
    assert [point for point in found if point[0] == "train/loss"] == CURVE
    assert [point for point in found if point[0] == "eval/t2i_r1"] == RECALL
    final = {name: value for name, _, value in found if name.startswith("final/")}
    assert final["final/average_t2i_r1"] == 20.0
    assert final["final/oracle_t2i_r1"] == 22.0
    assert final["final/seconds"] == 3.5
    assert "final/average_i2t_r1" not in final
