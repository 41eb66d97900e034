"""Requests to stop: noted where there is something to save, at once where there is not, and the codes they end with."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from dynlm.runtime.signals import Stopped, raise_on_sigterm, stop_requests

BOTH = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", BOTH)
def test_a_request_is_noted_and_handlers_are_put_back(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in BOTH]
    with pytest.raises(Stopped) as stopped, stop_requests() as request:
        assert not request.requested
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # as a launcher passes it on
        assert request.requested
        request.stop("a file")
    assert (stopped.value.exit_code, stopped.value.saved) == (128 + number, "a file")
    assert [signal.getsignal(each) for each in BOTH] == before


def test_a_request_that_nobody_saw_to_stops_at_the_end() -> None:
    reached = False
    with pytest.raises(Stopped), stop_requests():
        os.kill(os.getpid(), signal.SIGTERM)
        reached = True
    assert reached
    with stop_requests() as request:
        pass
    assert not request.requested


def test_who_asks_a_third_time_waits_for_nothing() -> None:
    times = 0
    with pytest.raises(Stopped), stop_requests():
        for times in range(1, 9):  # noqa: B007 - it ends before
            os.kill(os.getpid(), signal.SIGINT)
    assert times == 3


def test_an_error_is_not_hidden_by_a_request() -> None:
    with pytest.raises(ZeroDivisionError), stop_requests():
        os.kill(os.getpid(), signal.SIGTERM)
        print(1 / 0)


def test_sigterm_stops_at_once_where_nothing_is_to_be_saved() -> None:
    before = signal.getsignal(signal.SIGTERM)
    reached = False
    with pytest.raises(KeyboardInterrupt) as stopped, raise_on_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
        reached = True
    assert not reached
    assert isinstance(stopped.value, Stopped) and stopped.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_thread_leaves_signals_to_the_main_one() -> None:
    seen: list[bool] = []

    def work() -> None:
        with stop_requests() as request, raise_on_sigterm():
            seen.append(request.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
