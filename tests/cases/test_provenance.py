"""A run records another data set than it learns from, or is refused its own, if these fail."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from system.cli.prepare import prepare_benchmark
from system.cli.prepared_experiment import prepared_experiment
from system.config.compose import compose
from system.data.prepare.origin import Origin
from system.data.shards.manifest import Manifest
from system.engine.contents import contents_of
from system.errors import ConfigError, DataError, StorageError
from system.storage.files import Folder
from system.storage.run_directory import RunDirectory
from tests.cases.conftest import Ended
from tests.data.coco_files import png

QUIET = Console(quiet=True)


def folder_of_pictures(root: Path, first: int, size: tuple[int, int] = (8, 6)) -> Path:
    root.mkdir()
    names = [f"{n}.png" for n in range(first, first + 30)]
    rows = [f"{name},a picture called {name}" for name in names]
    (root / "captions.csv").write_text("\n".join(["file_name,caption", *rows]))
    for n, name in enumerate(names, first):
        (root / name).write_bytes(png(size, n))
    return root


def words(root: Path | None, tmp_path: Path, *more: str) -> list[str]:
    given = [] if root is None else [f"benchmark.options.root={root}"]
    task = "benchmark.options.task_by=dataset"
    return ["benchmark=folder", f"data_path={tmp_path / 'data'}", task, *given, *more]


def test_a_run_on_another_root_than_prepared_is_refused(tmp_path: Path) -> None:
    first, second = (folder_of_pictures(tmp_path / n, k) for n, k in (("a", 0), ("b", 60)))
    prepare_benchmark(compose(words(first, tmp_path)), QUIET)
    with pytest.raises(ConfigError) as refused:
        prepared_experiment(words(second, tmp_path), None, QUIET)
    assert str(first) in str(refused.value)
    assert str(second) in str(refused.value)
    with pytest.raises(ConfigError, match="prepared from another source"):
        prepare_benchmark(compose(words(second, tmp_path)), QUIET)
    prepare_benchmark(compose(words(second, tmp_path)), QUIET, replace=True)
    found = prepared_experiment(words(second, tmp_path), None, QUIET)
    assert found.benchmark.options["root"] == str(second)


def test_options_not_given_are_those_prepared_with(tmp_path: Path) -> None:
    """config.yaml would name the group's defaults, which nobody used."""
    root = folder_of_pictures(tmp_path / "a", 0)
    rule = "benchmark.options.caption_rule=lpi"
    prepare_benchmark(compose(words(root, tmp_path, rule)), QUIET)
    found = prepared_experiment(words(None, tmp_path), None, QUIET).benchmark.options
    assert (found["caption_rule"], found["root"]) == ("lpi", str(root))
    with pytest.raises(ConfigError, match=r"caption_rule='none' \(prepared with 'lpi'\)"):
        prepared_experiment(
            words(None, tmp_path, "benchmark.options.caption_rule=none"), None, QUIET
        )


def test_what_is_not_prepared_prepares_itself_or_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder_of_pictures(tmp_path / "a", 0)
    prepared_experiment(words(root, tmp_path), None, Console(width=200))
    assert "benchmark 'folder' is not prepared yet: preparing it" in capsys.readouterr().out
    recorded = Origin.recorded(Manifest.load(str(tmp_path / "data/folder")))
    assert (recorded.dataset, recorded.options["root"]) == ("folder", str(root))
    with pytest.raises(DataError, match=r"not prepared in .*benchmark\.options\.root is not set"):
        prepared_experiment(words(None, tmp_path, "benchmark.name=other"), None, QUIET)


def test_moved_data_and_backbone_go_on_and_changed_ones_do_not(tmp_path: Path) -> None:
    root = folder_of_pictures(tmp_path / "a", 0)
    backbone = tmp_path / "backbone"
    backbone.mkdir()
    (backbone / "model.safetensors").write_bytes(b"weights")

    def claim(root: Path, backbone: Path) -> bool:
        given = words(
            root, tmp_path, f"backbone.path={backbone}", f"storage_path={tmp_path / 'runs'}"
        )
        experiment = prepared_experiment(given, None, QUIET)
        return RunDirectory.of(experiment).claim(experiment, contents_of(experiment))

    assert claim(root, backbone) is False
    moved = Path(shutil.copytree(root, tmp_path / "b", copy_function=shutil.copyfile))
    elsewhere = Path(shutil.copytree(backbone, tmp_path / "moved"))
    assert claim(moved, elsewhere) is True
    (elsewhere / "model.safetensors").write_bytes(b"other w")
    with pytest.raises(ConfigError, match=r"backbone\.path='.*moved'"):
        claim(moved, elsewhere)
    (backbone / "model.safetensors").write_bytes(b"other w")
    with pytest.raises(ConfigError, match=r"backbone\.path holds other content than when the run"):
        claim(root, backbone)


def test_two_prepares_of_one_benchmark_both_end_well(tmp_path: Path) -> None:
    root = folder_of_pictures(tmp_path / "a", 0, size=(640, 480))
    command = [sys.executable, "-m", "system.app", "prepare", *words(root, tmp_path)]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ended = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    assert Manifest.load(str(tmp_path / "data/folder")).counts["all"]["train"] > 0


def test_replace_is_a_word_of_prepare(tmp_path: Path, promptide: Callable[..., Ended]) -> None:
    first, second = (folder_of_pictures(tmp_path / n, k) for n, k in (("a", 0), ("b", 60)))
    promptide("prepare", *words(first, tmp_path)).passed()
    assert "--replace" in promptide("prepare", *words(second, tmp_path)).refused()
    promptide("prepare", *words(second, tmp_path), "--replace").passed()


def test_what_is_prepared_where_nobody_writes_is_taken_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share of a group: scripts that begin with `prepare` go on, also without the raw files."""
    root = folder_of_pictures(tmp_path / "a", 0)
    prepare_benchmark(compose(words(root, tmp_path)), QUIET)
    before = sorted((tmp_path / "data").rglob("*"))

    def refuse(folder: Folder, name: str, data: bytes) -> None:
        raise StorageError(f"{folder.uri} cannot be written: the filesystem is read-only")

    monkeypatch.setattr(Folder, "write", refuse)
    for given in (root, None):
        prepare_benchmark(compose(words(given, tmp_path)), Console(width=200))
        assert "prepared, and nothing can be written here" in capsys.readouterr().out
    rule = words(root, tmp_path, "benchmark.options.caption_rule=lpi")
    with pytest.raises(ConfigError, match="was prepared from another source"):
        prepare_benchmark(compose(rule), QUIET)
    with pytest.raises(StorageError, match="read-only"):
        prepare_benchmark(compose(words(root, tmp_path)), QUIET, replace=True)
    with pytest.raises(StorageError, match="read-only"):
        prepare_benchmark(compose(words(root, tmp_path, "benchmark.name=other")), QUIET)
    assert sorted((tmp_path / "data").rglob("*")) == before
