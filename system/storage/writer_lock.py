"""One writer per run directory: a small file that names the writer, which beats while it lives.

Where a writer's process can be looked up (same boot, same process namespace) the process decides
whether it is gone. Elsewhere its beats do: a file that does not change for a while has no writer.
Beats are counted and not dated, so no two machines have to agree on the time.
"""

import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from system.config.parse import parse_dataclass
from system.errors import StorageError
from system.storage.files import Folder, is_local
from system.storage.foreign_json import parse_json

LOCK_NAME = "writer.json"


@dataclass(frozen=True)
class Pace:
    """Seconds between two beats, without a beat until a writer counts as gone, and to settle.

    An object store has no exclusive create: who wrote last, after the time to settle, has the lock.
    """

    beat: float = 5.0
    gone: float = 30.0
    settle: float = 1.0


@dataclass(frozen=True)
class Writer:
    """Who writes: a process by its number and its start, in the boot and namespace `place`."""

    host: str
    place: str  # "": the system does not tell
    pid: int
    started: str
    token: str
    beats: int = 0

    @classmethod
    def here(cls) -> "Writer":
        """This process, under a name that is never used again."""
        pid = os.getpid()
        return cls(socket.gethostname(), _place(), pid, _start_of(pid) or "", uuid.uuid4().hex)

    @property
    def gone(self) -> bool | None:
        """Whether its process has ended; None when that cannot be seen from here."""
        if not self.place or self.place != _place():
            return None
        return _start_of(self.pid) != self.started


def interrupt_main() -> None:
    """Ctrl-C for the main thread, which also wakes it where it waits."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


@contextmanager
def sole_writer(
    folder: Folder,
    on_lost: Callable[[], None] = interrupt_main,
    pace: Pace | None = None,
    waiting: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Be the only writer of a folder inside the block.

    `on_lost` is called from another thread when a second writer has taken over, which happens only
    to a process that stood still for long; by default it interrupts the main thread. With `waiting`
    another writer's end is waited for, and it is called once with who writes. Raises StorageError
    naming the other writer, at the start without `waiting` or, if this one was replaced, at the
    end.
    """
    lock = _Lock(folder, on_lost, pace or Pace(), waiting)
    with _ending_on_sigterm(), _hearing_of_its_loss(lock):
        try:
            lock.acquire()
            yield
        except KeyboardInterrupt:
            if lock.lost is not None:
                raise StorageError(lock.lost) from None
            raise
        finally:
            lock.release()
        if lock.lost is not None:
            raise StorageError(lock.lost)


def writer_of(folder: Folder) -> Writer | None:
    """Who writes a run's folder, by its lock file; the process may be gone: see `Writer.gone`."""
    return _parsed(folder.read(LOCK_NAME)) if folder.exists(LOCK_NAME) else None


def require_unwritten(folder: Folder) -> None:
    """Refuse a folder early whose writer is seen to live: before checks that take long.

    One on another machine cannot be seen at a glance, and one may come later: `sole_writer` alone
    is sure. Raises StorageError naming the writer.
    """
    writer = writer_of(folder)
    if writer is not None and writer.gone is False:
        raise StorageError(_taken(folder, _who(writer)))


class _Lock:
    def __init__(
        self,
        folder: Folder,
        on_lost: Callable[[], None],
        pace: Pace,
        waiting: Callable[[str], None] | None,
    ) -> None:
        self.folder = folder
        self.waiting = waiting
        self.on_lost = on_lost
        self.pace = pace
        self.me = Writer.here()
        self.lost: str | None = None
        self._local = is_local(folder.filesystem)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="promptide-writer", daemon=True)

    def acquire(self) -> None:
        """Take the lock, after a while if it has to be seen first whether its writer is gone."""
        reported = False
        while True:
            found = self._read()
            other = None if found is None else self._alive(found)
            if other is not None:
                if self.waiting is None:
                    raise StorageError(_taken(self.folder, other))
                if not reported:
                    self.waiting(other)
                reported = True
                time.sleep(self.pace.beat / 5)
                continue
            with self._alone():
                if self._read() != found:
                    continue  # somebody was faster
                self._write()
            if not self._local:
                time.sleep(self.pace.settle)
                if self._read() != self._bytes():
                    continue
            break
        self._thread.start()

    def release(self) -> None:
        """Stop the beats and remove the file, if it is still this writer's."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        # If the storage is lost, the process that is gone tells the next writer the same.
        with suppress(StorageError), self._alone():
            if self._read() == self._bytes():
                self.folder.delete(LOCK_NAME)

    def _alive(self, found: bytes) -> str | None:
        """Who has the lock, or None if that writer is gone, for which it may have to be watched."""
        other = _parsed(found)
        gone = other.gone if other else None
        if gone is None:
            until = time.monotonic() + self.pace.gone
            while self._read() == found:
                if time.monotonic() > until:
                    return None
                time.sleep(min(self.pace.beat, self.pace.gone) / 4)
            other = _parsed(self._read())
            gone = other is None
        return None if gone else _who(other)

    def _keep(self) -> None:
        while not self._ended.wait(self.pace.beat):
            # Storage that fails now may be back at the next beat; what was missed is seen then.
            with suppress(StorageError), self._alone():
                found = self._read()
                if found != self._bytes():
                    self.lost = _taken(self.folder, _who(_parsed(found)))
                    self.on_lost()
                    return
                self.me = replace(self.me, beats=self.me.beats + 1)
                self._write()

    def _bytes(self) -> bytes:
        return json.dumps(asdict(self.me)).encode()

    def _read(self) -> bytes | None:
        try:
            return self.folder.read(LOCK_NAME) if self.folder.exists(LOCK_NAME) else None
        except StorageError:
            if self.folder.exists(LOCK_NAME):
                raise
            return None  # removed between the two looks

    def _write(self) -> None:
        self.folder.write(LOCK_NAME, self._bytes())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Between looking and writing nobody else does either, where the filesystem can tell."""
        if not self._local:
            yield
            return
        import fcntl

        self.folder.make()
        descriptor = os.open(self.folder.path, os.O_RDONLY)
        try:
            with suppress(OSError):  # a mount without locks: the token and the beats still tell
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _parsed(found: bytes | None) -> Writer | None:
    """The writer in a lock file; None for a torn one, which its bytes alone must then speak for."""
    try:
        return parse_dataclass(Writer, parse_json(found or b""), LOCK_NAME)
    except (ValueError, TypeError):
        return None


def _taken(folder: Folder, who: str) -> str:
    return (
        f"{folder.location} is being written by {who}; wait until it has ended, stop it, or "
        "choose another run_name"
    )


def _who(writer: Writer | None) -> str:
    return f"process {writer.pid} on {writer.host}" if writer else "another process"


def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _start_of(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, unless somebody handles it already."""
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _hearing_of_its_loss(lock: _Lock) -> Iterator[None]:
    """Let a replaced writer be interrupted where Ctrl-C is ignored, as in a script's background.

    There Ctrl-C itself stays ignored.
    """
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return

    def hear(number: int, _: object) -> None:
        if lock.lost is not None:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
