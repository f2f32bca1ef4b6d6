"""The task stream, all its modules together, against a plain model, with crashes between steps."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actors.state.task_stream_state import TaskStream
from system.errors import ConfigError, DataError, ReplayRefusedError
from system.results.replay_audit import replayed_rows
from system.stream.task_source import (
    NotLeasedError,
    StaleGenerationError,
    StreamClosedError,
    StreamFullError,
)
from tests.actors.streams import ROWS, TASKS, make_live_stream

MAX_PENDING = 2
COMPACT_AFTER = 7


class StreamAgainstModel(RuleBasedStateMachine):
    """Any order of calls by two consumers and whoever feeds the stream, against a plain model.

    The stream's process dies between any two of them.
    """

    consumers = st.sampled_from(["one", "two"])

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.stream = self.make()
        self.tasks = ["animals"]
        self.open = True
        self.reached = 0
        self.appends: dict[str, list[str]] = {}
        self.newest = 0
        self.generation: dict[str, int] = {}
        self.leased: dict[str, str | None] = {}
        self.trained: set[str] = set()  # consumers whose leased task is
        self.commits: dict[str, list[dict[str, Any]]] = {}
        self.opens: list[tuple[str, str, str]] = []
        self.writes = 0

    def make(self) -> TaskStream:
        """A process that starts anew."""
        return make_live_stream(
            self.root, "animals", max_pending=MAX_PENDING, compact_after=COMPACT_AFTER
        )

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    @rule(consumer=consumers)
    def register(self, consumer: str) -> None:
        generation = self.stream.register(consumer)
        assert generation > self.newest
        self.newest = self.generation[consumer] = generation
        self.leased[consumer] = None
        self.trained.discard(consumer)
        self.commits.setdefault(consumer, [])

    @precondition(lambda self: self.generation)
    @rule(consumer=consumers)
    def lease(self, consumer: str) -> None:
        if consumer not in self.generation:
            with pytest.raises(StaleGenerationError):
                self.stream.lease(consumer, self.newest)
            return
        generation, done = self.generation[consumer], len(self.commits[consumer])
        assert self.stream.ready(consumer, generation) == (done < len(self.tasks) or not self.open)
        if done == len(self.tasks) and self.open:
            with pytest.raises(NotLeasedError, match="until ready"):
                self.stream.lease(consumer, generation)
            return
        lease = self.stream.lease(consumer, generation)
        expected = self.tasks[done] if done < len(self.tasks) else None
        assert (lease.task if lease else None) == expected
        self.leased[consumer] = expected
        if lease is not None:
            self.reached = max(self.reached, done + 1)

    @rule(
        task=st.sampled_from([*TASKS, "zoo"]),
        again=st.booleans(),
        order=st.sampled_from([None, "turned", "stale"]),
    )
    def append(self, task: str, again: bool, order: str | None) -> None:
        name = f"append-{task}"
        turned = [task, *self.tasks[self.reached :][::-1]]
        if again and name in self.appends:  # Ray repeats a call whose answer was lost
            assert self.stream.append([task], call_id=name) == self.tasks[self.reached :]
            return
        pending = len(self.tasks) - self.reached
        refusal: type[Exception] | None = None
        if not self.open:
            refusal = StreamClosedError
        elif task == "zoo" or task in self.tasks:
            refusal = ConfigError
        elif pending >= MAX_PENDING:
            refusal = StreamFullError
        elif order == "stale":  # one of those that were pending was taken meanwhile
            refusal, turned = ConfigError, [*turned, "gone"]
        if refusal is not None:
            with pytest.raises(refusal):
                self.stream.append([task], turned if order else None, call_id=f"{name} anew")
            return
        answer = self.stream.append([task], turned if order else None, call_id=name)
        self.tasks[self.reached :] = turned if order else [*self.tasks[self.reached :], task]
        assert answer == self.tasks[self.reached :]
        self.appends[name] = [task]

    @rule(stale=st.booleans())
    def reorder(self, stale: bool) -> None:
        turned = self.tasks[self.reached :][::-1]
        if stale:
            with pytest.raises(ConfigError, match="meanwhile"):
                self.stream.reorder([*turned, "zoo"])
            return
        self.stream.reorder(turned)
        self.tasks[self.reached :] = turned

    @precondition(lambda self: len(self.tasks) > 1)
    @rule()
    def close(self) -> None:
        self.stream.close()
        self.open = False

    @precondition(lambda self: self.generation)
    @rule(consumer=consumers, task=st.sampled_from(TASKS), split=st.sampled_from(list(ROWS)))
    def open_split(self, consumer: str, task: str, split: str) -> None:
        generation = self.generation.get(consumer, 0)
        if consumer not in self.generation:
            refusal: type[Exception] | None = StaleGenerationError
        elif task not in self.tasks:
            refusal = DataError
        else:
            current = task == self.leased[consumer] and consumer not in self.trained
            free = split == "test" or current
            refusal = None if free else ReplayRefusedError
        if refusal is not None:
            with pytest.raises(refusal):
                self.stream.open_split(consumer, generation, 0, task, split)
            return
        assert self.stream.open_split(consumer, generation, 0, task, split).rows == ROWS[split]
        self.opens.append((consumer, task, split))

    @precondition(lambda self: self.generation)
    @rule(consumer=consumers, task=st.sampled_from(TASKS))
    def train(self, consumer: str, task: str) -> None:
        generation = self.generation.get(consumer, 0)
        done = [commit["task"] for commit in self.commits.get(consumer, [])]
        if consumer not in self.generation:
            with pytest.raises(StaleGenerationError):
                self.stream.trained(consumer, generation, task)
        elif task not in done and task != self.leased[consumer]:
            with pytest.raises(NotLeasedError):
                self.stream.trained(consumer, generation, task)
        else:
            self.stream.trained(consumer, generation, task)
            if task == self.leased[consumer]:
                self.trained.add(consumer)

    @precondition(lambda self: self.generation)
    @rule(consumer=consumers, task=st.sampled_from(TASKS), age=st.integers(0, 1))
    def commit(self, consumer: str, task: str, age: int) -> None:
        self.writes += 1
        payload = {"task": task, "write": self.writes}
        generation = self.generation.get(consumer, 0) - age
        done = [commit["task"] for commit in self.commits.get(consumer, [])]
        if consumer not in self.generation or age:
            with pytest.raises(StaleGenerationError):
                self.stream.commit(consumer, generation, task, payload)
        elif task in done:
            self.stream.commit(consumer, generation, task, payload)
        elif task != self.leased[consumer]:
            with pytest.raises(NotLeasedError):
                self.stream.commit(consumer, generation, task, payload)
        else:
            self.stream.commit(consumer, generation, task, payload)
            self.commits[consumer].append(payload)
            self.leased[consumer] = None
            self.trained.discard(consumer)

    @rule(torn=st.sampled_from([None, "{number}.json", ".{number}.json.tmp"]))
    def crash(self, torn: str | None) -> None:
        journal = self.root / "journal"
        if torn is not None:
            newest = max(int(file.stem[-8:]) for file in journal.glob("[0-9]*.json"))
            number = f"{newest + 1:08d}"
            (journal / torn.format(number=number)).write_bytes(b'{"sequence":')
            # The torn record stays until something is written: it must not hide from one look.
            self.make()
        self.stream = self.make()
        if torn is not None:
            self.register("one")

    @rule(torn=st.booleans(), kept=st.sets(st.integers(0, 9)))
    def crash_while_compacting(self, torn: bool, kept: set[int]) -> None:
        """In the middle of the snapshot's write, or with so many of the old files removed."""
        journal = self.root / "journal"
        before = {file: file.read_bytes() for file in journal.glob("*.json")}
        self.stream.compact()
        if torn:
            for file in set(journal.glob("*.json")) - set(before):
                file.write_bytes(file.read_bytes()[:-5])
            self.make()  # a look changes nothing
        else:
            self.register("one")  # old files are removed before the next record
            for number, file in enumerate(sorted(before)):
                if number in kept and not file.exists():
                    file.write_bytes(before[file])
        self.stream = self.make()

    @invariant()
    def agrees_with_the_model(self) -> None:
        whole = self.stream.status()
        assert (whole["tasks"], whole["open"]) == (self.tasks, self.open)
        assert whole["pending"] == self.tasks[self.reached :]
        status = whole["consumers"]
        assert {name: entry["generation"] for name, entry in status.items()} == self.generation
        assert {name: entry["current_task"] for name, entry in status.items()} == self.leased
        shown = {
            (name, task["task"])
            for name, entry in status.items()
            for task in entry["tasks"]
            if task["state"] == "trained"
        }
        assert shown == {(name, self.leased[name]) for name in self.trained}
        for consumer, commits in self.commits.items():
            assert self.stream.committed(consumer) == commits
        log = self.stream.access_log()
        seen = log.select(["consumer", "task", "split"]).to_pylist()
        assert [tuple(entry.values()) for entry in seen] == self.opens
        assert replayed_rows(log, self.tasks) == 0


TestStreamAgainstModel = StreamAgainstModel.TestCase
TestStreamAgainstModel.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, derandomize=True
)
