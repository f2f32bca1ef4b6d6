"""If these fail, a sweep's processes grow with every trial, or a trial waits for ever."""

import threading

from tuning.run.lasting_thread import LastingThread, lasting_thread


def test_all_jobs_of_a_process_run_in_one_thread_in_turn() -> None:
    seen: list[tuple[int, int]] = []
    jobs = [
        lasting_thread().start(lambda n=n: seen.append((n, threading.get_ident())))  # type: ignore[misc]
        for n in range(3)
    ]
    assert all(job.done.wait(10) for job in jobs)
    assert [n for n, _ in seen] == [0, 1, 2]
    assert len({thread for _, thread in seen}) == 1
    assert seen[0][1] != threading.get_ident()


def test_a_job_is_done_only_when_it_has_ended() -> None:
    hold = threading.Event()
    job = LastingThread().start(lambda: _wait(hold))
    assert not job.done.wait(0.05)
    hold.set()
    assert job.done.wait(10)


def _wait(event: threading.Event) -> None:
    assert event.wait(10)
