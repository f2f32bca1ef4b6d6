"""A plan whose counts are not those of the run would be worse than none."""

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from system.config.compose import compose
from system.config.schema import ExperimentConfig
from system.errors import ConfigError
from system.grounders.glip.glip import Glip
from system.planning.stream_work import stream_work
from system.planning.work import Work
from system.stream.preflight import prepared, stream_tasks
from tests.integration.in_process import learn_experiment
from tests.integration.small_rec_stream import joined_overrides, prepare_small_rec, rec_overrides
from tests.integration.small_stream import prepare_small_stream, stream_overrides
from tests.planning.counters import Counts, count_grounding, count_retrieval

SHORT = ("method.prompt_length=2", "method.text_prompt_length=2")
ALONE = ("cluster.workers=0", "stage.micro_batches=2")


def planned(experiment: ExperimentConfig) -> Work:
    manifest = prepared(experiment)
    return stream_work(experiment, manifest, stream_tasks(experiment, manifest))


def require_planned(work: Work, found: Counts) -> None:
    """What was counted lies within the plan's bounds: exactly, where these are the same."""
    bounds: dict[tuple[str, str], Counter[str]] = {}
    for passes in work.passes:
        bound = bounds.setdefault((passes.part, passes.mode), Counter())
        bound.update(least=passes.least, likely=passes.likely, most=passes.most)
    assert {key: count for key, count in found.items() if key not in bounds and count} == {}
    for key, bound in bounds.items():
        assert bound["least"] <= bound["likely"] <= bound["most"], key
        assert bound["least"] <= found[key] <= bound["most"], (key, bound, found[key])


def steps_of(run: Path) -> int:
    """The optimiser's steps that a run logged: of each task the last epoch's."""
    last: dict[int, int] = {}
    for row in pq.read_table(run / "training_log.parquet").to_pylist():
        last[row["task_index"]] = row["step"]
    return sum(last.values())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planned")
    prepare_small_stream(folder)
    return folder


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planned_rec")
    prepare_small_rec(folder)
    return folder


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("lpi", ("method.prompt_length=4", "stage.batch_size=8")),
        (
            "ewc",
            ("method.prompt_length=2", "method.text_prompt_length=2", "stage.epoch_over=captions"),
        ),
        ("joint", ("inputs.router_placeholders=true",)),
        ("zero_shot", ()),
    ],
)
def test_retrieval_is_as_planned(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    more: tuple[str, ...],
) -> None:
    """Of a method with a router, one that goes on, one that waits for all tasks, and none."""
    overrides = [*stream_overrides(root, method), f"method={method}", *ALONE, *more]
    data = tmp_path / "data"  # with no features of another method's run
    data.mkdir()
    (data / "small").symlink_to(root / "data" / "small")
    overrides += [f"data_path={data}", f"storage_path={tmp_path / 'runs'}"]
    experiment = compose(overrides)
    work = planned(experiment)
    found = count_retrieval(monkeypatch)
    learn_experiment(experiment)
    require_planned(work, found)
    assert work.steps == steps_of(tmp_path / "runs" / method)
    assert (work.steps > 0) == (method != "zero_shot")
    trained = sum(p.most for p in work.passes if p.mode == "training")
    assert trained == sum(count for (_, mode), count in found.items() if mode == "training")


@pytest.mark.parametrize("joined", [False, True])
def test_grounding_is_as_planned(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, joined: bool
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "shapes").symlink_to(shapes / "shapes")
    of = joined_overrides if joined else rec_overrides
    prompts = SHORT[:1] if joined else ("method.prompt_length=4", SHORT[1])
    splits = "evaluation.split=[test,val]" if joined else "evaluation.split=test"
    experiment = compose(
        [
            *of(shapes, "rec", *ALONE, *prompts, splits),
            f"data_path={data}",
            f"storage_path={tmp_path / 'runs'}",
        ]
    )
    work = planned(experiment)
    found = count_grounding(monkeypatch, Glip)
    learn_experiment(experiment)
    require_planned(work, found)
    assert work.steps == steps_of(tmp_path / "runs" / "rec") > 0
    assert work.samples == sum(n for (_, mode), n in found.items() if mode == "training")


def test_a_stream_that_grows_has_no_plan(root: Path) -> None:
    experiment = compose([*stream_overrides(root, "live"), *ALONE, "stream.live=true"])
    with pytest.raises(ConfigError, match=r"stream\.live=true: nobody knows"):
        planned(experiment)
