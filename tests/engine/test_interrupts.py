"""Ctrl-C works again after Ray Train has run in the process."""

import signal

import pytest

from system.engine.interrupts import own_interrupt_handler


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
