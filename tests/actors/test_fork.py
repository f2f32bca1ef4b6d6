"""A run that begins from another's tasks: the same past, its own name, and once only."""

import dataclasses
from pathlib import Path

import pytest

from actors.fork import fork_run
from actors.settings import StreamSettings
from system.config.compose import compose
from system.config.schema import ExperimentConfig
from system.errors import ConfigError, StorageError
from system.results.replay_audit import replayed_rows
from system.storage.adapters import AdapterFolder, AdapterHeader, task_file
from system.storage.files import Folder
from system.storage.run_directory import RunDirectory
from tests.actors.streams import TASKS, make_manifest

DONE = 2  # tasks that the parent learned


def experiment(root: Path, name: str, *more: str) -> ExperimentConfig:
    return compose(
        [
            "benchmark.name=tiny",
            f"storage_path={root / 'runs'}",
            f"data_path={root / 'data'}",
            f"run_name={name}",
            *more,
        ]
    )


def learn(run: ExperimentConfig, until: int | None = None) -> None:
    """What worker groups do with a stream: one starts again within each task."""
    stream, adapters = StreamSettings.of(run, TASKS, until).open(), RunDirectory.of(run).adapters
    consumer = run.run_name
    generation = stream.register(consumer)
    stream.open_split(consumer, generation, 0, TASKS[0], "test")
    while (lease := stream.lease(consumer, generation)) is not None:
        stream.open_split(consumer, generation, 0, lease.task, "train")
        generation = stream.register(consumer)
        stream.lease(consumer, generation)
        stream.open_split(consumer, generation, 0, lease.task, "train")
        stream.trained(consumer, generation, lease.task)
        stream.open_split(consumer, generation, 0, lease.task, "test")
        adapters.write(task_file(lease.index), lease.task.encode())
        stream.commit(consumer, generation, lease.task, {"task": lease.task, "rows": [0.1]})


@pytest.fixture
def parent(tmp_path: Path) -> ExperimentConfig:
    prepared = tmp_path / "data" / "tiny"
    make_manifest(prepared).save(str(prepared))
    parent = experiment(tmp_path, "parent")
    directory = RunDirectory.of(parent)
    directory.claim(parent, {})
    header = AdapterHeader("b", "f", dict(parent.method), "tiny", "t", "corrected", 0, TASKS)
    AdapterFolder(directory.adapters).save_header(header)
    learn(parent, DONE)
    return parent


@pytest.fixture
def child(tmp_path: Path) -> ExperimentConfig:
    return experiment(tmp_path, "child", "method.task_contrast.weight=[0.1,0.1,0.5]")


def opens(run: ExperimentConfig) -> list[dict[str, object]]:
    log = StreamSettings.of(run, TASKS).open().access_log()
    return [row | {"consumer": "any"} for row in log.to_pylist()]


def files(run: ExperimentConfig) -> dict[str, bytes]:
    root = Path(RunDirectory.of(run).folder.uri)
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*.*")}


def test_the_child_has_the_parents_past_under_its_own_name(
    parent: ExperimentConfig, child: ExperimentConfig
) -> None:
    """Its access log stays a proof: what was read for its tasks, and when."""
    before = files(parent)
    fork_run(parent, child, DONE)
    assert files(parent) == before
    stream = StreamSettings.of(child, TASKS).open()
    assert [payload["task"] for payload in stream.committed("child")] == list(TASKS[:DONE])
    assert stream.committed("parent") == []
    assert opens(child) == opens(parent)
    assert set(stream.access_log()["consumer"].to_pylist()) == {"child"}
    assert replayed_rows(stream.access_log(), TASKS) == 0
    header = AdapterFolder(RunDirectory.of(child).adapters).header()
    assert header.method["task_contrast"]["weight"] == [0.1, 0.1, 0.5]
    assert AdapterFolder(RunDirectory.of(child).adapters).count() == DONE


def test_the_child_goes_on_with_the_next_task(
    parent: ExperimentConfig, child: ExperimentConfig
) -> None:
    fork_run(parent, child, DONE)
    learn(child)
    stream = StreamSettings.of(child, TASKS).open()
    assert [payload["task"] for payload in stream.committed("child")] == list(TASKS)
    assert replayed_rows(stream.access_log(), TASKS) == 0
    trained = [row for row in stream.access_log().to_pylist() if row["split"] == "train"]
    assert [row["task"] for row in trained] == [task for task in TASKS for _ in range(2)]
    assert len(StreamSettings.of(parent, TASKS).open().committed("parent")) == DONE


def test_a_fork_of_a_child_that_has_begun_changes_nothing(
    parent: ExperimentConfig, child: ExperimentConfig
) -> None:
    """A sweep that is started again forks again; the parent may be further by then."""
    fork_run(parent, child, DONE)
    once = files(child)
    for run in (parent, child):
        fork_run(parent, child, DONE)
        assert run is child or files(child) == once
        learn(run)
        after = files(child)
        fork_run(parent, child, DONE)
        assert files(child) == after


@pytest.mark.parametrize("writes", range(7))
def test_an_interrupted_fork_is_mended_by_the_next(
    parent: ExperimentConfig,
    child: ExperimentConfig,
    monkeypatch: pytest.MonkeyPatch,
    writes: int,
) -> None:
    """SIGKILL after any number of files written."""
    left = [writes]

    def dying(write: object) -> object:
        def write_or_die(*arguments: object, **named: object) -> object:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return write(*arguments, **named)  # type: ignore[operator]

        return write_or_die

    with monkeypatch.context() as patched:
        patched.setattr(Folder, "write", dying(Folder.write))
        with pytest.raises(KeyboardInterrupt):
            fork_run(parent, child, DONE)
    assert StreamSettings.of(child, TASKS).open().committed("child") == []
    fork_run(parent, child, DONE)
    assert opens(child) == opens(parent)
    assert len(StreamSettings.of(child, TASKS).open().committed("child")) == DONE
    assert AdapterFolder(RunDirectory.of(child).adapters).count() == DONE
    learn(child)


def test_a_parent_that_stands_elsewhere_is_refused(
    parent: ExperimentConfig, child: ExperimentConfig
) -> None:
    with pytest.raises(StorageError, match=r"learned 2 tasks: 'child' cannot begin .* after 1;"):
        fork_run(parent, child, 1)


def test_a_directory_of_another_config_is_refused(
    parent: ExperimentConfig, child: ExperimentConfig
) -> None:
    fork_run(parent, child, DONE)
    with pytest.raises(ConfigError, match=r"task_contrast\.weight"):
        fork_run(parent, dataclasses.replace(parent, run_name="child"), DONE)
