"""Where a worker is, as it says it itself and as another process reads it."""

import os
import threading

import pytest

from system.engine.whereabouts import GATHER, WAIT, Whereabouts, here, new_place
from system.engine.worker_log import PhaseClock


def test_a_place_names_phases_task_epoch_and_step() -> None:
    """It is what a user has to find out why nothing goes on."""
    place = Whereabouts()
    place.task = "a\nb"
    with place.doing("train"), place.training():
        place.at(2, 14)
        with place.doing(GATHER):
            assert str(place) == r"train: gather, task 'a\nb', epoch 2, step 14"
        assert str(place) == r"train, task 'a\nb', epoch 2, step 14"
    assert str(place) == r"between two phases, task 'a\nb'"


def test_each_change_is_a_move_and_standing_is_none() -> None:
    """The watchdog goes by it."""
    place = Whereabouts()
    seen = [place.moves]
    with place.doing("train"):
        seen.append(place.moves)
        place.at(0, 0)
        seen.append(place.moves)
        str(place)
        assert place.moves == seen[-1]
    seen.append(place.moves)
    assert seen == sorted(set(seen))


def test_phases_are_told_but_collectives_are_not() -> None:
    """A training exchanges something at each step: its log would hold nothing else."""
    place, told = Whereabouts(), list[str]()
    place.listener = lambda text: told.append(f"{place}: {text}")
    with place.doing("train"), place.doing(GATHER), place.doing(WAIT):
        pass
    with pytest.raises(KeyError), place.doing("evaluate"):
        raise KeyError
    assert told == ["train: begins", "evaluate: begins"]
    assert place.phases == ()


def test_the_place_can_be_read_from_the_file_that_is_shared() -> None:
    """Of a process that is stopped it is all that is left; a shorter place leaves no rest."""
    place = Whereabouts()
    with place.share("mark") as file:

        def read() -> bytes:
            with open(f"/proc/{os.getpid()}/fd/{file.fileno()}", "rb") as shared:
                return shared.read().partition(b"\0")[0]

        place.task = "x" * 5000
        place.move()
        assert read().startswith(b"mark\nbetween two phases, task 'xxx")
        place.task = None
        with place.doing("commit"):
            assert read() == b"mark\ncommit"
        place.unshare()
        place.move()  # into memory alone
        assert read() == b""


def test_each_worker_of_one_process_has_a_place_of_its_own() -> None:
    """Trials of a sweep may share a process."""
    with new_place() as outer:
        outer.task = "food"
        found: list[str | None] = []
        thread = threading.Thread(target=lambda: found.append(here().task))
        thread.start()
        thread.join()
        assert here() is outer
        with new_place():
            assert here().task is None
        assert found == [None]


def test_a_clocks_phase_is_where_the_worker_is() -> None:
    with new_place() as place, PhaseClock().phase("features"):
        assert place.phases == ("features",)
