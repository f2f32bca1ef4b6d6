"""Ctrl-C works again after Ray Train has run in the process."""

import signal
import time
from contextlib import suppress

import pytest

from system.stages.interrupts import own_interrupt_handler


def test_a_handler_left_behind_is_taken_out() -> None:
    """Ray Train's stays installed after `fit`, and Ctrl-C would do nothing any more."""
    before = signal.getsignal(signal.SIGINT)
    with own_interrupt_handler():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGINT) is before


def test_it_is_taken_out_when_the_run_ends_badly() -> None:
    before = signal.getsignal(signal.SIGINT)

    def run() -> None:
        with own_interrupt_handler():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        run()
    assert signal.getsignal(signal.SIGINT) is before


def test_ray_trains_exit_is_ctrl_c() -> None:
    """Or the command would end without its message, and with another exit code."""

    def run() -> None:
        with own_interrupt_handler():
            raise SystemExit(1)

    with pytest.raises(KeyboardInterrupt):
        run()


def test_a_ctrl_c_that_got_lost_comes_again() -> None:
    """A job that was told to stop would else train on until it is killed."""
    lost = 0

    def run() -> None:
        nonlocal lost
        with own_interrupt_handler(repeat_after=0.05):
            with suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            lost += 1
            time.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert lost == 1
    time.sleep(0.2)  # none comes once the block has ended


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    """A script's background job must not end with its terminal's Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with own_interrupt_handler(repeat_after=0.01):
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.1)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
