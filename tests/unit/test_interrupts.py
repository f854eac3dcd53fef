"""A second Ctrl-C waits for the clean-up that the first one started."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from bench.host import interrupts
from bench.host.interrupts import held

NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def handlers() -> object:
    before = {number: signal.getsignal(number) for number in NUMBERS}
    interrupts.listen()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", NUMBERS)
def test_every_one_of_them_ends_the_work(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_clean_up_is_not_cut_short(number: signal.Signals) -> None:
    done = []
    with held():
        os.kill(os.getpid(), number)
        done.append("to the end")
    assert done == ["to the end"]
    with pytest.raises(KeyboardInterrupt):  # and afterwards all is as before
        os.kill(os.getpid(), number)


def test_what_came_meanwhile_can_be_raised_at_the_end() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), held(then_raise=True):
        os.kill(os.getpid(), signal.SIGINT)
        done.append("to the end")
    assert done == ["to the end"]


def test_an_error_inside_is_not_hidden_by_a_signal() -> None:
    with pytest.raises(ValueError, match="inside"), held(then_raise=True):
        os.kill(os.getpid(), signal.SIGINT)
        raise ValueError("inside")


def test_nohup_is_respected() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupts.listen()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_other_threads_hold_nothing() -> None:
    ran = []

    def work() -> None:
        with held():
            ran.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ran == [True]
