"""Each file of a run directory, cut, flipped in one byte, or gone: what comes of it, never nothing.

docs/damage.md has the same table for users.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.settings import StreamSettings
from system.engine.checkpoint import FILE, Checkpoint
from system.errors import PromptideError
from system.report.run_data import read_run
from system.storage.adapters import AdapterFolder
from system.storage.files import Folder
from system.storage.run_directory import CONTENTS, OUTCOME, RANKS, RunDirectory
from tests.integration.in_process import learn_experiment
from tests.integration.small_stream import TASKS, prepare_small_stream, small_experiment

Damage = Callable[[Path], None]
RUN = "whole"


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def remove(file: Path) -> None:
    file.unlink()


DAMAGES = {"cut": cut, "flipped": flip, "removed": remove}
#: An error that names the file; the file in the page's list of what is missing; one line in the
#: log; done again by a start, which says so; or nothing, as nobody reads the file.
ERROR, LISTED, LINE, AGAIN, UNREAD = "error", "listed", "line", "again", "unread"
#: By the file's place in the run directory: what comes of a cut, a flip, a removal.
OUTCOMES = {
    r"config\.yaml": (ERROR, ERROR, ERROR),
    r"contents\.json": (ERROR, ERROR, AGAIN),
    r"stream/(?!LAST)\d+\.json": (ERROR, ERROR, ERROR),
    r"stream/LAST": (LINE, ERROR, AGAIN),
    r"adapters/(adapter\.json|task-\d+\.safetensors)": (ERROR, ERROR, ERROR),
    r"checkpoint\.safetensors": (ERROR, ERROR, AGAIN),  # which the training drops: see test_epochs
    r"metrics\.json": (ERROR, ERROR, LISTED),
    r"(accuracy_matrix|access_log|training_log|examples)\.parquet": (ERROR, ERROR, LISTED),
    r"(outcome\.json|ranks\.parquet)": (ERROR, ERROR, AGAIN),
    r"(logs|ray_train|tensorboard)/.*|report\.html": (UNREAD, UNREAD, UNREAD),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with data and a finished run, made in this process, with all that a command leaves."""
    root = tmp_path_factory.mktemp("damage")
    prepare_small_stream(root)
    experiment = small_experiment(root, RUN, "cluster.workers=0", "stage.epochs=1")
    RunDirectory.of(experiment).claim(experiment, {"backbone.path": "digest"})
    learn_experiment(experiment)
    return root


def start(root: Path) -> None:
    """All that a start of the run reads before it trains, but the checkpoint."""
    experiment = small_experiment(root, RUN, "cluster.workers=0", "stage.epochs=1")
    directory = RunDirectory.of(experiment)
    directory.claim(experiment, {"backbone.path": "digest"})
    directory.require_journal()
    stream = StreamSettings.of(experiment, TASKS).open()
    adapters = AdapterFolder(directory.adapters)
    adapters.header()
    for task in range(len(stream.committed(RUN))):
        adapters.task(task)
    Checkpoint.read(directory.folder)


def finish(root: Path) -> None:
    """What the end of a run and the comparison of several read beside that."""
    folder = Folder.of(root / "runs" / RUN)
    for name in (OUTCOME, CONTENTS):
        if folder.exists(name):
            folder.read_json(name)
    if folder.exists(RANKS):
        folder.read_table(RANKS)


def outcome(root: Path, name: str, log: pytest.LogCaptureFixture) -> str:
    """What comes of a damaged file."""
    file = root / "runs" / RUN / name
    missing: tuple[str, ...] = ()
    for read in (start, finish, lambda root: read_run(root / "runs" / RUN)):
        try:
            found = read(root)
        except PromptideError as error:
            mended = re.search("restore|run the same|delete|dropped|start under", str(error))
            return ERROR if str(file) in str(error) and mended else f"error: {error}"
        missing = getattr(found, "missing", missing)
    if any(str(file) in line for line in log.messages):
        return LINE
    return LISTED if name in missing else "silent"


def expected(name: str, last: str) -> tuple[str, str, str]:
    name = "stream/LAST" if name == last else name
    found = [outcomes for pattern, outcomes in OUTCOMES.items() if re.fullmatch(pattern, name)]
    assert len(found) == 1, f"{name}: which outcomes its damage has stands in no row of the table"
    return found[0]


def test_no_damage_is_silent(whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Else a figure is reported, or a prompt used, that nobody learned."""
    run = whole / "runs" / RUN
    names = sorted(str(p.relative_to(run)) for p in run.rglob("*") if p.is_file())
    last = max(name for name in names if name.startswith("stream/"))
    assert {FILE, "adapters/adapter.json", "metrics.json", OUTCOME} <= set(names)
    wrong = []
    for name in names:
        for want, (kind, damage) in zip(expected(name, last), DAMAGES.items(), strict=True):
            saved = (run / name).read_bytes()
            damage(run / name)
            caplog.clear()
            try:
                found = outcome(whole, name, caplog)
            finally:
                (run / name).write_bytes(saved)
            # Of what is unread or made again, there is nothing that these readers could say.
            if found != (want if want not in (AGAIN, UNREAD) else "silent"):
                wrong.append(f"{name} {kind}: {found}, not {want}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("everything", ["stream", "adapters"])
def test_a_whole_folder_that_is_gone_is_named(whole: Path, tmp_path: Path, everything: str) -> None:
    """An empty journal looks like that of a new run, which would learn all tasks again."""
    folder = whole / "runs" / RUN / everything
    away = tmp_path / everything
    shutil.move(folder, away)
    try:
        with pytest.raises(PromptideError, match=rf"{folder}.*(run_name|adapter\.json)"):
            start(whole)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.move(away, folder)
