"""Fork of a run: starts from another run's committed tasks."""

from dataclasses import replace

from actors.journal.journal import begun_with
from actors.settings import StreamSettings
from system.config.schema import ExperimentConfig
from system.engine.contents import contents_of
from system.errors import StorageError
from system.storage.adapters import AdapterFolder, task_file
from system.storage.run_directory import RunDirectory


def fork_run(parent: ExperimentConfig, child: ExperimentConfig, tasks: int) -> None:
    """Start `child` from the `tasks` tasks that `parent` has committed.

    The caller makes sure that both configs ask for the same up to there, and that neither runs. The
    child's journal takes over the parent's commits and access log under the child's name: what was
    read for them, and when. Its run then equals one from scratch, to the bit.

    May be repeated, also after an interruption at any point; a child that has begun already is not
    changed. Raises ConfigError when the child's directory is another run's, StorageError when the
    parent has another number of committed tasks or the storage fails.
    """
    source, target = RunDirectory.of(parent), RunDirectory.of(child)
    target.claim(child, contents_of(child))
    begun = begun_with(source.stream)
    stream = StreamSettings.of(child, begun).open()
    if stream.committed(child.run_name):
        return
    earlier = StreamSettings.of(parent, begun).open()
    committed = earlier.committed(parent.run_name)
    if len(committed) != tasks:
        raise StorageError(
            f"{source.folder.uri} has learned {len(committed)} tasks: {child.run_name!r} cannot "
            f"begin from it as it was after {tasks}; start the sweep under another run_name"
        )
    adapters = AdapterFolder(source.adapters)
    for index in range(tasks):
        target.adapters.write(task_file(index), source.adapters.read(task_file(index)))
    header = replace(adapters.header(), method=dict(child.method))
    AdapterFolder(target.adapters).save_header(header)
    stream.begin_as(child.run_name, earlier, parent.run_name)  # last: from now on they count
