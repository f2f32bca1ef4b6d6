"""What a user types and what lies on disk goes in; what cannot work is said before it is begun."""

import json
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.cases.conftest import Ended

SWEEP = ("tune=contrast", "benchmark.tasks=null", "evaluation.split=test", "tune.samples=1")


@pytest.mark.parametrize(
    "word",
    [
        *("data_path=out/h=1", "data_path=out/a(b)", "data_path=out/x#1", "data_path=out/tilde~x"),
        *("data_path=out/äö", "data_path=out/a,b", "run_name=2024", "benchmark.tasks=[0,1]"),
        *("data_path=out/[bold]:smile:", "data_path=out/a b'c", "data_path=out/日本?&;"),
    ],
)
def test_a_plain_value_needs_no_quotes_of_hydra(
    case: Callable[[str], Path],
    promptide: Callable[..., Ended],
    monkeypatch: pytest.MonkeyPatch,
    word: str,
) -> None:
    root = case("same-caption-many-images") / "data"
    monkeypatch.chdir(root.parent)
    words = ["benchmark=folder", "benchmark.name=case", f"benchmark.options.root={root}"]
    printed = promptide("prepare", *words, word).passed()
    key, _, value = word.partition("=")
    place = Path(value if key == "data_path" else "data") / "case"
    assert (place / "manifest.json").exists()
    assert str(place) in printed


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """A file system on which nothing is left; skips the test where none can be mounted."""
    filled = subprocess.run(
        f"cp -r {folder} {folder}.kept && mount -t tmpfs -o size=4m tmpfs {folder} "
        f"&& cp -r {folder}.kept/. {folder} && (cat /dev/zero > {folder}/rest; true)",
        shell=True,
        capture_output=True,
    )
    try:
        if filled.returncode:
            pytest.skip(f"no file system can be mounted here: {filled.stderr.decode()}")
        yield
    finally:
        subprocess.run(["umount", folder], capture_output=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder mounted again so that nothing can be written."""
    mounted = subprocess.run(
        f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}",
        shell=True,
        capture_output=True,
    )
    try:
        if mounted.returncode:
            pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode()}")
        yield
    finally:
        subprocess.run(["umount", folder], capture_output=True)


@contextmanager
def without_room(folder: Path) -> Iterator[None]:
    """A process that may write small files only, as on a disk that is nearly full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("broken", [full, read_only, without_room])
@pytest.mark.parametrize("command", ["run", "sweep"])
def test_a_data_path_that_cannot_be_written_is_named_before_ray_starts(
    case: Callable[[str], Path],
    promptide: Callable[..., Ended],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    broken: Callable[[Path], AbstractContextManager[None]],
    command: str,
) -> None:
    """Another storage_path would not help, and half an hour of features would be lost."""
    root, data = case("same-caption-many-images") / "data", tmp_path / "data"
    words = ["benchmark=folder", "benchmark.name=case", f"benchmark.options.root={root}"]
    words += [f"data_path={data}", f"storage_path={tmp_path / 'runs'}", "stage.batch_size=8"]
    promptide("prepare", *words).passed()
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
    with broken(data):
        more = (
            ["tune=contrast", "benchmark.tasks=null", "evaluation.split=test"]
            if command == "sweep"
            else []
        )
        refused = promptide(command, *words, *more).refused()
    assert str(data) in refused
    assert "data_path" in refused
    assert "storage_path" not in refused


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_an_address_without_ray_is_refused_before_data_are_prepared(
    case: Callable[[str], Path], promptide: Callable[..., Ended], tmp_path: Path, command: str
) -> None:
    """Preparing takes hours, and what it needs is not on the cluster."""
    root, data = case("same-caption-many-images") / "data", tmp_path / "data"
    words = ["benchmark=folder", f"benchmark.options.root={root}", f"data_path={data}"]
    words += ["cluster.address=head", *(SWEEP if command == "sweep" else ())]
    assert "cluster.address='head' is no address" in promptide(command, *words).refused()
    assert not data.exists()


@pytest.mark.ray
def test_prepared_data_may_lie_where_nobody_can_write(
    case: Callable[[str], Path],
    promptide: Callable[..., Ended],
    tmp_path: Path,
) -> None:
    """A share of a group: who trains on it keeps features and pages elsewhere."""
    root, data = case("same-caption-many-images") / "data", tmp_path / "data"
    words = ["benchmark=folder", "benchmark.name=case", f"data_path={data}"]
    prepared = promptide("prepare", *words, f"benchmark.options.root={root}")
    prepared.passed()
    before = sorted(data.rglob("*"))
    words += [f"storage_path={tmp_path / 'runs'}", "run_name=on-share", "cluster.workers=0"]
    words += ["stage.epochs=1", f"cache_path={tmp_path / 'cache'}"]
    with read_only(data):
        promptide("run", *words).passed()
        promptide("evaluate", *words).passed()
    assert sorted(data.rglob("*")) == before
    assert list((tmp_path / "cache" / "features").iterdir())
    assert (tmp_path / "runs" / "on-share" / "metrics.json").exists()


@pytest.mark.ray
def test_a_caption_that_stands_at_several_images_is_counted(
    case: Callable[[str], Path], promptide: Callable[..., Ended], tmp_path: Path
) -> None:
    """A recall of 0 by construction must not look like a method that fails."""
    root, runs = case("same-caption-many-images") / "data", tmp_path / "runs"
    words = ["benchmark=folder", f"benchmark.options.root={root}", f"data_path={tmp_path / 'data'}"]
    words += [f"storage_path={runs}", "run_name=same", "cluster.workers=0", "stage.epochs=1"]
    printed = promptide("run", *words).passed()
    evaluation = json.loads((runs / "same" / "metrics.json").read_text())["evaluation"]
    repeated = evaluation["repeated_texts"]
    for task, found in repeated["per_task"].items():
        assert task in ("apple", "banana")
        assert found["texts"] == found["at_several_images"] > 1
        assert found["highest"]["i2t_r1"] == 0
        assert found["highest"]["t2i_r1"] == pytest.approx(100 / found["texts"])
    line = f"{repeated['texts']} of {repeated['texts']} test texts stand at several images"
    for shown in (printed, (runs / "same" / "report.html").read_text()):
        assert line in " ".join(shown.split())
        assert "apple: " in shown
