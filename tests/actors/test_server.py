"""The streams of many runs in one process, without Ray: each has its own journal, none waits."""

import asyncio
import dataclasses
import os
from pathlib import Path

import pytest

from actors.pulse import Pulse
from actors.rank_process import RankProcess
from actors.server import TaskStreamServer
from actors.settings import StreamSettings
from system.errors import ConfigError, StorageError
from system.stream.task_source import StreamHaltedError
from tests.actors.streams import TASKS, make_manifest


def settings_of(root: Path, run: str) -> StreamSettings:
    return StreamSettings(str(root / run / "stream"), str(root), TASKS)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_manifest(tmp_path).save(str(tmp_path))
    return tmp_path


def test_a_stream_that_stands_still_in_its_storage_holds_back_no_other(root: Path) -> None:
    """Else one trial's slow disk stops the whole sweep."""
    stuck, free = settings_of(root, "stuck"), settings_of(root, "free")
    server = TaskStreamServer(None)
    aside = root / "stuck" / "stream" / ".00000001.json.tmp"

    async def scenario() -> None:
        await server.call(stuck, "status")
        os.mkfifo(aside)  # to open it for writing waits until somebody reads
        waiting = asyncio.create_task(server.call(stuck, "register", "stuck"))
        behind = asyncio.create_task(server.call(stuck, "status"))
        generation = await server.call(free, "register", "free")
        for task in TASKS:
            lease = await server.call(free, "lease", "free", generation)
            assert lease.task == task
            await server.call(free, "commit", "free", generation, task, {})
        assert await server.ready(free, "free", generation, 0.0)
        # Or the watchdog could not tell which rank waits for that storage.
        pulse = Pulse(0, RankProcess(1, "node", "ab12", 3, 4, 12), 1, 7, "commit")
        await server.pulse("ab12", pulse)
        assert await server.pulses("ab12") == [pulse]
        await server.forget_pulses("ab12")
        assert await server.pulses("ab12") == []
        assert not waiting.done()
        assert not behind.done()
        # A pipe cannot be synced.
        with aside.open("rb"), pytest.raises(StorageError, match="stuck"):
            await waiting
        assert (await behind)["consumers"] == {}
        assert await server.call(stuck, "register", "stuck") == 1

    asyncio.run(scenario())


def test_a_halt_reaches_its_run_alone(root: Path) -> None:
    """A sweep stops one trial of many by its name."""
    server = TaskStreamServer(None)
    streams = {run: settings_of(root, run) for run in ("one", "two")}

    async def scenario() -> None:
        for run, settings in streams.items():
            await server.call(settings, "register", run)
        await server.halt("one")
        with pytest.raises(StreamHaltedError, match="one"):
            await server.call(streams["one"], "post_progress", "one", {})
        assert await server.call(streams["one"], "lease", "one", 1) is None
        assert (await server.call(streams["two"], "lease", "two", 1)).task == TASKS[0]
        await server.leave(streams["one"])  # the next sweep goes on with it
        assert (await server.call(streams["one"], "lease", "one", 1)).task == TASKS[0]

    asyncio.run(scenario())


def test_a_run_that_left_goes_on_with_another_limit(root: Path) -> None:
    """The trials of a population learn a few tasks, are compared, and learn the next few."""
    server = TaskStreamServer(None)
    rounds = [dataclasses.replace(settings_of(root, "one"), until=until) for until in (1, None)]

    async def scenario() -> None:
        assert await server.call(rounds[0], "register", "one") == 1
        await server.call(rounds[0], "lease", "one", 1)
        await server.call(rounds[0], "commit", "one", 1, TASKS[0], {})
        assert await server.ready(rounds[0], "one", 1, 0.0)
        assert await server.call(rounds[0], "lease", "one", 1) is None
        await server.leave(rounds[0])
        assert (await server.call(rounds[1], "lease", "one", 1)).task == TASKS[1]

    asyncio.run(scenario())


def test_a_run_that_died_before_it_left_goes_on_too(root: Path) -> None:
    """A trial killed at the end of a round must not fail in the next, nor write there any more."""
    server = TaskStreamServer(None)
    rounds = [dataclasses.replace(settings_of(root, "one"), until=until) for until in (1, 2, None)]

    async def scenario() -> None:
        await server.call(rounds[0], "register", "one")
        await server.call(rounds[0], "lease", "one", 1)
        await server.call(rounds[0], "commit", "one", 1, TASKS[0], {})
        assert await server.call(rounds[1], "register", "one") == 2
        assert (await server.call(rounds[1], "lease", "one", 2)).task == TASKS[1]
        with pytest.raises(ConfigError, match="serves another"):
            await server.call(rounds[0], "lease", "one", 1)
        assert await server.ready(rounds[2], "one", 2, 0.0)

    asyncio.run(scenario())


def test_one_journal_is_not_opened_twice_in_two_ways(root: Path) -> None:
    """Two writers in one journal would lose each other's records."""
    server = TaskStreamServer(None)
    asyncio.run(server.call(settings_of(root, "one"), "register", "one"))
    other = StreamSettings(str(root / "one" / "stream"), str(root), TASKS[::-1])
    with pytest.raises(ConfigError, match=r"one/stream.*serves another"):
        asyncio.run(server.call(other, "status"))
